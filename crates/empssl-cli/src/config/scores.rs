//! `[evaluation.scores]` of a recipe: the scores beside the published ones.

use empssl_eval::{EvalError, FewLabels, LogisticProbe, LogisticProbeConfig, ProbePrecision};
use serde::{Deserialize, Serialize};

/// What is scored beside the published probe and vote, and how often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScoresSection {
    /// First layers and orders that the published probe is fitted with; its score is the mean.
    pub(crate) probe_seeds: usize,
    /// Precision and patience of the probe that needs no settings.
    pub(crate) optimum_precision: ProbePrecision,
    pub(crate) optimum_iterations: usize,
    /// Shares of the training images that have labels, and how often each is drawn.
    pub(crate) few_shares: Vec<f64>,
    pub(crate) few_seeds: usize,
}

impl ScoresSection {
    pub(crate) fn optimum(&self) -> LogisticProbeConfig {
        LogisticProbeConfig { precision: self.optimum_precision, max_iterations: self.optimum_iterations }
    }

    /// Refuses what the scores would refuse, before anything is trained.
    pub(super) fn check(&self) -> Result<(), EvalError> {
        LogisticProbe::new(&self.optimum(), 0)?;
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
            optimum_precision: ProbePrecision::Float64,
            optimum_iterations: 10,
            few_shares: vec![0.1],
            few_seeds: 2,
        };
        let refused = |section: ScoresSection| section.check().err().map(|error| error.to_string());
        assert_eq!(refused(good.clone()), None);
        assert_eq!(refused(ScoresSection { few_shares: vec![], few_seeds: 0, ..good.clone() }), None);
        let bad = [
            ("probe_seeds", ScoresSection { probe_seeds: 0, ..good.clone() }),
            ("max_iterations", ScoresSection { optimum_iterations: 0, ..good.clone() }),
            ("share", ScoresSection { few_shares: vec![2.0], ..good.clone() }),
            ("seeds", ScoresSection { few_seeds: 0, ..good }),
        ];
        for (key, section) in bad {
            assert!(refused(section).unwrap().starts_with(&format!("`{key}` must be ")), "{key}");
        }
    }
}
