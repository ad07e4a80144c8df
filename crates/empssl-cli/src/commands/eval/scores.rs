//! How features are scored: one function for each row of the table, from banks to a score.
//!
//! A new kind of score is a function here beside the others, a [`Probe`] of the report, and a line in
//! [`Scorer::of_network`].

use std::time::Instant;

use empssl_eval::{
    Accuracy, Among, EvalError, FewLabels, FewLabelsScore, GridFit, GridProbe, KnnCell, KnnGrid, LinearProbe,
    LinearProbeConfig, LogisticFit, LogisticProbe, LogisticProbeConfig, PIXEL_RATES, Spread, WeightedKnn,
    best_of_rates,
};
use empssl_torch::catch;

use super::banks::Banks;
use super::crew::{Crew, NeighbourOrder, Order, Votes, shared_by};
use crate::config::{CurveProbe, Run, ScoresSection};
use crate::error::CliError;
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

/// A setting that was tried on held-out training images.
pub(crate) struct Tried {
    pub(crate) probe: Probe,
    pub(crate) setting: String,
    pub(crate) held_out_top1: Option<f64>,
}

/// All scores of an encoder.
pub(crate) struct Scores {
    pub(crate) encoder: Encoder,
    pub(crate) rows: Vec<Score>,
    /// The linear probe's accuracy after each of its epochs.
    pub(crate) curve: Vec<Accuracy>,
    pub(crate) neighbours: Vec<KnnCell>,
    pub(crate) tried: Vec<Tried>,
}

impl Scores {
    fn of(encoder: Encoder) -> Self {
        Self { encoder, rows: Vec::new(), curve: Vec::new(), neighbours: Vec::new(), tried: Vec::new() }
    }

    /// Takes a row, and tells who waits for the next one.
    fn push(&mut self, score: Score) {
        let (encoder, probe) = (self.encoder.name(), score.probe.name());
        eprintln!("scored {encoder} {probe}: {:.2} % in {:.1} s", score.accuracy.top1, score.seconds);
        self.rows.push(score);
    }
}

/// The recipe's scores.
pub(crate) struct Scorer<'a> {
    pub(crate) run: &'a Run,
    pub(crate) seed: u64,
    pub(crate) crew: Crew<'a>,
}

impl Scorer<'_> {
    /// Every score of a network's features.
    pub(crate) fn of_network(&self, encoder: Encoder, banks: &Banks) -> Result<Scores, CliError> {
        let mut scores = Scores::of(encoder);
        let (linear, curve) = self.linear(banks)?;
        scores.push(linear);
        scores.curve = curve;
        scores.push(self.knn(banks)?);
        self.optimum(banks, &mut scores)?;
        let Some(more) = self.more() else { return Ok(scores) };
        self.grid(more, banks, &mut scores)?;
        for &share in &more.few_shares {
            scores.push(self.few_labels(more, share, banks)?);
        }
        let grid = KnnGrid::new(&more.knn())?;
        scores.neighbours =
            self.by_neighbours(Votes::Grid, banks, |among| grid.score_among(among, &banks.train, &banks.test))?;
        Ok(scores)
    }

    /// Every score of raw pixels, which have no part in the probe's curve.
    pub(crate) fn of_pixels(&self, banks: &Banks) -> Result<Scores, CliError> {
        let mut scores = Scores::of(Encoder::Pixels);
        scores.push(self.linear_at_its_best_rate(banks)?);
        scores.push(self.knn(banks)?);
        self.optimum(banks, &mut scores)?;
        Ok(scores)
    }

    /// One score of the curve against patches.
    pub(crate) fn on_curve(&self, probe: CurveProbe, banks: &Banks) -> Result<Score, CliError> {
        match probe {
            CurveProbe::Linear => Ok(self.linear(banks)?.0),
            CurveProbe::Knn => self.knn(banks),
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
        let (probe, started) = (&self.run.probe, Instant::now());
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
        Ok((Score { chosen_on_test: Some(Spread::of(&best)?.mean), ..score }, first_curve))
    }

    /// The linear probe at the best of three rates, chosen on the test images, which favours the pixels.
    fn linear_at_its_best_rate(&self, banks: &Banks) -> Result<Score, CliError> {
        let (probe, started) = (&self.run.probe, Instant::now());
        let best = best_of_rates(probe, &PIXEL_RATES, self.seed, &banks.train, &banks.test)?;
        let rates = format!("{}, the best of {PIXEL_RATES:?} on the test images", best.lr);
        Ok(Score::single(Probe::Linear, best.accuracy, started, setting(probe, &rates)))
    }

    /// The published neighbours.
    fn knn(&self, banks: &Banks) -> Result<Score, CliError> {
        let (config, started) = (&self.run.knn, Instant::now());
        let knn = WeightedKnn::new(config)?;
        let accuracy =
            self.by_neighbours(Votes::Published, banks, |among| knn.score_among(among, &banks.train, &banks.test))?;
        let setting = format!("cosine, k {}, T {}", config.k, config.temperature);
        Ok(Score::single(Probe::Knn, accuracy, started, setting))
    }

    /// What is scored by neighbours, which all ranks look for.
    fn by_neighbours<T>(
        &self,
        votes: Votes,
        banks: &Banks,
        score: impl FnOnce(Among<'_>) -> Result<T, EvalError>,
    ) -> Result<T, CliError> {
        let order = || Order::Neighbours(NeighbourOrder { votes, among: banks.names.clone() });
        self.crew.together(order, |group| Ok(catch(|| score(shared_by(group)))??))
    }

    /// The probe whose rate and weight decay are chosen on held-out training images. Where these are too few to choose by
    /// or to learn from there is no such row, and the user is told.
    fn grid(&self, more: &ScoresSection, banks: &Banks, scores: &mut Scores) -> Result<(), CliError> {
        let started = Instant::now();
        let grid = GridProbe::new(&more.grid(&self.run.probe), self.seed)?;
        let GridFit { chosen, points, n_held_out, probe } = match grid.fit(&banks.train) {
            Err(error @ (EvalError::SmallerThanBatch { .. } | EvalError::NothingToHoldOut { .. })) => {
                eprintln!("note: no linear probe with a chosen rate: {error}");
                return Ok(());
            }
            fitted => fitted?,
        };
        let choice = format!("weight decay chosen of {} settings on {n_held_out} held-out images", points.len());
        let setting = setting(&chosen, &format!("{} and {choice}", chosen.lr));
        scores.push(Score::single(Probe::LinearGrid, probe.score(&banks.test)?, started, setting));
        scores.tried.extend(points.into_iter().map(|point| Tried {
            probe: Probe::LinearGrid,
            setting: format!("lr {}, weight decay {}", point.lr, point.weight_decay),
            held_out_top1: point.held_out_top1,
        }));
        Ok(())
    }

    /// The probe that needs no settings.
    fn optimum(&self, banks: &Banks, scores: &mut Scores) -> Result<(), CliError> {
        let started = Instant::now();
        let config = self.more().map_or_else(LogisticProbeConfig::usual, ScoresSection::optimum);
        let fit = catch(|| LogisticProbe::new(&config, self.seed)?.fit(&banks.train))??;
        let accuracy = fit.probe.score(&banks.test)?;
        scores.push(Score::single(Probe::LinearOptimum, accuracy, started, optimum_setting(&fit)));
        scores.tried.extend(fit.path.into_iter().map(|point| Tried {
            probe: Probe::LinearOptimum,
            setting: format!("strength {:.1e}", point.strength),
            held_out_top1: Some(point.held_out_top1),
        }));
        Ok(())
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
