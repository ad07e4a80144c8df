//! Linear probe: softmax regression on frozen features by stochastic gradient descent.

use std::f64::consts::PI;

use empssl_data::rng::{Purpose, Stream};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::EvalError;
use crate::features::{FeatureBank, Signature};
use crate::metrics::Accuracy;

/// Parts of the seed's random stream, so that layer and order share no number with each other or the image loader.
const ORDER_PART: u32 = 1;
const LAYER_PART: u32 = 2;

/// Products in one step up to which a single thread computes it: ten classes of 4096 features in batches of 100 count
/// as small, a hundred such classes do not.
const SMALL_STEP: i64 = 1 << 23;

/// Settings of [`LinearProbe`]; every key must be given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearProbeConfig {
    /// Rate of the first epoch; it falls to zero along a cosine, stepped once an epoch.
    pub lr: f64,
    /// Share of the momentum buffer that survives a step, in `[0, 1)`.
    pub momentum: f64,
    /// Weight decay, on weight and bias.
    pub weight_decay: f64,
    /// Images in one step; the incomplete last batch of an epoch is dropped.
    pub batch_size: i64,
    /// Passes over the training bank.
    pub epochs: usize,
}

impl LinearProbeConfig {
    /// The reference's evaluation (tsb0601/EMP-SSL `func.py:181-236`, with the rate of `evaluate.py:30`).
    pub fn published() -> Self {
        Self { lr: 0.03, momentum: 0.9, weight_decay: 5e-5, batch_size: 100, epochs: 100 }
    }

    fn check(&self) -> Result<(), EvalError> {
        EvalError::check(self.lr > 0.0 && self.lr.is_finite(), "lr", "positive and finite", self.lr)?;
        let fraction = (0.0..1.0).contains(&self.momentum);
        EvalError::check(fraction, "momentum", "at least 0 and below 1", self.momentum)?;
        let decays = self.weight_decay >= 0.0 && self.weight_decay.is_finite();
        EvalError::check(decays, "weight_decay", "at least 0 and finite", self.weight_decay)?;
        EvalError::check(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)?;
        EvalError::check(self.epochs >= 1, "epochs", "at least 1", self.epochs)
    }

    /// The rate of `epoch`, counted from 0.
    fn lr_of(&self, epoch: usize) -> f64 {
        self.lr / 2.0 * (1.0 + (PI * epoch as f64 / self.epochs as f64).cos())
    }
}

/// A linear layer with bias, trained on the softmax cross-entropy of frozen features (tsb0601/EMP-SSL `func.py`,
/// `linear`).
///
/// The first layer is PyTorch's, uniform in `±1/sqrt(h)` for weight and bias, and rows are shuffled anew every epoch;
/// both depend on the seed alone, not on the device.
/// The probe of the last epoch is the result: there is no choice of epochs, and so none on the test images.
#[derive(Clone, Debug)]
pub struct LinearProbe {
    config: LinearProbeConfig,
    seed: u64,
}

impl LinearProbe {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`EvalError::Setting`] for a setting out of range.
    pub fn new(config: &LinearProbeConfig, seed: u64) -> Result<Self, EvalError> {
        config.check()?;
        Ok(Self { config: config.clone(), seed })
    }

    /// Trains on a bank.
    ///
    /// # Errors
    /// [`EvalError::SmallerThanBatch`] when the bank does not fill one batch; [`EvalError::Diverged`].
    pub fn fit(&self, train: &FeatureBank) -> Result<FittedProbe, EvalError> {
        self.fit_observed(train, &mut |_, _| {})
    }

    /// Trains on a bank and scores the probe on a test bank after every epoch; the last score is the result.
    ///
    /// # Errors
    /// As [`LinearProbe::fit`] and [`FittedProbe::score`].
    pub fn fit_with_curve(
        &self,
        train: &FeatureBank,
        test: &FeatureBank,
    ) -> Result<(FittedProbe, Vec<Accuracy>), EvalError> {
        train.signature().check(test)?;
        let mut curve = Vec::with_capacity(self.config.epochs);
        let fitted = self.fit_observed(train, &mut |_, probe| curve.push(probe.score(test)))?;
        Ok((fitted, curve.into_iter().collect::<Result<_, _>>()?))
    }

    /// Trains on a bank and shows the probe to `observer` after every epoch, counted from 1.
    ///
    /// # Errors
    /// As [`LinearProbe::fit`].
    pub fn fit_observed(
        &self,
        train: &FeatureBank,
        observer: &mut dyn FnMut(usize, &FittedProbe),
    ) -> Result<FittedProbe, EvalError> {
        let first = FittedProbe::first(self.seed, train);
        self.descend(first, train, &mut |epoch| self.order(train.n_images(), epoch), observer)
    }

    /// The numbers below `n_rows` in the random order of an epoch.
    fn order(&self, n_rows: i64, epoch: usize) -> Vec<i64> {
        let mut rows: Vec<i64> = (0..n_rows).collect();
        Stream::new(self.seed, Purpose::Order, epoch as u64, 0, ORDER_PART).shuffle(&mut rows);
        rows
    }

    /// The training itself, from a given layer and along given orders of the rows.
    fn descend(
        &self,
        first: FittedProbe,
        train: &FeatureBank,
        order: &mut dyn FnMut(usize) -> Vec<i64>,
        observer: &mut dyn FnMut(usize, &FittedProbe),
    ) -> Result<FittedProbe, EvalError> {
        let batch_size = self.config.batch_size;
        let n_batches = train.n_images() / batch_size;
        if n_batches == 0 {
            let (bank, n_images) = (train.name().to_owned(), train.n_images());
            return Err(EvalError::SmallerThanBatch { bank, n_images, batch_size });
        }
        let _guard = tch::no_grad_guard();
        let small = batch_size * train.width() * train.n_classes() <= SMALL_STEP;
        let _threads = small.then(OneThread::start);
        let mut descent = Descent::new(first, &self.config);
        for epoch in 0..self.config.epochs {
            let rows = Tensor::from_slice(&order(epoch)).to_device(train.features().device());
            for batch in 0..n_batches {
                let rows = rows.narrow(0, batch * batch_size, batch_size);
                let (features, labels) =
                    (train.features().index_select(0, &rows), train.labels().index_select(0, &rows));
                descent.step(self.config.lr_of(epoch), &features, &labels);
            }
            if !descent.probe.is_finite() {
                return Err(EvalError::Diverged { epoch: epoch + 1, lr: self.config.lr });
            }
            observer(epoch + 1, &descent.probe);
        }
        Ok(descent.probe)
    }
}

/// A trained linear layer.
#[derive(Debug)]
pub struct FittedProbe {
    weight: Tensor,
    bias: Tensor,
    train: Signature,
}

impl FittedProbe {
    /// PyTorch's initial `Linear(h, c)`, drawn on the host so that a seed means one layer on every device.
    fn first(seed: u64, train: &FeatureBank) -> Self {
        let (c, h) = (train.n_classes(), train.width());
        let mut stream = Stream::new(seed, Purpose::Order, 0, 0, LAYER_PART);
        let bound = 1.0 / (h as f64).sqrt();
        let mut draw = |count: i64| -> Vec<f64> { (0..count).map(|_| stream.uniform(-bound, bound)).collect() };
        let (weight, bias) = (Tensor::from_slice(&draw(c * h)).view([c, h]), Tensor::from_slice(&draw(c)));
        Self::from_layer(&weight, &bias, train)
    }

    /// A layer on the device and in the kind of the bank; always a copy.
    fn from_layer(weight: &Tensor, bias: &Tensor, train: &FeatureBank) -> Self {
        let alike =
            |tensor: &Tensor| tensor.copy().to_device(train.features().device()).to_kind(train.features().kind());
        Self { weight: alike(weight), bias: alike(bias), train: train.signature() }
    }

    /// Weight `[c, h]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Bias `[c]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// Class scores (logits) `[images, c]` of a bank.
    ///
    /// # Errors
    /// [`EvalError::BanksDiffer`] when the bank differs from the training bank in width, classes, kind or device.
    pub fn class_scores(&self, bank: &FeatureBank) -> Result<Tensor, EvalError> {
        self.train.check(bank)?;
        Ok(self.logits(bank.features()))
    }

    /// Accuracy on a bank.
    ///
    /// # Errors
    /// As [`FittedProbe::class_scores`].
    pub fn score(&self, bank: &FeatureBank) -> Result<Accuracy, EvalError> {
        Accuracy::of(&self.class_scores(bank)?, bank.labels())
    }

    /// `[m, h]` to `[m, c]`.
    fn logits(&self, features: &Tensor) -> Tensor {
        self.bias.addmm(features, &self.weight.tr())
    }

    /// Gradient of the mean softmax cross-entropy of a batch with respect to weight and bias.
    ///
    /// With respect to the logits it is `(softmax - indicator of the label) / b`; the rest is the chain rule of one
    /// layer, written out because a step is so small that recording it for differentiation would cost more than it.
    fn gradient(&self, features: &Tensor, labels: &Tensor) -> (Tensor, Tensor) {
        let mut residual = self.logits(features).softmax(1, None);
        let labels = labels.unsqueeze(1);
        let _ = residual.scatter_add_(1, &labels, &labels.full_like(-1.0).to_kind(residual.kind()));
        residual /= features.size()[0];
        (residual.tr().matmul(features), residual.sum_dim_intlist(0, false, None))
    }

    fn is_finite(&self) -> bool {
        (self.weight.sum(Kind::Double) + self.bias.sum(Kind::Double)).double_value(&[]).is_finite()
    }
}

/// Stochastic gradient descent with momentum and weight decay, without nesterov.
struct Descent<'a> {
    config: &'a LinearProbeConfig,
    probe: FittedProbe,
    /// Zero before the first step, which PyTorch's `buffer = gradient` equals.
    weight_buffer: Tensor,
    bias_buffer: Tensor,
}

impl<'a> Descent<'a> {
    fn new(probe: FittedProbe, config: &'a LinearProbeConfig) -> Self {
        let (weight_buffer, bias_buffer) = (probe.weight.zeros_like(), probe.bias.zeros_like());
        Self { config, probe, weight_buffer, bias_buffer }
    }

    fn step(&mut self, lr: f64, features: &Tensor, labels: &Tensor) {
        let (weight, bias) = self.probe.gradient(features, labels);
        update(self.config, lr, &mut self.probe.weight, weight, &mut self.weight_buffer);
        update(self.config, lr, &mut self.probe.bias, bias, &mut self.bias_buffer);
    }
}

fn update(config: &LinearProbeConfig, lr: f64, parameter: &mut Tensor, mut gradient: Tensor, buffer: &mut Tensor) {
    gradient += &*parameter * config.weight_decay;
    *buffer *= config.momentum;
    *buffer += gradient;
    *parameter -= &*buffer * lr;
}

/// Holds libtorch to one thread until it is dropped.
///
/// A small step is a dozen operations of some ten microseconds. Sharing each between two free cores saves little, and
/// when another program keeps a core busy, every operation waits for that core's turn: seconds become minutes.
struct OneThread {
    n_threads_before: i32,
}

impl OneThread {
    fn start() -> Self {
        let n_threads_before = tch::get_num_threads();
        tch::set_num_threads(1);
        Self { n_threads_before }
    }
}

impl Drop for OneThread {
    fn drop(&mut self) {
        tch::set_num_threads(self.n_threads_before);
    }
}

/// What [`best_of_rates`] found.
#[derive(Debug)]
pub struct BestOfRates {
    /// The rate that won.
    pub lr: f64,
    /// Its accuracy on the test bank.
    pub accuracy: Accuracy,
    /// Its probe.
    pub probe: FittedProbe,
}

/// The rates among which a linear probe on raw pixels is chosen: pixels are far larger than an encoder's features, so
/// the published rate alone would be an unfair rival.
pub const PIXEL_RATES: [f64; 3] = [0.03, 0.003, 0.0003];

/// Fits one probe for each rate, all else equal, and keeps the one with the best top-1 on the **test** bank; of equal
/// ones the first listed.
///
/// Choosing on the test images favours the result.
/// That is wanted for a baseline such as raw pixels, which must not be beaten by a badly chosen rate, and would be
/// wrong for the encoder under test: that one gets [`LinearProbe::fit`] at the published rate.
///
/// # Errors
/// [`EvalError::Setting`] when there is no rate or one is out of range; as [`LinearProbe::fit`] and
/// [`FittedProbe::score`].
pub fn best_of_rates(
    config: &LinearProbeConfig,
    rates: &[f64],
    seed: u64,
    train: &FeatureBank,
    test: &FeatureBank,
) -> Result<BestOfRates, EvalError> {
    train.signature().check(test)?;
    let mut best: Option<BestOfRates> = None;
    for &lr in rates {
        let probe = LinearProbe::new(&LinearProbeConfig { lr, ..config.clone() }, seed)?.fit(train)?;
        let accuracy = probe.score(test)?;
        if best.as_ref().is_none_or(|best| accuracy.top1 > best.accuracy.top1) {
            best = Some(BestOfRates { lr, accuracy, probe });
        }
    }
    best.ok_or(EvalError::Setting { key: "rates", expected: "at least one rate", found: "none".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::top_k;
    use crate::testing::{PRECISIONS, bank, clusters, golden_bank, integers, numbers, refusal, values};
    use empssl_golden::{Family, Tensors, assert_close};
    use serde_json::Value;

    fn cases<'a>(family: &'a Family, kind: &str) -> Vec<(&'a Value, Tensors)> {
        let of_kind = family.cases().iter().filter(|case| case["kind"] == kind);
        of_kind.map(|case| (case, family.tensors(case["file"].as_str().unwrap()))).collect()
    }

    /// The reference's accuracy of an epoch: the mean over batches of the batches' accuracies.
    fn mean_of_batches(probe: &FittedProbe, test: &FeatureBank, batch: i64) -> f64 {
        let scores = probe.class_scores(test).unwrap().split(batch, 0);
        let labels = test.labels().split(batch, 0);
        let percent = scores.iter().zip(&labels).map(|(scores, labels)| top_k(scores, labels, &[1]).unwrap()[0]);
        percent.sum::<f64>() / scores.len() as f64
    }

    fn replay(case: &Value, tensors: &Tensors, (kind, precision): (Kind, &str)) {
        let (train, test) = (golden_bank(tensors, case, "train", kind), golden_bank(tensors, case, "test", kind));
        let (order, n_train) = (tensors.get("order").i64(), train.n_images() as usize);
        let epochs = order.len() / n_train;
        let config = LinearProbeConfig { lr: case["lr"].as_f64().unwrap(), epochs, ..LinearProbeConfig::published() };
        let layer = |name: &str| numbers(tensors, name, kind);
        let first = FittedProbe::from_layer(&layer("init_weight"), &layer("init_bias"), &train);
        let mut rows = |epoch: usize| order[epoch * n_train..(epoch + 1) * n_train].to_vec();

        let mut curve = Vec::new();
        let mut observer = |_: usize, probe: &FittedProbe| curve.push(mean_of_batches(probe, &test, config.batch_size));
        let probe = LinearProbe::new(&config, 0).unwrap();
        let fitted = probe.descend(first, &train, &mut rows, &mut observer).unwrap();

        let tolerance = case["tolerance"][format!("final_weight_{precision}")].as_f64().unwrap();
        assert_close("final_weight", &values(fitted.weight()), &tensors.get("final_weight").f64(), tolerance);
        assert_close("final_bias", &values(fitted.bias()), &tensors.get("final_bias").f64(), tolerance);
        let truth: Vec<f64> =
            case["epochs"]["test_top1"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        // One row near a boundary may flip in float32; in the smallest batch it weighs most.
        let smallest = (test.n_images() - 1) % config.batch_size + 1;
        let flip = 100.0 / smallest as f64 / (test.n_images() as f64 / config.batch_size as f64).ceil();
        assert_close("test_top1", &curve, &truth, if kind == Kind::Double { 1e-3 } else { 1e-3 + flip });
        let by_sample = fitted.score(&test).unwrap().top1;
        assert!((by_sample - case["test_top1_by_sample"].as_f64().unwrap()).abs() < 1e-9 || kind == Kind::Float);
    }

    #[test]
    fn golden_probe_follows_the_reference_along_a_given_order() {
        let Some(family) = Family::open("linear") else { return };
        for (case, tensors) in cases(&family, "sgd") {
            PRECISIONS.into_iter().for_each(|precision| replay(case, &tensors, precision));
        }
    }

    #[test]
    fn golden_probe_scores_like_the_reference_with_its_own_order() {
        let Some(family) = Family::open("linear") else { return };
        for (case, tensors) in cases(&family, "optimum") {
            let [train, test] = ["train", "test"].map(|name| golden_bank(&tensors, case, name, Kind::Float));
            let top1 = LinearProbe::new(&LinearProbeConfig::published(), 5).unwrap();
            let top1 = top1.fit(&train).unwrap().score(&test).unwrap().top1;
            for run in case["official_linear_best_and_last_top1"]["runs"].as_array().unwrap() {
                let last = run[1].as_f64().unwrap();
                assert!((top1 - last).abs() <= 2.5, "{}: {top1} against {last}", case["name"]);
            }
        }
    }

    #[test]
    fn golden_optimum_of_the_regularised_loss_has_no_gradient() {
        let Some(family) = Family::open("linear") else { return };
        for (case, tensors) in cases(&family, "optimum") {
            let train = golden_bank(&tensors, case, "train", Kind::Double);
            let layer = |name: &str| numbers(&tensors, name, Kind::Double);
            let optimum = FittedProbe::from_layer(&layer("weight"), &layer("bias"), &train);
            let (weight, bias) = optimum.gradient(train.features(), train.labels());
            let weight = weight + optimum.weight() * case["lambda"].as_f64().unwrap();
            let limit = 10.0 * case["gradient_max_abs_at_optimum"].as_f64().unwrap();
            assert_close("weight", &values(&weight), &vec![0.0; weight.numel()], limit);
            assert_close("bias", &values(&bias), &vec![0.0; bias.numel()], limit);
            let scores = optimum.class_scores(&golden_bank(&tensors, case, "test", Kind::Double)).unwrap();
            let ambiguous = case["ambiguous_test_rows"].as_array().unwrap().len() as f64 / scores.size()[0] as f64;
            let agreed = top_k(&scores, &integers(&tensors, "test_prediction"), &[1]).unwrap()[0];
            assert!(agreed >= 100.0 * (1.0 - ambiguous) - 1e-9, "predictions agree on {agreed} %");
        }
    }

    #[test]
    fn the_written_gradient_is_the_differentiated_one() {
        for (kind, tolerance) in [(Kind::Double, 1e-15), (Kind::Float, 3e-7)] {
            let train = clusters("train", 30, 0.5, kind);
            let probe = FittedProbe::first(3, &train);
            let (weight, bias) = probe.gradient(train.features(), train.labels());
            let leaf = FittedProbe::from_layer(&probe.weight, &probe.bias, &train);
            let (w, b) = (leaf.weight.set_requires_grad(true), leaf.bias.set_requires_grad(true));
            let log_likelihood = train.features().linear(&w, Some(&b)).log_softmax(1, None);
            log_likelihood.nll_loss(train.labels()).backward();
            assert_close("weight", &values(&weight), &values(&w.grad()), tolerance);
            assert_close("bias", &values(&bias), &values(&b.grad()), tolerance);
        }
    }

    fn config(epochs: usize) -> LinearProbeConfig {
        LinearProbeConfig { batch_size: 8, epochs, ..LinearProbeConfig::published() }
    }

    #[test]
    fn the_last_epoch_is_the_result_and_the_end_of_the_curve() {
        let (train, test) = (clusters("train", 44, 0.4, Kind::Double), clusters("test", 21, 0.6, Kind::Double));
        let probe = LinearProbe::new(&config(30), 1).unwrap();
        let (fitted, curve) = probe.fit_with_curve(&train, &test).unwrap();
        assert_eq!(curve.len(), 30);
        assert_eq!(curve[29], fitted.score(&test).unwrap());
        assert!(curve[29].top1 > 90.0 && curve[29].top1 > curve[0].top1, "{curve:?}");
        assert_eq!(values(fitted.weight()), values(probe.fit(&train).unwrap().weight()));
        let mut epochs = Vec::new();
        probe.fit_observed(&train, &mut |epoch, _| epochs.push(epoch)).unwrap();
        assert_eq!(epochs, (1..=30).collect::<Vec<_>>());
    }

    #[test]
    fn a_small_fit_takes_one_thread_and_gives_the_others_back() {
        let train = clusters("train", 16, 0.4, Kind::Float);
        let before = tch::get_num_threads();
        tch::set_num_threads(3);
        let mut during = Vec::new();
        let observer = &mut |_: usize, _: &FittedProbe| during.push(tch::get_num_threads());
        LinearProbe::new(&config(2), 0).unwrap().fit_observed(&train, observer).unwrap();
        assert_eq!((during, tch::get_num_threads()), (vec![1, 1], 3));
        tch::set_num_threads(before);
    }

    #[test]
    fn the_seed_decides_layer_and_order() {
        let train = clusters("train", 40, 0.4, Kind::Double);
        let fit = |seed| values(LinearProbe::new(&config(2), seed).unwrap().fit(&train).unwrap().weight());
        assert_eq!(fit(1), fit(1));
        assert_ne!(fit(1), fit(2));
        let order = |seed, epoch| LinearProbe::new(&config(2), seed).unwrap().order(40, epoch);
        let mut sorted = order(1, 0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..40).collect::<Vec<_>>());
        assert!(order(1, 0) != sorted && order(1, 0) != order(1, 1) && order(1, 0) != order(2, 0));
    }

    #[test]
    fn every_epoch_is_fitted_along_its_own_order() {
        let train = clusters("train", 40, 0.4, Kind::Double);
        let probe = LinearProbe::new(&config(2), 1).unwrap();
        let along = |order: &mut dyn FnMut(usize) -> Vec<i64>| {
            values(probe.descend(FittedProbe::first(1, &train), &train, order, &mut |_, _| {}).unwrap().weight())
        };
        assert_eq!(values(probe.fit(&train).unwrap().weight()), along(&mut |epoch| probe.order(40, epoch)));
        assert_ne!(values(probe.fit(&train).unwrap().weight()), along(&mut |_| probe.order(40, 0)));
    }

    #[test]
    fn the_first_layer_is_uniform_within_one_over_the_root_of_the_width() {
        let features = Tensor::zeros([1, 400], (Kind::Float, tch::Device::Cpu));
        let train = FeatureBank::new("train", &features, &Tensor::from_slice(&[0i64]), 50).unwrap();
        let first = FittedProbe::first(0, &train);
        let (weight, bound) = (values(first.weight()), 0.05);
        assert!(weight.iter().chain(&values(first.bias())).all(|value| value.abs() <= bound));
        let (mean, n) = (weight.iter().sum::<f64>() / 20_000.0, weight.len() as f64);
        let deviation = (weight.iter().map(|value| value * value).sum::<f64>() / n).sqrt();
        assert!(mean.abs() < 5.0 * bound / (3.0 * n).sqrt(), "{mean}");
        assert!((deviation / (bound / 3.0f64.sqrt()) - 1.0).abs() < 0.02, "{deviation}");
    }

    #[test]
    fn the_rate_falls_along_a_cosine_of_whole_epochs() {
        let config = LinearProbeConfig { lr: 0.2, epochs: 4, ..LinearProbeConfig::published() };
        let rates: Vec<f64> = (0..4).map(|epoch| config.lr_of(epoch)).collect();
        let half = 0.5f64.sqrt();
        assert_close("rates", &rates, &[0.2, 0.1 * (1.0 + half), 0.1, 0.1 * (1.0 - half)], 1e-15);
    }

    #[test]
    fn the_best_of_several_rates_is_the_best_on_the_test_bank() {
        let (train, test) = (clusters("train", 44, 0.4, Kind::Double), clusters("test", 21, 0.6, Kind::Double));
        let tops = [1e-6, 0.03, 0.031].map(|lr| {
            let probe = LinearProbe::new(&LinearProbeConfig { lr, ..config(20) }, 0).unwrap();
            probe.fit(&train).unwrap().score(&test).unwrap().top1
        });
        assert!(tops[0] < tops[1] && tops[1] == tops[2], "the example does not separate the rates: {tops:?}");
        let best = best_of_rates(&config(20), &[1e-6, 0.03, 0.031], 0, &train, &test).unwrap();
        assert_eq!((best.lr, best.accuracy.top1), (0.03, tops[1]));
        assert_eq!(best.probe.score(&test).unwrap(), best.accuracy);
        let message = refusal(best_of_rates(&config(20), &[], 0, &train, &test));
        assert_eq!(message, "`rates` must be at least one rate, found none");
    }

    #[test]
    fn a_class_without_training_images_is_scored_but_not_found() {
        let train = bank("train", &[[1.0, 0.0], [0.0, 1.0]], &[0, 1], 3);
        let test = bank("test", &[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], &[0, 1, 2], 3);
        let config = LinearProbeConfig { batch_size: 2, ..LinearProbeConfig::published() };
        let accuracy = LinearProbe::new(&config, 0).unwrap().fit(&train).unwrap().score(&test).unwrap();
        assert!((accuracy.top1 - 200.0 / 3.0).abs() < 1e-9, "{accuracy:?}");
    }

    #[test]
    fn refuses_settings_without_meaning() {
        let base = LinearProbeConfig::published;
        let refused = [
            ("lr", LinearProbeConfig { lr: f64::NAN, ..base() }),
            ("lr", LinearProbeConfig { lr: 0.0, ..base() }),
            ("lr", LinearProbeConfig { lr: f64::INFINITY, ..base() }),
            ("momentum", LinearProbeConfig { momentum: f64::NAN, ..base() }),
            ("momentum", LinearProbeConfig { momentum: 1.0, ..base() }),
            ("weight_decay", LinearProbeConfig { weight_decay: f64::NAN, ..base() }),
            ("weight_decay", LinearProbeConfig { weight_decay: -1e-9, ..base() }),
            ("batch_size", LinearProbeConfig { batch_size: 0, ..base() }),
            ("epochs", LinearProbeConfig { epochs: 0, ..base() }),
        ];
        for (key, config) in refused {
            let message = refusal(LinearProbe::new(&config, 0));
            assert!(message.starts_with(&format!("`{key}` must be ")), "{config:?}: {message}");
        }
        let text = serde_json::to_string(&base()).unwrap();
        assert_eq!(serde_json::from_str::<LinearProbeConfig>(&text).unwrap(), base());
        let error =
            serde_json::from_str::<LinearProbeConfig>(&text.replace("epochs", "epoch")).unwrap_err().to_string();
        assert!(error.contains("unknown field `epoch`"), "{error}");
    }

    #[test]
    fn refuses_a_bank_that_does_not_fill_a_batch() {
        let train = clusters("train", 7, 0.1, Kind::Float);
        let message = refusal(LinearProbe::new(&config(1), 0).unwrap().fit(&train));
        assert_eq!(
            message,
            "the bank `train` holds 7 images, fewer than one batch of 8, and incomplete batches are dropped: lower \
             `batch_size` to at most 7, or give more images"
        );
    }

    #[test]
    fn refuses_a_test_bank_of_another_width() {
        let train = clusters("train", 8, 0.1, Kind::Double);
        let test = bank("test", &[[1.0]], &[0], 4);
        let probe = LinearProbe::new(&config(1), 0).unwrap();
        for message in [
            refusal(probe.fit_with_curve(&train, &test)),
            refusal(probe.fit(&train).unwrap().score(&test)),
            refusal(best_of_rates(&config(1), &PIXEL_RATES, 0, &train, &test)),
        ] {
            assert!(message.starts_with("the bank `test` has 1 features"), "{message}");
        }
    }

    #[test]
    fn a_diverging_probe_is_an_error_not_a_score() {
        let train = bank("train", &[[3e38, 1.0], [-3e38, 1.0]], &[0, 1], 2);
        let features = train.features().to_kind(Kind::Float);
        let train = FeatureBank::new("train", &features, train.labels(), 2).unwrap();
        let config = LinearProbeConfig { batch_size: 2, lr: 100.0, ..LinearProbeConfig::published() };
        let message = refusal(LinearProbe::new(&config, 0).unwrap().fit(&train));
        assert!(message.starts_with("the linear probe diverged in epoch "), "{message}");
        assert!(message.contains("at lr 100"), "{message}");
    }
}
