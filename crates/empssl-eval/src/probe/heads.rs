//! Many linear layers that learn at once, each at its own rate and weight decay, from the same batches.

use empssl_torch::lists;
use tch::{Kind, Tensor};

use super::layer::FittedProbe;
use super::part::Part;
use super::threads::Threads;
use super::{fall, n_batches, order};
use crate::error::EvalError;
use crate::metrics::top_k;

/// The buffer is renewed when momentum has left so much of it; see [`Heads::begin_step`].
const LEAST_SCALE: f64 = 1e-3;

/// Numbers of a part of the weights that a step finishes before it goes on to the next: 1 MiB in float32.
const CACHED_NUMBERS: i64 = 1 << 18;

/// How one head descends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HeadSetting {
    pub(super) lr: f64,
    pub(super) weight_decay: f64,
}

/// What all heads have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    pub(super) momentum: f64,
    pub(super) batch_size: i64,
    pub(super) epochs: usize,
    pub(super) seed: u64,
}

/// What a head scores on held-out images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HeldOut {
    pub(super) top1: f64,
    pub(super) cross_entropy: f64,
}

/// The layers side by side: one product gives the logits of all, one the gradients of all.
///
/// All begin at the same layer and see the same batches, those of [`super::LinearProbe`] at the same seed; so each ends
/// where that probe ends at its setting, up to rounding.
pub(super) struct Heads {
    n_heads: i64,
    n_classes: i64,
    momentum: f64,
    /// `[h, heads * classes]`; its products with batches are the fastest this way round.
    weight: Tensor,
    /// `[1, heads * classes]`
    bias: Tensor,
    /// Momentum times rate, over `scale`.
    weight_buffer: Tensor,
    bias_buffer: Tensor,
    scale: f64,
    /// Rate of each head `[heads, 1, 1]`.
    rates: Tensor,
    /// Rate times weight decay of each column, `[1, heads * classes]`; none when no weight decays.
    decays: Option<Tensor>,
}

impl Heads {
    pub(super) fn new(settings: &[HeadSetting], momentum: f64, first: &FittedProbe) -> Self {
        let (n_heads, n_classes) = (settings.len() as i64, first.bias().size()[0]);
        let like = |numbers: Vec<f64>| {
            Tensor::from_slice(&numbers).to_kind(first.bias().kind()).to_device(first.bias().device())
        };
        let weight = first.weight().tr().repeat([1, n_heads]);
        let bias = first.bias().unsqueeze(0).repeat([1, n_heads]);
        let rates = like(settings.iter().map(|setting| setting.lr).collect()).view([n_heads, 1, 1]);
        let decays = like(settings.iter().map(|setting| setting.lr * setting.weight_decay).collect());
        let decays = settings.iter().any(|setting| setting.weight_decay > 0.0).then_some(decays);
        let decays = decays.map(|decays| decays.repeat_interleave_self_int(n_classes, 0, None).unsqueeze(0));
        let (weight_buffer, bias_buffer) = (weight.zeros_like(), bias.zeros_like());
        Self { n_heads, n_classes, momentum, weight, bias, weight_buffer, bias_buffer, scale: 1.0, rates, decays }
    }

    /// Trains all heads on a part of a bank.
    pub(super) fn fit(settings: &[HeadSetting], course: &Course, train: &Part<'_>) -> Result<Self, EvalError> {
        let n_batches = n_batches(train.bank().name(), train.n_images(), course.batch_size)?;
        let _guard = tch::no_grad_guard();
        let first = FittedProbe::first(course.seed, train.bank());
        let mut heads = Self::new(settings, course.momentum, &first);
        let outputs = heads.n_heads * heads.n_classes;
        let _threads = Threads::for_step(course.batch_size * train.bank().width() * outputs);
        for epoch in 0..course.epochs {
            let rows = train.rows_of(&order(course.seed, train.n_images(), epoch));
            for batch in 0..n_batches {
                let (features, labels) = train.gather(&rows.narrow(0, batch * course.batch_size, course.batch_size));
                heads.step(fall(epoch, course.epochs), &features, &labels)?;
            }
        }
        Ok(heads)
    }

    /// One step of stochastic gradient descent; `fall` is what every rate is multiplied by.
    ///
    /// With the rate `r` and the decay `w` of a head: `v = momentum * v + r * (gradient + w * parameter)`, then
    /// `parameter -= fall * v`, which is PyTorch's step while `r` does not change, with a buffer that holds `r` already.
    pub(super) fn step(&mut self, fall: f64, features: &Tensor, labels: &Tensor) -> Result<(), EvalError> {
        self.begin_step();
        let residual = self.residual(features, labels);
        // The buffers are `v / scale`.
        let residual = residual / (self.scale * features.size()[0] as f64);
        let decays = self.decays.as_ref().map(|decays| decays / self.scale);
        self.bias_buffer += residual.sum_dim_intlist(1, false, None).unsqueeze(0);
        descend(&self.bias, &self.bias_buffer, decays.as_ref(), -fall * self.scale)?;
        let (features, residual) = (features.tr(), residual.tr());
        // Part by part, so that what the product has just written is still in the processor's cache.
        let width = self.weight.size()[0];
        let rows = (CACHED_NUMBERS / self.weight.size()[1]).clamp(1, width);
        for start in (0..width).step_by(rows as usize) {
            let part = |of: &Tensor| of.narrow(0, start, rows.min(width - start));
            let (weight, mut buffer) = (part(&self.weight), part(&self.weight_buffer));
            let _ = buffer.addmm_(&part(&features), &residual);
            descend(&weight, &buffer, decays.as_ref(), -fall * self.scale)?;
        }
        Ok(())
    }

    /// Momentum shrinks the buffers at every step. They are kept divided by how far they have shrunk, so that only every
    /// so many steps a pass over memory is spent on it.
    fn begin_step(&mut self) {
        self.scale *= self.momentum;
        if self.scale < LEAST_SCALE {
            self.weight_buffer *= self.scale;
            self.bias_buffer *= self.scale;
            self.scale = 1.0;
        }
    }

    /// Rate times the gradient of the summed cross-entropy with respect to the logits, `[heads * classes, b]`.
    ///
    /// The images are innermost: a softmax over few classes is several times faster across than along them.
    fn residual(&self, features: &Tensor, labels: &Tensor) -> Tensor {
        let n_images = features.size()[0];
        let logits = self.logits(features).tr().contiguous().view([self.n_heads, self.n_classes, n_images]);
        let mut residual = logits.softmax(1, None);
        let labels = labels.expand([self.n_heads, 1, n_images], false);
        let _ = residual.scatter_add_(1, &labels, &labels.full_like(-1.0).to_kind(residual.kind()));
        residual *= &self.rates;
        residual.view([self.n_heads * self.n_classes, n_images])
    }

    /// `[m, h]` to `[m, heads * classes]`
    fn logits(&self, features: &Tensor) -> Tensor {
        self.bias.addmm(features, &self.weight)
    }

    /// What each head scores on a part of a bank; nothing for a head that has diverged.
    pub(super) fn score(&self, held: &Part<'_>) -> Result<Vec<Option<HeldOut>>, EvalError> {
        let _guard = tch::no_grad_guard();
        let kind = self.weight.kind();
        let logits: Vec<Tensor> = held.chunks(kind).map(|(features, _)| self.logits(&features)).collect();
        let (logits, labels) = (Tensor::cat(&logits, 0), held.labels());
        (0..self.n_heads).map(|head| self.score_one(&self.columns(&logits, head), &labels)).collect()
    }

    fn score_one(&self, logits: &Tensor, labels: &Tensor) -> Result<Option<HeldOut>, EvalError> {
        let cross_entropy = logits.log_softmax(1, Kind::Double).nll_loss(labels).double_value(&[]);
        let top1 = top_k(logits, labels, &[1])?[0];
        Ok(cross_entropy.is_finite().then_some(HeldOut { top1, cross_entropy }))
    }

    /// The columns of one head.
    fn columns(&self, of: &Tensor, head: i64) -> Tensor {
        of.narrow(1, head * self.n_classes, self.n_classes)
    }

    /// The layer of one head.
    #[cfg(test)]
    fn layer(&self, head: i64) -> (Tensor, Tensor) {
        (self.columns(&self.weight, head).tr().contiguous(), self.columns(&self.bias, head).squeeze_dim(0))
    }
}

/// `buffer += decays * parameter`, then `parameter += alpha * buffer`, in place.
fn descend(parameter: &Tensor, buffer: &Tensor, decays: Option<&Tensor>, alpha: f64) -> Result<(), EvalError> {
    if let Some(decays) = decays {
        let _ = buffer.shallow_clone().addcmul_(parameter, decays);
    }
    Ok(lists::add(&[parameter], &[buffer], alpha)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::FeatureBank;
    use crate::probe::{LinearProbe, LinearProbeConfig};
    use crate::testing::{clusters, values};
    use empssl_golden::max_abs_diff;

    const SETTINGS: [HeadSetting; 3] = [
        HeadSetting { lr: 0.3, weight_decay: 0.0 },
        HeadSetting { lr: 0.03, weight_decay: 0.01 },
        HeadSetting { lr: 0.1, weight_decay: 0.3 },
    ];

    fn course(momentum: f64, epochs: usize) -> Course {
        Course { momentum, batch_size: 8, epochs, seed: 5 }
    }

    #[test]
    fn every_head_ends_where_the_probe_ends_at_its_setting() {
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 2e-5)] {
            let train = clusters("train", 44, 0.4, kind);
            for momentum in [0.0, 0.5, 0.9] {
                let course = course(momentum, 30);
                let heads = Heads::fit(&SETTINGS, &course, &Part::whole(&train)).unwrap();
                for (head, HeadSetting { lr, weight_decay }) in SETTINGS.into_iter().enumerate() {
                    let config = LinearProbeConfig { lr, momentum, weight_decay, batch_size: 8, epochs: 30 };
                    let alone = LinearProbe::new(&config, 5).unwrap().fit(&train).unwrap();
                    let (weight, bias) = heads.layer(head as i64);
                    let away = max_abs_diff(&values(&weight), &values(alone.weight()))
                        .max(max_abs_diff(&values(&bias), &values(alone.bias())));
                    assert!(away < tolerance, "{kind:?}, momentum {momentum}, head {head}: {away:e}");
                }
            }
        }
    }

    #[test]
    fn weights_that_are_stepped_in_several_parts_end_where_one_head_alone_ends() {
        let options = (Kind::Double, tch::Device::Cpu);
        tch::manual_seed(4);
        let features = Tensor::randn([24, 300], options);
        let labels = Tensor::arange(24, (Kind::Int64, tch::Device::Cpu)).remainder(4);
        let train = FeatureBank::new("train", &features, &labels, 4).unwrap();
        let settings: Vec<_> = SETTINGS.into_iter().cycle().take(300).collect();
        assert!(300 * 300 * 4 > CACHED_NUMBERS, "the example has one part only");
        let heads = Heads::fit(&settings, &course(0.9, 10), &Part::whole(&train)).unwrap();
        for (head, setting) in settings.iter().enumerate().take(3) {
            let HeadSetting { lr, weight_decay } = *setting;
            let config = LinearProbeConfig { lr, momentum: 0.9, weight_decay, batch_size: 8, epochs: 10 };
            let alone = LinearProbe::new(&config, 5).unwrap().fit(&train).unwrap();
            let (weight, _) = heads.layer(head as i64);
            assert!(max_abs_diff(&values(&weight), &values(alone.weight())) < 1e-12, "head {head}");
        }
    }

    #[test]
    fn a_part_is_fitted_like_a_bank_of_its_rows() {
        let train = clusters("train", 50, 0.4, Kind::Double);
        let rows: Vec<i64> = (0..50).filter(|row| row % 3 != 1).collect();
        let part = Part::some(&train, &rows);
        let (features, labels) = part.gather(&Tensor::from_slice(&rows));
        let copy = FeatureBank::new("copy", &features, &labels, 4).unwrap();
        let fit = |part: &Part<'_>| values(&Heads::fit(&SETTINGS, &course(0.9, 3), part).unwrap().weight);
        assert_eq!(fit(&part), fit(&Part::whole(&copy)));
    }

    #[test]
    fn a_head_that_diverges_harms_no_other_and_has_no_score() {
        let (train, held) = (clusters("train", 44, 0.4, Kind::Float), clusters("held", 21, 0.6, Kind::Float));
        let wild = HeadSetting { lr: 1e30, weight_decay: 1.0 };
        let scores = |settings: &[HeadSetting]| {
            let heads = Heads::fit(settings, &course(0.9, 20), &Part::whole(&train)).unwrap();
            heads.score(&Part::whole(&held)).unwrap()
        };
        let scores_with = scores(&[SETTINGS[0], wild, SETTINGS[1]]);
        assert_eq!(scores_with[1], None);
        assert_eq!([scores_with[0], scores_with[2]], scores(&SETTINGS)[..2]);
        assert!(scores_with[0].unwrap().top1 > 90.0, "{scores_with:?}");
    }

    #[test]
    fn held_out_scores_are_accuracy_and_cross_entropy() {
        let held = clusters("held", 21, 0.6, Kind::Double);
        let first = FittedProbe::first(1, &held);
        let score = Heads::new(&SETTINGS, 0.9, &first).score(&Part::whole(&held)).unwrap()[2].unwrap();
        assert_eq!(score.top1, first.score(&held).unwrap().top1);
        let truth = first.class_scores(&held).unwrap().log_softmax(1, None).nll_loss(held.labels()).double_value(&[]);
        assert!((score.cross_entropy - truth).abs() < 1e-12);
    }
}
