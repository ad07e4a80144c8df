//! The rows of the table of scores.

use std::time::Instant;

use empssl_data::View;
use empssl_eval::{Accuracy, LinearProbe, LinearProbeConfig, PIXEL_RATES, WeightedKnn, best_of_rates, pixels};
use empssl_model::{Mode, Network, Portion};
use tch::Tensor;

use super::banks::{BankMaker, Banks};
use crate::commands;
use crate::error::CliError;
use crate::report::{CurvePoint, Encoder, Probe, Row};

/// Fills the table.
pub(crate) struct Scorer<'a> {
    pub(crate) banks: BankMaker<'a>,
    /// Of a backbone alone its own output is scored.
    pub(crate) portion: Portion,
    pub(crate) rows: Vec<Row>,
    pub(crate) curve: Vec<CurvePoint>,
}

impl Scorer<'_> {
    pub(crate) fn score_network(&mut self, encoder: Encoder, network: &Network) -> Result<(), CliError> {
        let extractor = |patches: &Tensor| match self.portion {
            Portion::Backbone => network.encode_backbone(patches, Mode::Eval),
            Portion::Encoder | Portion::Full => network.encode(patches, Mode::Eval),
        };
        let banks = self.banks.banks(&extractor, self.banks.run.view(), self.banks.run.config.evaluation.n_patches)?;
        self.score_knn(encoder, &banks)?;
        let probe = self.banks.run.probe.clone();
        let started = Instant::now();
        let (fitted, curve) = LinearProbe::new(&probe, self.banks.seed)?.fit_with_curve(&banks.train, &banks.test)?;
        let accuracy = fitted.score(&banks.test)?;
        let points = curve.iter().enumerate();
        self.curve.extend(points.map(|(index, point)| CurvePoint { encoder, epoch: index + 1, test_top1: point.top1 }));
        self.push(encoder, Probe::Linear, accuracy, &banks, started, setting(&probe, &probe.lr.to_string()))
    }

    /// Raw pixels: the whole image as the network's numbers; the linear probe at the best of three rates, chosen on the
    /// test images, which favours the pixels.
    pub(crate) fn score_pixels(&mut self) -> Result<(), CliError> {
        let encoder = Encoder::Pixels;
        let banks = self.banks.banks(&pixels, View::Whole, 1)?;
        self.score_knn(encoder, &banks)?;
        let started = Instant::now();
        let best = best_of_rates(&self.banks.run.probe, &PIXEL_RATES, self.banks.seed, &banks.train, &banks.test)?;
        let rates = format!("{}, the best of {PIXEL_RATES:?} on the test images", best.lr);
        self.push(encoder, Probe::Linear, best.accuracy, &banks, started, setting(&self.banks.run.probe, &rates))
    }

    fn score_knn(&mut self, encoder: Encoder, banks: &Banks) -> Result<(), CliError> {
        let config = &self.banks.run.knn;
        let started = Instant::now();
        let accuracy = WeightedKnn::new(config)?.score(&banks.train, &banks.test)?;
        let setting = format!("cosine, k {}, T {}", config.k, config.temperature);
        self.push(encoder, Probe::Knn, accuracy, banks, started, setting)
    }

    fn push(
        &mut self,
        encoder: Encoder,
        probe: Probe,
        accuracy: Accuracy,
        banks: &Banks,
        started: Instant,
        setting: String,
    ) -> Result<(), CliError> {
        let (n_train, n_test) = (self.banks.sets.train.len(), self.banks.sets.test.len());
        let seconds = banks.seconds + started.elapsed().as_secs_f64();
        let peak_bytes = banks.peaks.max(commands::peaks(self.banks.device)?);
        self.rows.push(Row {
            encoder,
            probe,
            top1: accuracy.top1,
            top5: accuracy.top5,
            n_train,
            n_test,
            seconds,
            peak_bytes,
            setting,
        });
        Ok(())
    }
}

fn setting(probe: &LinearProbeConfig, lr: &str) -> String {
    format!(
        "SGD lr {lr}, momentum {}, weight decay {}, batch {}, {} epochs, last epoch",
        probe.momentum, probe.weight_decay, probe.batch_size, probe.epochs
    )
}
