//! How features are scored: one function for each row of the table, from banks to a score.
//!
//! A new kind of score is a function here beside the others, a [`Probe`] of the report, and a line in
//! [`Scorer::of_network`].

use std::time::Instant;

use empssl_eval::{
    Accuracy, FewLabels, FewLabelsScore, KnnScore, LinearProbe, LinearProbeConfig, LogisticFit, LogisticProbe,
    LogisticProbeConfig, PIXEL_RATES, Spread, WeightedKnn, best_of_rates,
};
use empssl_torch::catch;

use super::banks::Banks;
use crate::config::{CurveProbe, Run, ScoredOn, ScoresSection};
use crate::error::CliError;
use crate::print;
use crate::report::{Encoder, Probe};

/// How far the seeds of a repeated score are from one another, so that runs of seeds 0, 1, 2 share none.
const BETWEEN_SEEDS: u64 = 1 << 32;

/// One score of one encoder.
pub(crate) struct Score {
    pub(crate) probe: Probe,
    pub(crate) accuracy: Accuracy,
    /// The best epoch on the test images, for those who compare with the original's print.
    pub(crate) chosen_on_test: Option<f64>,
    pub(crate) n_seeds: usize,
    pub(crate) top1_deviation: Option<f64>,
    /// Where not all labelled images were learnt from.
    pub(crate) n_train: Option<usize>,
    /// Of the scoring alone.
    pub(crate) seconds: f64,
    pub(crate) setting: String,
}

impl Score {
    /// A score that is taken once.
    fn single(probe: Probe, accuracy: Accuracy, started: Instant, setting: String) -> Self {
        let seconds = started.elapsed().as_secs_f64();
        Self {
            probe,
            accuracy,
            chosen_on_test: None,
            n_seeds: 1,
            top1_deviation: None,
            n_train: None,
            seconds,
            setting,
        }
    }

    /// A score that is taken with several seeds.
    fn mean(probe: Probe, all: &[Accuracy], started: Instant, setting: String) -> Result<Self, CliError> {
        let spread = |of: fn(&Accuracy) -> f64| Spread::of(&all.iter().map(of).collect::<Vec<_>>());
        let (top1, top5) = (spread(|accuracy| accuracy.top1)?, spread(|accuracy| accuracy.top5)?);
        let accuracy = Accuracy { top1: top1.mean, top5: top5.mean };
        let single = Self::single(probe, accuracy, started, setting);
        Ok(Self { n_seeds: top1.n, top1_deviation: top1.deviation, ..single })
    }
}

/// All scores of an encoder.
pub(crate) struct Scores {
    pub(crate) encoder: Encoder,
    pub(crate) rows: Vec<Score>,
    /// The linear probe's accuracy after each of its epochs.
    pub(crate) curve: Vec<Accuracy>,
}

impl Scores {
    fn of(encoder: Encoder) -> Self {
        Self { encoder, rows: Vec::new(), curve: Vec::new() }
    }

    /// Takes a row, and tells who waits for the next one.
    fn push(&mut self, score: Score) {
        let (encoder, probe) = (self.encoder.name(), score.probe.name());
        let (top1, seconds) = (score.accuracy.top1, score.seconds);
        print::line(format_args!("scored {encoder} {probe}: {top1:.2} % in {seconds:.1} s"));
        self.rows.push(score);
    }
}

/// The recipe's scores.
pub(crate) struct Scorer<'a> {
    pub(crate) run: &'a Run,
    pub(crate) seed: u64,
    pub(crate) scored_on: ScoredOn,
}

impl Scorer<'_> {
    /// Every score of a network's features.
    pub(crate) fn of_network(&self, encoder: Encoder, banks: &Banks) -> Result<Scores, CliError> {
        let mut scores = Scores::of(encoder);
        let (linear, curve) = self.linear(banks)?;
        scores.push(linear);
        scores.curve = curve;
        self.knn(banks)?.into_iter().for_each(|score| scores.push(score));
        scores.push(self.optimum(banks)?);
        let Some(more) = self.more() else { return Ok(scores) };
        for &share in &more.few_shares {
            scores.push(self.few_labels(more, share, banks)?);
        }
        Ok(scores)
    }

    /// Every score of raw pixels, which have no part in the probe's curve.
    pub(crate) fn of_pixels(&self, banks: &Banks) -> Result<Scores, CliError> {
        let mut scores = Scores::of(Encoder::Pixels);
        scores.push(self.linear_at_its_best_rate(banks)?);
        self.knn(banks)?.into_iter().for_each(|score| scores.push(score));
        scores.push(self.optimum(banks)?);
        Ok(scores)
    }

    /// One score of the curve against patches.
    pub(crate) fn on_curve(&self, probe: CurveProbe, banks: &Banks) -> Result<Accuracy, CliError> {
        match probe {
            CurveProbe::Linear => Ok(self.linear(banks)?.0.accuracy),
            CurveProbe::Knn => {
                let knn = WeightedKnn::new(&self.run.config.evaluation.knn)?;
                Ok(catch(|| knn.score(&banks.train, &banks.test))??)
            }
        }
    }

    fn more(&self) -> Option<&ScoresSection> {
        self.run.config.evaluation.scores.as_ref()
    }

    /// The first is the run's own.
    fn seeds(&self, n_seeds: usize) -> Vec<u64> {
        (0..n_seeds as u64).map(|index| self.seed.wrapping_add(index * BETWEEN_SEEDS)).collect()
    }

    /// The published probe; the curve is that of the first seed.
    fn linear(&self, banks: &Banks) -> Result<(Score, Vec<Accuracy>), CliError> {
        let (probe, started) = (&self.run.config.evaluation.probe, Instant::now());
        let seeds = self.seeds(self.more().map_or(1, |more| more.probe_seeds));
        let (mut last, mut best, mut first_curve) = (Vec::new(), Vec::new(), Vec::new());
        for seed in seeds {
            let (fitted, curve) = LinearProbe::new(probe, seed)?.fit_with_curve(&banks.train, &banks.test)?;
            last.push(fitted.score(&banks.test)?);
            best.extend(curve.iter().map(|epoch| epoch.top1).reduce(f64::max));
            if first_curve.is_empty() {
                first_curve = curve;
            }
        }
        let score = Score::mean(Probe::Linear, &last, started, setting(probe, &probe.lr.to_string()))?;
        let chosen_on_test = match self.scored_on {
            ScoredOn::Test => Some(Spread::of(&best)?.mean),
            ScoredOn::HeldOut => None,
        };
        Ok((Score { chosen_on_test, ..score }, first_curve))
    }

    /// The linear probe at the best of three rates, chosen on the scored images, which favours the pixels.
    fn linear_at_its_best_rate(&self, banks: &Banks) -> Result<Score, CliError> {
        let (probe, started) = (&self.run.config.evaluation.probe, Instant::now());
        let best = best_of_rates(probe, &PIXEL_RATES, self.seed, &banks.train, &banks.test)?;
        let rates = format!("{}, the best of {PIXEL_RATES:?} on the {}", best.lr, self.scored_on.images());
        Ok(Score::single(Probe::Linear, best.accuracy, started, setting(probe, &rates)))
    }

    /// The neighbours: a score for each k, "the" kNN accuracy first.
    fn knn(&self, banks: &Banks) -> Result<Vec<Score>, CliError> {
        let (config, started) = (&self.run.config.evaluation.knn, Instant::now());
        let knn = WeightedKnn::new(config)?;
        let scores = catch(|| knn.score_each(&banks.train, &banks.test))??;
        let score = |score: KnnScore| {
            let setting = format!("cosine, k {}, T {}", score.k, config.temperature);
            Score::single(Probe::Knn, score.accuracy, started, setting)
        };
        Ok(scores.into_iter().map(score).collect())
    }

    /// The probe that needs no settings.
    fn optimum(&self, banks: &Banks) -> Result<Score, CliError> {
        let started = Instant::now();
        let config = self.more().map_or_else(LogisticProbeConfig::usual, ScoresSection::optimum);
        let fit = catch(|| LogisticProbe::new(&config, self.seed)?.fit(&banks.train))??;
        let accuracy = fit.probe.score(&banks.test)?;
        Ok(Score::single(Probe::LinearOptimum, accuracy, started, optimum_setting(&fit)))
    }

    /// The same on few labelled images, several times.
    fn few_labels(&self, more: &ScoresSection, share: f64, banks: &Banks) -> Result<Score, CliError> {
        let started = Instant::now();
        let few = FewLabels::new(&more.optimum(), share, &self.seeds(more.few_seeds))?;
        let FewLabelsScore { n_per_class, n_train, accuracies } = few.score(&banks.train, &banks.test)?;
        let setting = format!(
            "L-BFGS on {} % of the labelled images, {n_per_class} of every class, drawn {} times",
            100.0 * share,
            accuracies.len()
        );
        let score = Score::mean(Probe::FewLabels, &accuracies, started, setting)?;
        Ok(Score { n_train: Some(n_train as usize), ..score })
    }
}

fn setting(probe: &LinearProbeConfig, lr: &str) -> String {
    format!(
        "SGD lr {lr}, momentum {}, weight decay {}, batch {}, {} epochs, last epoch",
        probe.momentum, probe.weight_decay, probe.batch_size, probe.epochs
    )
}

fn optimum_setting(fit: &LogisticFit) -> String {
    let chosen = match fit.path.len() {
        0 => "without held-out images".to_owned(),
        n => format!("chosen of {n} on held-out images"),
    };
    let end = if fit.converged { "converged" } else { "not converged" };
    format!("L-BFGS, penalty {:.3e} {chosen}, {end} after {} iterations", fit.penalty, fit.iterations)
}
