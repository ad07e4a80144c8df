//! `[evaluation.scores]` of a recipe: the scores beside the published ones.

use empssl_eval::{EvalError, FewLabels, LogisticProbe, LogisticProbeConfig, ProbePrecision};
use serde::{Deserialize, Serialize};

use super::check::must_be;
use crate::error::CliError;

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
    pub(super) fn check(&self) -> Result<(), CliError> {
        let refuse = |key: &str, rule: &str, found: String| {
            CliError::Recipe(must_be(&format!("evaluation.scores.{key}"), rule, found))
        };
        let under = |key: &'static str| {
            move |error: EvalError| match error {
                EvalError::Setting { expected, found, .. } => refuse(key, expected, found),
                error => error.into(),
            }
        };
        LogisticProbe::new(&self.optimum(), 0).map_err(under("optimum_iterations"))?;
        for &share in &self.few_shares {
            FewLabels::new(&self.optimum(), share, &[0]).map_err(under("few_shares"))?;
        }
        let seeds =
            [("probe_seeds", self.probe_seeds, true), ("few_seeds", self.few_seeds, !self.few_shares.is_empty())];
        match seeds.into_iter().find(|&(_, n, is_needed)| is_needed && n == 0) {
            Some((key, ..)) => Err(refuse(key, "at least 1", "0".to_owned())),
            None => Ok(()),
        }
    }
}
