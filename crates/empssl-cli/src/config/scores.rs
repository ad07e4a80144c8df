//! `[evaluation.scores]` of a recipe: the scores beside the published ones.

use empssl_eval::{
    EvalError, FewLabels, GridProbe, GridProbeConfig, KnnGrid, KnnGridConfig, LinearProbeConfig, LogisticProbe,
    LogisticProbeConfig, Metric, ProbePrecision,
};
use serde::{Deserialize, Serialize};

/// What is scored beside the published probe and vote, and how often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScoresSection {
    /// First layers and orders that the published probe is fitted with; its score is the mean.
    pub(crate) probe_seeds: usize,
    /// Learning rates and weight decays of the probe that chooses among them on held-out training images.
    pub(crate) grid_lrs: Vec<f64>,
    pub(crate) grid_weight_decays: Vec<f64>,
    /// Precision and patience of the probe that needs no settings.
    pub(crate) optimum_precision: ProbePrecision,
    pub(crate) optimum_iterations: usize,
    /// Shares of the training images that have labels, and how often each is drawn.
    pub(crate) few_shares: Vec<f64>,
    pub(crate) few_seeds: usize,
    /// All combinations of the vote.
    pub(crate) knn_ks: Vec<i64>,
    pub(crate) knn_temperatures: Vec<f64>,
    pub(crate) knn_metrics: Vec<Metric>,
}

impl ScoresSection {
    /// The grid's probe, which takes from the published one what is no choice.
    pub(crate) fn grid(&self, published: &LinearProbeConfig) -> GridProbeConfig {
        GridProbeConfig {
            lrs: self.grid_lrs.clone(),
            weight_decays: self.grid_weight_decays.clone(),
            momentum: published.momentum,
            batch_size: published.batch_size,
            epochs: published.epochs,
        }
    }

    pub(crate) fn optimum(&self) -> LogisticProbeConfig {
        LogisticProbeConfig { precision: self.optimum_precision, max_iterations: self.optimum_iterations }
    }

    pub(crate) fn knn(&self) -> KnnGridConfig {
        KnnGridConfig {
            ks: self.knn_ks.clone(),
            temperatures: self.knn_temperatures.clone(),
            metrics: self.knn_metrics.clone(),
        }
    }

    /// Refuses what the scores would refuse, before anything is trained.
    pub(super) fn check(&self, published: &LinearProbeConfig) -> Result<(), EvalError> {
        GridProbe::new(&self.grid(published), 0)?;
        LogisticProbe::new(&self.optimum(), 0)?;
        KnnGrid::new(&self.knn())?;
        let few_seeds: Vec<u64> = (0..self.few_seeds as u64).collect();
        for &share in &self.few_shares {
            FewLabels::new(&self.optimum(), share, &few_seeds)?;
        }
        if self.probe_seeds == 0 {
            let (key, expected, found) = ("probe_seeds", "at least 1", "0".to_owned());
            return Err(EvalError::Setting { key, expected, found });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_score_would_refuse_is_refused_with_its_key() {
        let good = ScoresSection {
            probe_seeds: 1,
            grid_lrs: vec![0.1],
            grid_weight_decays: vec![0.0],
            optimum_precision: ProbePrecision::Float64,
            optimum_iterations: 10,
            few_shares: vec![0.1],
            few_seeds: 2,
            knn_ks: vec![20],
            knn_temperatures: vec![0.07],
            knn_metrics: vec![Metric::Cosine],
        };
        let refused = |section: ScoresSection| {
            section.check(&LinearProbeConfig::published()).err().map(|error| error.to_string())
        };
        assert_eq!(refused(good.clone()), None);
        assert_eq!(refused(ScoresSection { few_shares: vec![], few_seeds: 0, ..good.clone() }), None);
        let bad = [
            ("probe_seeds", ScoresSection { probe_seeds: 0, ..good.clone() }),
            ("lrs", ScoresSection { grid_lrs: vec![], ..good.clone() }),
            ("weight_decay", ScoresSection { grid_weight_decays: vec![f64::NAN], ..good.clone() }),
            ("max_iterations", ScoresSection { optimum_iterations: 0, ..good.clone() }),
            ("share", ScoresSection { few_shares: vec![2.0], ..good.clone() }),
            ("seeds", ScoresSection { few_seeds: 0, ..good.clone() }),
            ("k", ScoresSection { knn_ks: vec![0], ..good.clone() }),
            ("metrics", ScoresSection { knn_metrics: vec![], ..good }),
        ];
        for (key, section) in bad {
            assert!(refused(section).unwrap().starts_with(&format!("`{key}` must be ")), "{key}");
        }
    }
}
