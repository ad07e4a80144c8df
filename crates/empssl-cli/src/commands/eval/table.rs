//! From encoders to the tables of the report: which banks are made, which scores are taken of them.

use std::path::Path;
use std::time::Instant;

use empssl_eval::features::npy;
use empssl_eval::{BankFile, FEATURES};

use super::banks::{BankFiles, BankMaker, Banks, FeatureRequest};
use super::encoders::NamedEncoder;
use super::scores::{Score, Scorer, Scores};
use crate::config::{CurveProbe, CurveSection, EvalPass, EvalView, EvaluationSection, ScoredOn};
use crate::error::CliError;
use crate::machine;
use crate::report::{CurvePoint, Encoder, Probe, Row, TestPoint};

/// Fills the tables.
pub(crate) struct Tables<'a> {
    pub(crate) banks: BankMaker<'a>,
    pub(crate) scorer: Scorer<'a>,
    pub(crate) rows: Vec<Row>,
    pub(crate) probe_curve: Vec<CurvePoint>,
    pub(crate) test_curve: Vec<TestPoint>,
}

impl<'a> Tables<'a> {
    pub(crate) fn new(banks: BankMaker<'a>) -> Self {
        let scorer = Scorer { run: banks.run, seed: banks.seed, scored_on: banks.sets.scored_on };
        let (rows, probe_curve, test_curve) = (Vec::new(), Vec::new(), Vec::new());
        Self { banks, scorer, rows, probe_curve, test_curve }
    }

    /// The rows of a network's features.
    pub(crate) fn add_network(&mut self, encoder: &NamedEncoder<'_>) -> Result<(), CliError> {
        let pass = self.evaluation().row_pass();
        let files = self.banks.files(encoder, &FeatureRequest { pass: &pass, outputs: &scored() })?;
        self.add_rows(encoder, &files.banks(pass.n_patches())?)
    }

    /// The rows of the network that the run is about, the curve against patches, and the files of both splits that the
    /// rows are from; `kept` names outputs that are kept besides the scored one.
    pub(crate) fn add_trained(&mut self, encoder: &NamedEncoder<'_>, kept: &[String]) -> Result<BankFiles, CliError> {
        let evaluation = self.evaluation();
        let (pass, n) = (evaluation.trained_pass(), evaluation.n_patches);
        let outputs = [scored(), kept.to_vec()].concat();
        let files = self.banks.files(encoder, &FeatureRequest { pass: &pass, outputs: &outputs })?;
        self.add_rows(encoder, &files.banks(n)?)?;
        if let Some(curve) = &evaluation.curve {
            self.add_curve(encoder, curve, (&pass, &files))?;
        }
        Ok(files)
    }

    /// Raw pixels: the whole image as the network's numbers.
    pub(crate) fn add_pixels(&mut self, encoder: &NamedEncoder<'_>) -> Result<(), CliError> {
        let pass = EvalPass::of_pixels();
        let files = self.banks.files(encoder, &FeatureRequest { pass: &pass, outputs: &scored() })?;
        let banks = files.banks(1)?;
        let scores = self.scorer.of_pixels(&banks)?;
        self.add_scores(scores, &banks)
    }

    /// What the evaluation took, with the features that were taken from an earlier one at what they took then.
    pub(crate) fn seconds_since(&self, began: Instant) -> f64 {
        let earlier: f64 = self.banks.used.iter().filter(|file| file.reused).map(|file| file.seconds).sum();
        began.elapsed().as_secs_f64() + earlier
    }

    fn evaluation(&self) -> &'a EvaluationSection {
        &self.banks.run.config.evaluation
    }

    fn add_rows(&mut self, encoder: &NamedEncoder<'_>, banks: &Banks) -> Result<(), CliError> {
        let scores = self.scorer.of_network(encoder.encoder, banks)?;
        self.add_scores(scores, banks)
    }

    fn add_scores(&mut self, scores: Scores, banks: &Banks) -> Result<(), CliError> {
        let Scores { encoder, rows, curve } = scores;
        let points = curve.iter().enumerate();
        self.probe_curve.extend(points.map(|(index, point)| CurvePoint {
            encoder,
            epoch: index + 1,
            test_top1: point.top1,
        }));
        rows.into_iter().try_for_each(|score| self.add_row(encoder, score, banks))
    }

    fn add_row(&mut self, encoder: Encoder, score: Score, banks: &Banks) -> Result<(), CliError> {
        let n_train = score.n_train.unwrap_or_else(|| self.banks.sets.train.len());
        let n_test = self.banks.sets.test.len();
        let peak_bytes = banks.peaks.max(machine::peaks(self.banks.device)?);
        self.rows.push(Row {
            encoder,
            probe: score.probe,
            top1: score.accuracy.top1,
            top5: score.accuracy.top5,
            chosen_on_test: score.chosen_on_test,
            n_seeds: score.n_seeds,
            top1_deviation: score.top1_deviation,
            n_train,
            n_test,
            scored_on: self.banks.sets.scored_on,
            seconds: banks.seconds + score.seconds,
            peak_bytes,
            setting: score.setting,
        });
        Ok(())
    }

    /// Every point of the curve; `main` is the pass that the rows are from.
    fn add_curve(
        &mut self,
        encoder: &NamedEncoder<'_>,
        curve: &CurveSection,
        main: (&EvalPass, &BankFiles),
    ) -> Result<(), CliError> {
        for pass in curve.passes() {
            if pass.is_part_of(main.0) {
                self.add_points(&pass, curve, main.1)?;
            } else {
                let files = self.banks.files(encoder, &FeatureRequest { pass: &pass, outputs: &scored() })?;
                self.add_points(&pass, curve, &files)?;
            }
        }
        Ok(())
    }

    fn add_points(&mut self, pass: &EvalPass, curve: &CurveSection, files: &BankFiles) -> Result<(), CliError> {
        let view = pass.view;
        for &n_patches in &pass.counts {
            let banks = files.banks(n_patches)?;
            for &probe in &curve.probes {
                let (top1, top5) = self.scored_already(view, n_patches, probe).map_or_else(
                    || self.scorer.on_curve(probe, &banks).map(|accuracy| (accuracy.top1, accuracy.top5)),
                    Ok,
                )?;
                let probe = probe.into();
                self.test_curve.push(TestPoint {
                    view: view.into(),
                    n_patches,
                    probe,
                    top1,
                    top5,
                    seconds: banks.test_seconds,
                });
            }
        }
        Ok(())
    }

    /// The row that is this point of the curve.
    fn scored_already(&self, view: EvalView, n_patches: usize, probe: CurveProbe) -> Option<(f64, f64)> {
        let same = |row: &&Row| row.encoder == Encoder::Trained && row.probe == Probe::from(probe);
        let row = self.rows.iter().find(same).filter(|_| self.is_row(view, n_patches))?;
        Some((row.top1, row.top5))
    }

    /// Whether the table of scores is from these patches.
    fn is_row(&self, view: EvalView, n_patches: usize) -> bool {
        let evaluation = self.evaluation();
        (evaluation.view, evaluation.n_patches) == (view, n_patches)
    }
}

/// The output that is scored.
fn scored() -> Vec<String> {
    vec![FEATURES.to_owned()]
}

/// Writes labels, ids and every output over `n_patches` patches as NumPy arrays, `SPLIT-NAME.npy`.
pub(crate) fn write_npy(
    folder: &Path,
    files: &BankFiles,
    scored_on: ScoredOn,
    n_patches: usize,
) -> Result<(), CliError> {
    std::fs::create_dir_all(folder).map_err(|e| CliError::file("cannot make the folder", folder, e))?;
    for (split, file) in [("train", &files.train), (scored_on.split(), &files.test)] {
        let path = |name: &str| folder.join(format!("{split}-{name}.npy"));
        npy::write(&path("labels"), &file.labels()?)?;
        npy::write(&path("ids"), &file.ids()?)?;
        for output in &BankFile::kept(file).outputs {
            npy::write(&path(output), &file.features(output, n_patches as i64)?)?;
        }
    }
    Ok(())
}
