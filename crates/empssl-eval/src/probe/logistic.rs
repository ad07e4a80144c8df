//! The probe without settings: the optimum of the regularised loss, its strength chosen on held-out images.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::curvature::Curvature;
use super::holdout::Holdout;
use super::layer::FittedProbe;
use super::lbfgs::Stop;
use super::part::{Part, Scaling};
use super::softmax::{Layer, Optimum, SoftmaxLoss};
use crate::error::EvalError;
use crate::features::FeatureBank;
use crate::metrics::top_k;

/// Strengths that are tried, from the strongest, each half a decade below the one before: 0.1 to 0.000001.
const N_STRENGTHS: i32 = 11;

/// Strengths in a row that may fail to improve before weaker ones are left out: they take the longest.
const PATIENCE: usize = 3;

/// The strength where no image can be held out to choose one.
const UNCHOSEN_STRENGTH: f64 = 1e-2;

/// What products are computed in; everything else is float64 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbePrecision {
    /// The kind of the features.
    Features,
    /// float64, a few rows at a time.
    Float64,
}

/// How exactly [`LogisticProbe`] computes; none of it is a choice that moves the optimum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogisticProbeConfig {
    /// What products are computed in.
    pub precision: ProbePrecision,
    /// Most steps of the search at one strength.
    pub max_iterations: usize,
}

impl LogisticProbeConfig {
    /// In the features' own kind, with more steps than the search takes on features of any sense.
    pub fn usual() -> Self {
        Self { precision: ProbePrecision::Features, max_iterations: 500 }
    }
}

/// A strength that was tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathPoint {
    /// The penalty over the mean squared distance of the features from their mean.
    pub strength: f64,
    /// Top-1 on the held-out images in percent.
    pub held_out_top1: f64,
    /// Steps of the search, from the optimum at the strength before.
    pub iterations: usize,
    /// Whether the gradient became as small as asked for.
    pub converged: bool,
}

/// What [`LogisticProbe`] found.
#[derive(Debug)]
pub struct LogisticFit {
    /// The probe, of the kind of the features.
    pub probe: FittedProbe,
    /// The penalty over the mean squared distance of the features from their mean.
    pub strength: f64,
    /// The penalty λ of the loss.
    pub penalty: f64,
    /// The loss at the optimum.
    pub loss: f64,
    /// Steps of the last search.
    pub iterations: usize,
    /// Whether its gradient became as small as asked for.
    pub converged: bool,
    /// The strengths that were tried; none where no image could be held out or the penalty was given.
    pub path: Vec<PathPoint>,
}

/// Multinomial logistic regression: the layer of least mean cross-entropy plus `λ/2 |W|²`, the bias free.
///
/// The loss has one optimum, found by L-BFGS over all images at once, so there is no rate, no batch and no order to
/// choose. The strength of the penalty is chosen from a fixed path on a held-out tenth of the training images, and the
/// optimum at that strength is found again on all of them. The path is in multiples of the features' variance, which
/// makes the probe indifferent to the unit that features are measured in.
///
/// Deterministic on a CPU for a given number of threads. Memory beyond the bank: some 8 MiB of rows, 25 layers in
/// float64, and for features of up to 4,096 numbers some five squares of their width in float64, by which the search
/// knows their principal axes.
#[derive(Clone, Debug)]
pub struct LogisticProbe {
    config: LogisticProbeConfig,
    seed: u64,
}

impl LogisticProbe {
    /// Checks the settings; the seed decides which images are held out.
    ///
    /// # Errors
    /// [`EvalError::Setting`] for no iterations.
    pub fn new(config: &LogisticProbeConfig, seed: u64) -> Result<Self, EvalError> {
        EvalError::check(config.max_iterations >= 1, "max_iterations", "at least 1", config.max_iterations)?;
        Ok(Self { config: config.clone(), seed })
    }

    /// Chooses the strength and fits the whole bank.
    ///
    /// Where every class has a single image nothing can be held out, and the strength is 0.01.
    ///
    /// # Errors
    /// [`EvalError::Shape`] for features whose logits overflow.
    pub fn fit(&self, train: &FeatureBank) -> Result<LogisticFit, EvalError> {
        let whole = Whole::of(train, self.kind(train));
        let chosen = match Holdout::draw(train, self.seed) {
            Some(holdout) => self.choose(train, &holdout, whole.curvature.as_ref())?,
            None => Chosen::given(UNCHOSEN_STRENGTH, &whole.images),
        };
        Ok(self.fit_from(train, &whole, chosen))
    }

    /// Fits the whole bank at a given penalty λ.
    ///
    /// # Errors
    /// [`EvalError::Setting`] for a penalty that is negative or not finite.
    pub fn fit_at(&self, train: &FeatureBank, penalty: f64) -> Result<LogisticFit, EvalError> {
        EvalError::check(penalty >= 0.0 && penalty.is_finite(), "penalty", "at least 0 and finite", penalty)?;
        let whole = Whole::of(train, self.kind(train));
        let given = Chosen::given(penalty / whole.scaling.spread.powi(2), &whole.images);
        Ok(self.fit_from(train, &whole, given))
    }

    fn fit_from(&self, train: &FeatureBank, whole: &Whole<'_>, chosen: Chosen) -> LogisticFit {
        let Chosen { strength, layer, path } = chosen;
        let (Whole { images, scaling, curvature }, kind) = (whole, self.kind(train));
        let loss = SoftmaxLoss::new(images, kind, scaling, strength);
        let found = loss.minimise(&layer, self.stop(kind), curvature.as_ref());
        let Optimum { layer, value: loss, iterations, converged } = found;
        let probe = FittedProbe::from_layer(&layer.weight, &layer.bias, train);
        let penalty = strength * scaling.spread.powi(2);
        LogisticFit { probe, strength, penalty, loss, iterations, converged, path }
    }

    /// Follows the path from the strongest penalty, each search beginning at the optimum before.
    ///
    /// The best held-out top-1 wins, of equal ones the strongest. `curvature` may be that of all images: it shortens the
    /// way to an optimum and moves none.
    fn choose(
        &self,
        train: &FeatureBank,
        Holdout { fitted, held }: &Holdout,
        curvature: Option<&Curvature>,
    ) -> Result<Chosen, EvalError> {
        let (fitted, held) = (Part::some(train, fitted), Part::some(train, held));
        let (scaling, kind) = (Scaling::of(&fitted), self.kind(train));
        let mut here = Layer::zero(&fitted);
        let (mut path, mut best): (Vec<PathPoint>, Option<(usize, Layer)>) = (Vec::new(), None);
        for strength in strengths() {
            let loss = SoftmaxLoss::new(&fitted, kind, &scaling, strength);
            let found = loss.minimise(&here, self.stop(kind), curvature);
            let Optimum { layer, iterations, converged, .. } = found;
            let held_out_top1 = top1(&layer, &held, kind)?;
            here = Layer { weight: layer.weight.shallow_clone(), bias: layer.bias.shallow_clone() };
            if best.as_ref().is_none_or(|(index, _)| held_out_top1 > path[*index].held_out_top1) {
                best = Some((path.len(), layer));
            }
            path.push(PathPoint { strength, held_out_top1, iterations, converged });
            if best.as_ref().is_some_and(|(index, _)| path.len() - index > PATIENCE) {
                break;
            }
        }
        let (index, layer) = best.unwrap_or_else(|| (0, Layer::zero(&fitted)));
        Ok(Chosen { strength: path[index].strength, layer, path })
    }

    fn kind(&self, train: &FeatureBank) -> Kind {
        match self.config.precision {
            ProbePrecision::Features => train.features().kind(),
            ProbePrecision::Float64 => Kind::Double,
        }
    }

    /// As small a gradient as products of `kind` can tell from none; the loss is scaled so that it starts below 1.
    fn stop(&self, kind: Kind) -> Stop {
        let (gradient_norm, noise) = if kind == Kind::Double { (1e-9, 1e-14) } else { (1e-5, 1e-7) };
        Stop { gradient_norm, noise, max_iterations: self.config.max_iterations }
    }
}

/// All images of a bank, and what a search over them is told of their features.
struct Whole<'a> {
    images: Part<'a>,
    scaling: Scaling,
    curvature: Option<Curvature>,
}

impl<'a> Whole<'a> {
    fn of(train: &'a FeatureBank, kind: Kind) -> Self {
        let images = Part::whole(train);
        let scaling = Scaling::of(&images);
        let curvature = Curvature::of(&images, &scaling, kind);
        Self { images, scaling, curvature }
    }
}

/// A strength, and a layer near its optimum.
struct Chosen {
    strength: f64,
    layer: Layer,
    path: Vec<PathPoint>,
}

impl Chosen {
    /// A strength that no search has chosen.
    fn given(strength: f64, images: &Part<'_>) -> Self {
        Self { strength, layer: Layer::zero(images), path: Vec::new() }
    }
}

fn strengths() -> impl Iterator<Item = f64> {
    (0..N_STRENGTHS).map(|index| 10f64.powf(-1.0 - f64::from(index) / 2.0))
}

fn top1(layer: &Layer, held: &Part<'_>, kind: Kind) -> Result<f64, EvalError> {
    let _guard = tch::no_grad_guard();
    let (weight, bias) = (layer.weight.to_kind(kind).tr(), layer.bias.to_kind(kind));
    let logits: Vec<Tensor> = held.chunks(kind).map(|(features, _)| bias.addmm(&features, &weight)).collect();
    Ok(top_k(&Tensor::cat(&logits, 0), &held.labels(), &[1])?[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::testing::cases;
    use crate::testing::{PRECISIONS, bank, clear_rows, clusters, golden_bank, integers, numbers, refusal, values};
    use empssl_golden::{Family, assert_close};

    fn probe(precision: ProbePrecision) -> LogisticProbe {
        LogisticProbe::new(&LogisticProbeConfig { precision, ..LogisticProbeConfig::usual() }, 0).unwrap()
    }

    #[test]
    fn golden_optimum_is_found_in_float64_and_its_loss_in_float32() {
        let Some(family) = Family::open("linear") else { return };
        for (case, tensors) in cases(&family, "optimum") {
            let (penalty, truth) = (case["lambda"].as_f64().unwrap(), case["optimum_objective"].as_f64().unwrap());
            for (kind, _) in PRECISIONS {
                let [train, test] = ["train", "test"].map(|name| golden_bank(&tensors, case, name, kind));
                let fit = probe(ProbePrecision::Features).fit_at(&train, penalty).unwrap();
                assert!(fit.converged && (fit.penalty / penalty - 1.0).abs() < 1e-12, "{}: {fit:?}", case["name"]);
                let excess = fit.loss - truth;
                if kind == Kind::Float {
                    assert!(excess.abs() <= 1e-4, "{}: {excess:e}", case["name"]);
                    continue;
                }
                assert!((-1e-10..=1e-6).contains(&excess), "{}: {excess:e}", case["name"]);
                let layer = |name: &str| numbers(&tensors, name, kind);
                assert_close("weight", &values(fit.probe.weight()), &values(&layer("weight")), 1e-3);
                let free = |bias: &Tensor| values(&(bias - bias.mean(None)));
                assert_close("bias", &free(fit.probe.bias()), &free(&layer("bias")), 1e-3);
                let clear = clear_rows(&case["ambiguous_test_rows"], test.n_images());
                let scores = fit.probe.class_scores(&test).unwrap().index_select(0, &clear);
                let truth = integers(&tensors, "test_prediction").index_select(0, &clear);
                assert_eq!(top_k(&scores, &truth, &[1]).unwrap(), [100.0]);
            }
        }
    }

    #[test]
    fn float64_on_request_is_the_optimum_of_float32_features() {
        let Some(family) = Family::open("linear") else { return };
        for (case, tensors) in cases(&family, "optimum") {
            let train = golden_bank(&tensors, case, "train", Kind::Float);
            let fit = probe(ProbePrecision::Float64).fit_at(&train, case["lambda"].as_f64().unwrap()).unwrap();
            let excess = fit.loss - case["optimum_objective"].as_f64().unwrap();
            assert!(fit.converged && excess.abs() < 1e-9, "{}: {excess:e}", case["name"]);
        }
    }

    #[test]
    fn the_strength_is_the_best_on_held_out_images_and_the_strongest_of_equals() {
        let Some(family) = Family::open("linear") else { return };
        for (case, tensors) in cases(&family, "optimum") {
            let [train, test] = ["train", "test"].map(|name| golden_bank(&tensors, case, name, Kind::Float));
            let fit = probe(ProbePrecision::Features).fit(&train).unwrap();
            let best = fit.path.iter().map(|point| point.held_out_top1).fold(0.0, f64::max);
            let first = fit.path.iter().position(|point| point.held_out_top1 == best).unwrap();
            assert_eq!(fit.strength, fit.path[first].strength);
            assert!(fit.path.len() == 11 || fit.path.len() == first + 1 + PATIENCE, "{:?}", fit.path);
            assert!(
                (fit.path[0].strength - 0.1).abs() < 1e-15 && fit.path.is_sorted_by(|a, b| a.strength > b.strength)
            );
            assert!(fit.converged && fit.path.iter().all(|point| point.converged), "{:?}", fit.path);
            let (ours, theirs) = (fit.probe.score(&test).unwrap().top1, case["test_top1"].as_f64().unwrap());
            assert!((ours - theirs).abs() <= 2.5, "{}: {ours} against {theirs}", case["name"]);
        }
    }

    #[test]
    fn it_repeats_itself_and_the_seed_decides_what_is_held_out() {
        let train = clusters("train", 120, 1.2, Kind::Float);
        let fit = |seed| LogisticProbe::new(&LogisticProbeConfig::usual(), seed).unwrap().fit(&train).unwrap();
        let (one, again) = (fit(1), fit(1));
        assert_eq!((values(one.probe.weight()), &one.path), (values(again.probe.weight()), &again.path));
        assert!((2..9).any(|seed| fit(seed).path != one.path));
    }

    #[test]
    fn one_image_a_class_is_fitted_at_the_strength_that_is_said() {
        let train = bank("train", &[[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], &[0, 1, 2], 3);
        let fit = probe(ProbePrecision::Features).fit(&train).unwrap();
        assert_eq!((fit.strength, fit.path.len()), (0.01, 0));
        assert_eq!(fit.probe.score(&train).unwrap().top1, 100.0);
        let single = bank("train", &[[1.0, 0.0]], &[1], 2);
        assert_eq!(probe(ProbePrecision::Features).fit(&single).unwrap().probe.score(&single).unwrap().top1, 100.0);
    }

    #[test]
    fn a_class_without_training_images_is_scored_but_not_found() {
        let train = clusters("train", 60, 0.1, Kind::Float);
        let train = FeatureBank::new("train", train.features(), train.labels(), 5).unwrap();
        let fit = probe(ProbePrecision::Features).fit(&train).unwrap();
        let test =
            FeatureBank::new("test", &train.features().narrow(0, 0, 2), &Tensor::from_slice(&[0i64, 4]), 5).unwrap();
        assert_eq!(fit.probe.score(&test).unwrap().top1, 50.0);
    }

    #[test]
    fn too_few_iterations_are_said() {
        let train = clusters("train", 60, 0.5, Kind::Double);
        let config = LogisticProbeConfig { max_iterations: 1, ..LogisticProbeConfig::usual() };
        let fit = LogisticProbe::new(&config, 0).unwrap().fit_at(&train, 1e-4).unwrap();
        assert!(!fit.converged && fit.iterations == 1);
    }

    #[test]
    fn refuses_settings_without_meaning() {
        let config = LogisticProbeConfig { max_iterations: 0, ..LogisticProbeConfig::usual() };
        assert_eq!(refusal(LogisticProbe::new(&config, 0)), "`max_iterations` must be at least 1, found 0");
        let train = clusters("train", 8, 0.5, Kind::Double);
        for penalty in [-1.0, f64::NAN, f64::INFINITY] {
            let message = refusal(probe(ProbePrecision::Features).fit_at(&train, penalty));
            assert_eq!(message, format!("`penalty` must be at least 0 and finite, found {penalty}"));
        }
    }
}
