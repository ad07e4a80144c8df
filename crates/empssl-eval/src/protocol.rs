//! The protocol: which scores there are and how they are computed, as rows of a report.
//!
//! - [`EvaluationConfig`]: what the features are taken from and how they are scored; a recipe's `[evaluation]`;
//! - [`Protocol`]: the rows and curves of each encoder;
//! - [`FeatureSource`]: who computes features, or takes those that are kept; images and files are its business;
//! - [`held_out`]: which labelled images are scored in place of the test images.
//!
//! A new kind of score is a method of `Scorer`, a [`Probe`] of the report and a line in `Protocol::add_rows`.

mod config;
mod held_out;

use std::time::Instant;

use empssl_report::report::{CurvePoint, Encoder, PeakBytes, Probe, Row, ScoredOn, TestPoint};
use empssl_torch::catch;
use tch::Device;

pub use self::config::{CurveConfig, EvalPass, EvaluationConfig, ScoresConfig, is_nested, loader_view};
pub use self::held_out::held_out;
use crate::error::EvalError;
use crate::features::{BankFile, FEATURES, FeatureBank, FeatureExtractor};
use crate::knn::WeightedKnn;
use crate::metrics::{Accuracy, Spread};
use crate::probe::{
    FewLabels, FewLabelsScore, LinearProbe, LinearProbeConfig, LogisticFit, LogisticProbe, LogisticProbeConfig,
    PIXEL_RATES, best_of_rates,
};

/// The epoch of random draws that belong to no epoch: what is scored or drawn is never what was trained on.
pub const NO_EPOCH: u64 = u64::MAX;

/// How far the seeds of a repeated score are from one another, so that runs of seeds 0, 1, 2 share none.
const BETWEEN_SEEDS: u64 = 1 << 32;

/// An encoder to be scored.
pub struct NamedEncoder<'a> {
    /// Which one, in the report.
    pub encoder: Encoder,
    /// How the names of its files begin.
    pub name: String,
    /// The encoder itself.
    pub extractor: &'a dyn FeatureExtractor,
    /// Of its weights; nothing for one without, whose features are as quickly computed as read.
    pub checksum: Option<String>,
}

/// Who computes the features of the labelled images.
pub trait FeatureSource {
    /// What can go wrong there.
    type Error: From<EvalError>;

    /// The outputs of an encoder for both splits, in one pass.
    ///
    /// # Errors
    /// Whatever keeps it from that.
    fn features(
        &mut self,
        encoder: &NamedEncoder<'_>,
        pass: &EvalPass,
        outputs: &[String],
    ) -> Result<BankFiles, Self::Error>;

    /// The most memory in use since the last pass began.
    ///
    /// # Errors
    /// Where the device cannot tell.
    fn peaks(&self) -> Result<PeakBytes, Self::Error>;

    /// Is told of every row as soon as it is scored; its seconds are those of the scoring alone.
    fn scored(&self, row: &Row);
}

/// What one pass over both splits gave.
pub struct BankFiles {
    /// Features of the images that are learnt from.
    pub train: BankFile,
    /// Features of the images that are scored.
    pub test: BankFile,
    /// Where they are scored.
    pub device: Device,
    /// The most memory that the pass took.
    pub peaks: PeakBytes,
}

/// Features of one encoder over so many patches, and what they cost.
struct Banks {
    train: FeatureBank,
    test: FeatureBank,
    /// Of both.
    seconds: f64,
    /// Of the test images alone.
    test_seconds: f64,
    peaks: PeakBytes,
}

impl BankFiles {
    /// The scored features, averaged over so many patches.
    fn banks(&self, n_patches: usize) -> Result<Banks, EvalError> {
        let count = n_patches as i64;
        let train = self.train.bank("training", FEATURES, count, self.device)?;
        let test = self.test.bank("test", FEATURES, count, self.device)?;
        let [train_seconds, test_seconds] = [&self.train, &self.test].map(|file| file.seconds(count).unwrap_or(0.0));
        Ok(Banks { train, test, seconds: train_seconds + test_seconds, test_seconds, peaks: self.peaks })
    }
}

/// Computes the rows and curves of a report, encoder by encoder.
pub struct Protocol<'a, S> {
    config: &'a EvaluationConfig,
    seed: u64,
    /// Where the features are from.
    pub source: S,
    /// The table of scores, in the order in which they were computed.
    pub rows: Vec<Row>,
    /// The published probe of each network after each of its epochs.
    pub probe_curve: Vec<CurvePoint>,
    /// The trained encoder by the patches of an image.
    pub test_curve: Vec<TestPoint>,
}

impl<'a, S: FeatureSource> Protocol<'a, S> {
    /// No rows yet; everything random is drawn by the seed.
    pub fn new(config: &'a EvaluationConfig, seed: u64, source: S) -> Self {
        Self { config, seed, source, rows: Vec::new(), probe_curve: Vec::new(), test_curve: Vec::new() }
    }

    /// The rows of an encoder that is compared with, whose patches are those of [`EvaluationConfig::row_pass`], or the
    /// whole image for raw pixels.
    ///
    /// # Errors
    /// Those of the source, and of [`LinearProbe`], [`WeightedKnn`], [`LogisticProbe`] and [`FewLabels`].
    pub fn add_baseline(&mut self, encoder: &NamedEncoder<'_>) -> Result<(), S::Error> {
        let pass = match encoder.encoder {
            Encoder::Pixels => EvalPass::of_pixels(),
            _ => self.config.row_pass(),
        };
        let files = self.source.features(encoder, &pass, &scored_output())?;
        self.add_rows(encoder.encoder, &files.banks(pass.n_patches())?)
    }

    /// The rows of the trained encoder and the curve against patches; returns the files that the rows are from, in
    /// which there are the outputs `kept` besides the scored one.
    ///
    /// # Errors
    /// As [`Protocol::add_baseline`].
    pub fn add_trained(&mut self, encoder: &NamedEncoder<'_>, kept: &[String]) -> Result<BankFiles, S::Error> {
        let (config, pass) = (self.config, self.config.trained_pass());
        let files = self.source.features(encoder, &pass, &[&scored_output(), kept].concat())?;
        self.add_rows(encoder.encoder, &files.banks(config.n_patches)?)?;
        for other in config.curve.iter().flat_map(CurveConfig::passes) {
            if other.is_part_of(&pass) {
                self.add_points(&other, &files)?;
            } else {
                let files = self.source.features(encoder, &other, &scored_output())?;
                self.add_points(&other, &files)?;
            }
        }
        Ok(files)
    }

    fn add_rows(&mut self, encoder: Encoder, banks: &Banks) -> Result<(), S::Error> {
        let (first, config) = (self.rows.len(), self.config);
        let scorer = Scorer { config, seed: self.seed, encoder, banks };
        if encoder == Encoder::Pixels {
            self.push(scorer.linear_at_its_best_rate()?);
        } else {
            let (row, curve) = scorer.linear()?;
            let point = |(index, accuracy): (usize, Accuracy)| CurvePoint {
                encoder,
                epoch: index + 1,
                test_top1: accuracy.top1,
            };
            self.probe_curve.extend(curve.into_iter().enumerate().map(point));
            self.push(row);
        }
        scorer.knn()?.into_iter().for_each(|row| self.push(row));
        self.push(scorer.optimum()?);
        if let Some(scores) = config.scores.as_ref().filter(|_| encoder != Encoder::Pixels) {
            for &share in &scores.few_shares {
                self.push(scorer.few_labels(scores, share)?);
            }
        }
        let peak_bytes = banks.peaks.max(self.source.peaks()?);
        for row in &mut self.rows[first..] {
            row.seconds += banks.seconds;
            row.peak_bytes = peak_bytes;
        }
        Ok(())
    }

    fn push(&mut self, row: Row) {
        self.source.scored(&row);
        self.rows.push(row);
    }

    /// The points of the curve that one pass gives.
    fn add_points(&mut self, pass: &EvalPass, files: &BankFiles) -> Result<(), EvalError> {
        let (config, view, encoder) = (self.config, pass.view, Encoder::Trained);
        for &n_patches in &pass.counts {
            let banks = files.banks(n_patches)?;
            for &probe in config.curve.iter().flat_map(|curve| &curve.probes) {
                // The rows are a point of the curve already.
                let is_point = |row: &&Row| row.encoder == encoder && row.probe == probe;
                let is_row = (config.view, config.n_patches) == (view, n_patches);
                let row = self.rows.iter().find(is_point).filter(|_| is_row);
                let scorer = Scorer { config, seed: self.seed, encoder, banks: &banks };
                let (top1, top5) = row.map_or_else(|| scorer.on_curve(probe), |row| Ok((row.top1, row.top5)))?;
                let seconds = banks.test_seconds;
                self.test_curve.push(TestPoint { view, n_patches, probe, top1, top5, seconds });
            }
        }
        Ok(())
    }
}

/// The output that is scored.
fn scored_output() -> [String; 1] {
    [FEATURES.to_owned()]
}

/// Scores the features of one encoder.
struct Scorer<'a> {
    config: &'a EvaluationConfig,
    seed: u64,
    encoder: Encoder,
    banks: &'a Banks,
}

impl Scorer<'_> {
    /// The mean of a score that was taken once for each seed; its seconds are those since `began`.
    fn row(&self, probe: Probe, all: &[Accuracy], began: Instant, setting: String) -> Result<Row, EvalError> {
        let spread = |of: fn(&Accuracy) -> f64| Spread::of(&all.iter().map(of).collect::<Vec<_>>());
        let (top1, top5) = (spread(|accuracy| accuracy.top1)?, spread(|accuracy| accuracy.top5)?);
        Ok(Row {
            encoder: self.encoder,
            probe,
            top1: top1.mean,
            top5: top5.mean,
            chosen_on_test: None,
            n_seeds: top1.n,
            top1_deviation: top1.deviation,
            n_train: self.banks.train.n_images() as usize,
            n_test: self.banks.test.n_images() as usize,
            scored_on: self.config.scored_on,
            seconds: began.elapsed().as_secs_f64(),
            peak_bytes: self.banks.peaks,
            setting,
        })
    }

    /// Top-1 and top-5 of a point of the curve against patches, of which nobody asks how they came about.
    fn on_curve(&self, probe: Probe) -> Result<(f64, f64), EvalError> {
        let Banks { train, test, .. } = self.banks;
        let all = match probe {
            Probe::Knn => vec![catch(|| WeightedKnn::new(&self.config.knn)?.score(train, test))??],
            _ => {
                let score = |seed| LinearProbe::new(&self.config.probe, seed)?.fit(train)?.score(test);
                self.probe_seeds().into_iter().map(score).collect::<Result<_, EvalError>>()?
            }
        };
        let row = self.row(probe, &all, Instant::now(), String::new())?;
        Ok((row.top1, row.top5))
    }

    /// Those of the published probe.
    fn probe_seeds(&self) -> Vec<u64> {
        self.seeds(self.config.scores.as_ref().map_or(1, |scores| scores.probe_seeds))
    }

    /// The first is the run's own.
    fn seeds(&self, n_seeds: usize) -> Vec<u64> {
        (0..n_seeds as u64).map(|index| self.seed.wrapping_add(index * BETWEEN_SEEDS)).collect()
    }

    /// The published probe, and its accuracy after each epoch with the first seed.
    fn linear(&self) -> Result<(Row, Vec<Accuracy>), EvalError> {
        let (probe, began) = (&self.config.probe, Instant::now());
        let (mut last, mut best, mut first_curve) = (Vec::new(), Vec::new(), Vec::new());
        for seed in self.probe_seeds() {
            let (fitted, curve) = LinearProbe::new(probe, seed)?.fit_with_curve(&self.banks.train, &self.banks.test)?;
            last.push(fitted.score(&self.banks.test)?);
            best.extend(curve.iter().map(|epoch| epoch.top1).reduce(f64::max));
            if first_curve.is_empty() {
                first_curve = curve;
            }
        }
        let row = self.row(Probe::Linear, &last, began, sgd_setting(probe, &probe.lr.to_string()))?;
        let chosen_on_test = match self.config.scored_on {
            ScoredOn::Test => Some(Spread::of(&best)?.mean),
            ScoredOn::HeldOut => None,
        };
        Ok((Row { chosen_on_test, ..row }, first_curve))
    }

    /// The published probe at the best of three rates, chosen on the scored images, which favours the pixels.
    fn linear_at_its_best_rate(&self) -> Result<Row, EvalError> {
        let (probe, began) = (&self.config.probe, Instant::now());
        let best = best_of_rates(probe, &PIXEL_RATES, self.seed, &self.banks.train, &self.banks.test)?;
        let rates = format!("{}, the best of {PIXEL_RATES:?} on the {}", best.lr, self.config.scored_on.images());
        self.row(Probe::Linear, &[best.accuracy], began, sgd_setting(probe, &rates))
    }

    /// The neighbours: a row for each k, "the" kNN accuracy first.
    fn knn(&self) -> Result<Vec<Row>, EvalError> {
        let (config, began) = (&self.config.knn, Instant::now());
        let knn = WeightedKnn::new(config)?;
        let scores = catch(|| knn.score_each(&self.banks.train, &self.banks.test))??;
        let setting = |k: i64| format!("cosine, k {k}, T {}", config.temperature);
        scores.iter().map(|score| self.row(Probe::Knn, &[score.accuracy], began, setting(score.k))).collect()
    }

    /// The probe that needs no settings.
    fn optimum(&self) -> Result<Row, EvalError> {
        let began = Instant::now();
        let config = self.config.scores.as_ref().map_or_else(LogisticProbeConfig::usual, ScoresConfig::optimum);
        let fit = catch(|| LogisticProbe::new(&config, self.seed)?.fit(&self.banks.train))??;
        let accuracy = fit.probe.score(&self.banks.test)?;
        self.row(Probe::LinearOptimum, &[accuracy], began, optimum_setting(&fit))
    }

    /// The same on few labelled images, several times.
    fn few_labels(&self, scores: &ScoresConfig, share: f64) -> Result<Row, EvalError> {
        let began = Instant::now();
        let few = FewLabels::new(&scores.optimum(), share, &self.seeds(scores.few_seeds))?;
        let FewLabelsScore { n_per_class, n_train, accuracies } = few.score(&self.banks.train, &self.banks.test)?;
        let (percent, times) = (100.0 * share, accuracies.len());
        let setting =
            format!("L-BFGS on {percent} % of the labelled images, {n_per_class} of every class, drawn {times} times");
        let row = self.row(Probe::FewLabels, &accuracies, began, setting)?;
        Ok(Row { n_train: n_train as usize, ..row })
    }
}

fn sgd_setting(probe: &LinearProbeConfig, lr: &str) -> String {
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

#[cfg(test)]
mod tests;
