//! How features are scored: one function for each row of the table, from banks to a score.
//!
//! A new kind of score is a function here beside the others, a [`Probe`] of the report, and a line in
//! [`Scorer::of_encoder`].

use std::time::Instant;

use empssl_eval::{Accuracy, LinearProbe, LinearProbeConfig, PIXEL_RATES, WeightedKnn, best_of_rates};

use super::banks::Banks;
use crate::config::{CurveProbe, Run};
use crate::error::CliError;
use crate::report::Probe;

/// One score of one encoder.
pub(crate) struct Score {
    pub(crate) probe: Probe,
    pub(crate) accuracy: Accuracy,
    /// The best epoch on the test images, for those who compare with the original's print.
    pub(crate) chosen_on_test: Option<f64>,
    /// Of the scoring alone.
    pub(crate) seconds: f64,
    pub(crate) setting: String,
}

/// The recipe's scores.
pub(crate) struct Scorer<'a> {
    pub(crate) run: &'a Run,
    pub(crate) seed: u64,
}

/// The scores of an encoder, and the linear probe's accuracy after each of its epochs.
pub(crate) type ScoresAndCurve = (Vec<Score>, Vec<Accuracy>);

impl Scorer<'_> {
    /// Every score of a network's features.
    pub(crate) fn of_encoder(&self, banks: &Banks) -> Result<ScoresAndCurve, CliError> {
        let (linear, curve) = self.linear(banks)?;
        Ok((vec![linear, self.knn(banks)?], curve))
    }

    /// Every score of raw pixels, which have no part in the probe's curve.
    pub(crate) fn of_pixels(&self, banks: &Banks) -> Result<ScoresAndCurve, CliError> {
        Ok((vec![self.linear_at_its_best_rate(banks)?, self.knn(banks)?], Vec::new()))
    }

    /// One score of the curve against patches.
    pub(crate) fn on_curve(&self, probe: CurveProbe, banks: &Banks) -> Result<Score, CliError> {
        match probe {
            CurveProbe::Linear => Ok(self.linear(banks)?.0),
            CurveProbe::Knn => self.knn(banks),
        }
    }

    /// The published probe.
    fn linear(&self, banks: &Banks) -> Result<(Score, Vec<Accuracy>), CliError> {
        let (probe, started) = (&self.run.probe, Instant::now());
        let (fitted, curve) = LinearProbe::new(probe, self.seed)?.fit_with_curve(&banks.train, &banks.test)?;
        let score = Score {
            probe: Probe::Linear,
            accuracy: fitted.score(&banks.test)?,
            chosen_on_test: curve.iter().map(|epoch| epoch.top1).reduce(f64::max),
            seconds: started.elapsed().as_secs_f64(),
            setting: setting(probe, &probe.lr.to_string()),
        };
        Ok((score, curve))
    }

    /// The linear probe at the best of three rates, chosen on the test images, which favours the pixels.
    fn linear_at_its_best_rate(&self, banks: &Banks) -> Result<Score, CliError> {
        let (probe, started) = (&self.run.probe, Instant::now());
        let best = best_of_rates(probe, &PIXEL_RATES, self.seed, &banks.train, &banks.test)?;
        let rates = format!("{}, the best of {PIXEL_RATES:?} on the test images", best.lr);
        Ok(Score {
            probe: Probe::Linear,
            accuracy: best.accuracy,
            chosen_on_test: None,
            seconds: started.elapsed().as_secs_f64(),
            setting: setting(probe, &rates),
        })
    }

    /// The published neighbours.
    fn knn(&self, banks: &Banks) -> Result<Score, CliError> {
        let (config, started) = (&self.run.knn, Instant::now());
        Ok(Score {
            probe: Probe::Knn,
            accuracy: WeightedKnn::new(config)?.score(&banks.train, &banks.test)?,
            chosen_on_test: None,
            seconds: started.elapsed().as_secs_f64(),
            setting: format!("cosine, k {}, T {}", config.k, config.temperature),
        })
    }
}

fn setting(probe: &LinearProbeConfig, lr: &str) -> String {
    format!(
        "SGD lr {lr}, momentum {}, weight decay {}, batch {}, {} epochs, last epoch",
        probe.momentum, probe.weight_decay, probe.batch_size, probe.epochs
    )
}
