//! Many learning rates and weight decays in one pass over the features, one of them chosen on held-out images.

use serde::{Deserialize, Serialize};

use super::heads::{Course, HeadSetting, Heads, HeldOut};
use super::holdout::Holdout;
use super::layer::FittedProbe;
use super::part::Part;
use super::sgd::{LinearProbe, LinearProbeConfig};
use crate::error::EvalError;
use crate::features::FeatureBank;

/// Settings of [`GridProbe`]; every combination of a rate and a weight decay is a head, every key must be given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridProbeConfig {
    /// Rates of the first epoch; each falls to zero along a cosine, stepped once an epoch.
    pub lrs: Vec<f64>,
    /// Weight decays, on weight and bias.
    pub weight_decays: Vec<f64>,
    /// Share of the momentum buffer that survives a step, in `[0, 1)`.
    pub momentum: f64,
    /// Images in one step; the incomplete last batch of an epoch is dropped.
    pub batch_size: i64,
    /// Passes over the training bank.
    pub epochs: usize,
}

impl GridProbeConfig {
    /// The settings of each head alone, rate by rate.
    fn alone(&self) -> Vec<LinearProbeConfig> {
        let of_rate = |&lr: &f64| {
            self.weight_decays.iter().map(move |&weight_decay| LinearProbeConfig {
                lr,
                momentum: self.momentum,
                weight_decay,
                batch_size: self.batch_size,
                epochs: self.epochs,
            })
        };
        self.lrs.iter().flat_map(of_rate).collect()
    }
}

/// A head of the grid and what it scored on the held-out tenth of the training images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GridPoint {
    /// Rate of the first epoch.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Top-1 in percent; none for a head that diverged.
    pub held_out_top1: Option<f64>,
}

/// What [`GridProbe::explore`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Explored {
    /// Every head, rate by rate.
    pub points: Vec<GridPoint>,
    /// The number of the best; none when every head diverged.
    pub best: Option<usize>,
    /// Training images that decided.
    pub n_held_out: i64,
}

/// What [`GridProbe::fit`] found.
#[derive(Debug)]
pub struct GridFit {
    /// The setting that was chosen.
    pub chosen: LinearProbeConfig,
    /// Every head, rate by rate.
    pub points: Vec<GridPoint>,
    /// Training images that decided.
    pub n_held_out: i64,
    /// The probe of the chosen setting, fitted to the whole training bank.
    pub probe: FittedProbe,
}

/// A [`LinearProbe`] whose rate and weight decay are chosen on a held-out tenth of the training images.
///
/// All combinations learn from the rest at once, from the same batches: a product of matrices for all of them costs
/// little more than for one. The best is fitted again to all training images; the test images are never looked at.
#[derive(Clone, Debug)]
pub struct GridProbe {
    config: GridProbeConfig,
    seed: u64,
}

impl GridProbe {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`EvalError::Setting`] for an empty list and for a setting out of range.
    pub fn new(config: &GridProbeConfig, seed: u64) -> Result<Self, EvalError> {
        for (key, list) in [("lrs", &config.lrs), ("weight_decays", &config.weight_decays)] {
            EvalError::check(!list.is_empty(), key, "at least one value", "none")?;
        }
        config.alone().iter().try_for_each(LinearProbeConfig::check)?;
        Ok(Self { config: config.clone(), seed })
    }

    /// Tries all heads, chooses one and fits it to the whole bank.
    ///
    /// # Errors
    /// As [`GridProbe::explore`]; [`EvalError::Diverged`] when every head did.
    pub fn fit(&self, train: &FeatureBank) -> Result<GridFit, EvalError> {
        let Explored { points, best, n_held_out } = self.explore(train)?;
        let chosen = self.config.alone().swap_remove(best.ok_or_else(|| self.diverged())?);
        let probe = LinearProbe::new(&chosen, self.seed)?.fit(train)?;
        Ok(GridFit { chosen, points, n_held_out, probe })
    }

    /// Fits all heads to nine tenths of the bank and scores them on the rest.
    ///
    /// The best held-out top-1 wins, of equal ones the lower held-out cross-entropy, of equal ones the first.
    ///
    /// # Errors
    /// [`EvalError::NothingToHoldOut`], [`EvalError::SmallerThanBatch`] when nine tenths do not fill one batch, and
    /// [`EvalError::Device`].
    pub fn explore(&self, train: &FeatureBank) -> Result<Explored, EvalError> {
        let Holdout { fitted, held } = Holdout::draw(train, self.seed)?;
        let alone = self.config.alone();
        let setting = |config: &LinearProbeConfig| HeadSetting { lr: config.lr, weight_decay: config.weight_decay };
        let settings: Vec<_> = alone.iter().map(setting).collect();
        let (momentum, batch_size, epochs) = (self.config.momentum, self.config.batch_size, self.config.epochs);
        let course = Course { momentum, batch_size, epochs, seed: self.seed };
        let heads = Heads::fit(&settings, &course, &Part::some(train, &fitted))?;
        let scores = heads.score(&Part::some(train, &held))?;
        let point = |(setting, score): (&HeadSetting, &Option<HeldOut>)| GridPoint {
            lr: setting.lr,
            weight_decay: setting.weight_decay,
            held_out_top1: score.map(|score| score.top1),
        };
        let points = settings.iter().zip(&scores).map(point).collect();
        Ok(Explored { points, best: best(&scores), n_held_out: held.len() as i64 })
    }

    fn diverged(&self) -> EvalError {
        let lowest = self.config.lrs.iter().copied().fold(f64::INFINITY, f64::min);
        EvalError::Diverged { epoch: self.config.epochs, lr: lowest }
    }
}

/// The number of the best score.
fn best(scores: &[Option<HeldOut>]) -> Option<usize> {
    let mut best: Option<(usize, HeldOut)> = None;
    for (index, score) in scores.iter().enumerate() {
        let Some(score) = *score else { continue };
        let better = best.is_none_or(|(_, best)| {
            score.top1 > best.top1 || (score.top1 == best.top1 && score.cross_entropy < best.cross_entropy)
        });
        if better {
            best = Some((index, score));
        }
    }
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bank, clusters, refusal, values};
    use tch::Kind;

    fn config() -> GridProbeConfig {
        let (lrs, weight_decays) = (vec![1e-6, 0.1, 1e30], vec![1e-5, 1e-4]);
        GridProbeConfig { lrs, weight_decays, momentum: 0.9, batch_size: 8, epochs: 20 }
    }

    #[test]
    fn the_chosen_head_is_the_best_on_held_out_images_and_is_fitted_to_all() {
        let train = clusters("train", 200, 0.4, Kind::Float);
        let fit = GridProbe::new(&config(), 3).unwrap().fit(&train).unwrap();
        assert_eq!((fit.points.len(), fit.n_held_out), (6, 20));
        let order: Vec<_> = fit.points.iter().map(|point| (point.lr, point.weight_decay)).collect();
        assert_eq!(order[..3], [(1e-6, 1e-5), (1e-6, 1e-4), (0.1, 1e-5)]);
        let top1 = |index: usize| fit.points[index].held_out_top1;
        assert_eq!((top1(4), top1(5)), (None, None), "a rate of 1e30 has not diverged");
        assert!(top1(2) > top1(0) && fit.chosen.lr == 0.1, "{:?}", fit.points);
        let alone = LinearProbe::new(&fit.chosen, 3).unwrap().fit(&train).unwrap();
        assert_eq!(values(fit.probe.weight()), values(alone.weight()));
    }

    #[test]
    fn of_equal_accuracies_the_lower_cross_entropy_wins_then_the_first() {
        let score = |top1, cross_entropy| Some(HeldOut { top1, cross_entropy });
        assert_eq!(best(&[None, score(50.0, 0.7), score(60.0, 0.9), score(60.0, 0.8), score(60.0, 0.8)]), Some(3));
        assert_eq!(best(&[None, None]), None);
    }

    #[test]
    fn refuses_grids_without_meaning() {
        let refused = |config: GridProbeConfig| refusal(GridProbe::new(&config, 0));
        assert_eq!(
            refused(GridProbeConfig { lrs: vec![], ..config() }),
            "`lrs` must be at least one value, found none"
        );
        assert!(refused(GridProbeConfig { weight_decays: vec![], ..config() }).starts_with("`weight_decays` must be"));
        assert!(refused(GridProbeConfig { lrs: vec![0.1, f64::NAN], ..config() }).starts_with("`lr` must be"));
        assert!(
            refused(GridProbeConfig { weight_decays: vec![-1.0], ..config() }).starts_with("`weight_decay` must be")
        );
        assert!(refused(GridProbeConfig { epochs: 0, ..config() }).starts_with("`epochs` must be"));
    }

    #[test]
    fn refuses_banks_that_leave_nothing_to_learn_or_to_choose_by() {
        let fit = |train: &FeatureBank| refusal(GridProbe::new(&config(), 0).unwrap().fit(train));
        assert!(fit(&bank("train", &[[1.0]], &[0], 2)).contains("no class with two images"));
        let message = fit(&clusters("train", 8, 0.1, Kind::Float));
        assert!(message.starts_with("the bank `train` holds 4 images, fewer than one batch of 8"), "{message}");
    }

    #[test]
    fn a_grid_of_rates_that_all_diverge_is_an_error() {
        let train = clusters("train", 100, 0.4, Kind::Float);
        let wild = GridProbeConfig { lrs: vec![1e31, 1e30], weight_decays: vec![1.0], ..config() };
        let message = refusal(GridProbe::new(&wild, 0).unwrap().fit(&train));
        assert!(message.contains(&format!("at lr {}", 1e30)), "{message}");
    }
}
