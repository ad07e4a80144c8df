//! `empssl eval`: the scores of a run, beside an untrained network and raw pixels, in `report.json`.

use std::time::Instant;

use empssl_data::rng::shuffled;
use empssl_data::{Dataset, LoaderConfig, Order, PatchLoader, Split, View};
use empssl_eval::{
    Accuracy, BankOptions, FeatureBank, FeatureExtractor, LinearProbe, LinearProbeConfig, PIXEL_RATES, WeightedKnn,
    best_of_rates, pixels,
};
use empssl_model::{Mode, Network};
use empssl_torch::catch;
use tch::{Device, Kind, Tensor};

use crate::args::EvalArgs;
use crate::commands::{self, NO_EPOCH, PREFETCH, SavedRun, say, train};
use crate::config::Run;
use crate::error::CliError;
use crate::progress::{Bar, seconds_at};
use crate::report::{
    self, CurvePoint, Encoder, Labelled, PartialCounts, PeakBytes, Probe, Row, RunIdentity, RunReport, Seconds,
    SkippedImage,
};
use crate::run_folder::write_json;

/// Most patches in one forward pass on a GPU.
const PATCHES_PER_CALL: i64 = 2000;
/// Largest feature map of a forward pass on the CPU, in bytes. Allocators hand larger blocks back to the system, and
/// fetching fresh pages for every layer then costs as much as computing it.
const CPU_MAP_BYTES: i64 = 16 << 20;

pub(crate) fn run(args: &EvalArgs) -> Result<(), CliError> {
    let mut saved = SavedRun::open(&args.run, args.data.as_deref(), &[])?;
    let snapshot = args.snapshot.epochs;
    let checkpoint = saved.checkpoint(snapshot)?;
    if snapshot.is_some() || checkpoint.step != saved.identity.model.steps {
        let seconds = seconds_at(&saved.folder.metrics(), checkpoint.step)?;
        saved.identity.go_back_to(checkpoint.step, seconds);
    }
    let SavedRun { folder, identity, run } = &saved;
    let device = commands::prepare(&args.compute)?;
    let sets = LabelledSets::open(&saved)?;
    let mut network = train::initial_network(run, identity.seed, device)?;
    let workers = commands::n_workers(args.workers);
    let mut scorer =
        Scorer { run, sets: &sets, seed: identity.seed, device, workers, rows: Vec::new(), curve: Vec::new() };
    let began = Instant::now();
    commands::reset_peaks(device)?;
    scorer.score_network(Encoder::Untrained, &network)?;
    network.load_state_dict(&checkpoint.network)?;
    scorer.score_network(Encoder::Trained, &network)?;
    scorer.score_pixels()?;
    let Scorer { mut rows, curve, .. } = scorer;
    rows.sort_by_key(|row| (row.encoder as usize, row.probe as usize));
    let seconds = Seconds { train: identity.training.seconds, evaluate: began.elapsed().as_secs_f64() };
    let mut report = assemble(run, identity, &sets, rows, curve, seconds, device);
    if let Some(epochs) = snapshot {
        report.be_of_snapshot(identity, epochs);
    }
    let path = folder.report(snapshot);
    write_json(&path, &report)?;
    print_table(&report);
    say(path.display());
    Ok(())
}

/// The labelled images that every row of the table is computed from.
struct LabelledSets {
    train: Dataset,
    test: Dataset,
    n_train_available: usize,
    /// Of the training split as it was opened.
    description: String,
    counts: Option<PartialCounts>,
    skipped: Vec<SkippedImage>,
    n_classes: i64,
}

impl LabelledSets {
    fn open(saved: &SavedRun) -> Result<Self, CliError> {
        let (identity, at_most) = (&saved.identity, saved.run.config.evaluation.labelled_images);
        let train = saved.training_images()?;
        demand_labels(&train)?;
        let test = identity.data.source.open(Split::Test)?;
        let skipped = SkippedImage::of(&train).into_iter().chain(SkippedImage::of(&test)).collect();
        let counts = PartialCounts::of(&train, &test);
        let (n_train_available, description) = (train.len(), train.description());
        let n_classes = train.class_names().len() as i64;
        let train = train.subset(&share(n_train_available, at_most, identity.seed))?;
        Ok(Self { train, test, n_train_available, description, counts, skipped, n_classes })
    }
}

/// Scores need labels; training does not.
fn demand_labels(set: &Dataset) -> Result<(), CliError> {
    if set.labels().is_some() {
        return Ok(());
    }
    let what = set.description();
    Err(CliError::Unlabelled(format!(
        "{what}: the images have no labels, and scores need them; put each class in a folder of its own"
    )))
}

/// A random share of `0..n`, in order: the same for every row, and for every run of the same seed.
fn share(n: usize, at_most: usize, seed: u64) -> Vec<usize> {
    if at_most >= n {
        return (0..n).collect();
    }
    let mut indices = shuffled(n, seed, NO_EPOCH);
    indices.truncate(at_most);
    indices.sort_unstable();
    indices
}

/// Features of one encoder, and what they cost.
struct Banks {
    train: FeatureBank,
    test: FeatureBank,
    seconds: f64,
    peaks: PeakBytes,
}

/// Fills the table.
struct Scorer<'a> {
    run: &'a Run,
    sets: &'a LabelledSets,
    seed: u64,
    device: Device,
    workers: usize,
    rows: Vec<Row>,
    curve: Vec<CurvePoint>,
}

impl Scorer<'_> {
    fn score_network(&mut self, encoder: Encoder, network: &Network) -> Result<(), CliError> {
        let extractor = |patches: &Tensor| network.encode(patches, Mode::Eval);
        let banks = self.banks(&extractor, self.run.view(), self.run.config.evaluation.n_patches)?;
        self.score_knn(encoder, &banks)?;
        let probe = self.run.probe.clone();
        let started = Instant::now();
        let (fitted, curve) = LinearProbe::new(&probe, self.seed)?.fit_with_curve(&banks.train, &banks.test)?;
        let accuracy = fitted.score(&banks.test)?;
        let points = curve.iter().enumerate();
        self.curve.extend(points.map(|(index, point)| CurvePoint { encoder, epoch: index + 1, test_top1: point.top1 }));
        self.push(encoder, Probe::Linear, accuracy, &banks, started, setting(&probe, &probe.lr.to_string()))
    }

    /// Raw pixels: the whole image as the network's numbers; the linear probe at the best of three rates, chosen on the
    /// test images, which favours the pixels.
    fn score_pixels(&mut self) -> Result<(), CliError> {
        let encoder = Encoder::Pixels;
        let banks = self.banks(&pixels, View::Whole, 1)?;
        self.score_knn(encoder, &banks)?;
        let started = Instant::now();
        let best = best_of_rates(&self.run.probe, &PIXEL_RATES, self.seed, &banks.train, &banks.test)?;
        let rates = format!("{}, the best of {PIXEL_RATES:?} on the test images", best.lr);
        self.push(encoder, Probe::Linear, best.accuracy, &banks, started, setting(&self.run.probe, &rates))
    }

    fn score_knn(&mut self, encoder: Encoder, banks: &Banks) -> Result<(), CliError> {
        let config = &self.run.knn;
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
        let (n_train, n_test) = (self.sets.train.len(), self.sets.test.len());
        let seconds = banks.seconds + started.elapsed().as_secs_f64();
        let peak_bytes = banks.peaks.max(commands::peaks(self.device)?);
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

    fn patches_per_call(&self) -> i64 {
        let side = self.run.sampler.side() as i64;
        let map = self.run.network.resnet.base_width * side * side * Kind::Float.elt_size_in_bytes() as i64;
        if self.device.is_cuda() { PATCHES_PER_CALL } else { (CPU_MAP_BYTES / map).max(1) }
    }

    fn banks(&self, extractor: &dyn FeatureExtractor, view: View, n_patches: usize) -> Result<Banks, CliError> {
        commands::reset_peaks(self.device)?;
        let started = Instant::now();
        let train = self.bank("training", &self.sets.train, extractor, view, n_patches)?;
        let test = self.bank("test", &self.sets.test, extractor, view, n_patches)?;
        Ok(Banks { train, test, seconds: started.elapsed().as_secs_f64(), peaks: commands::peaks(self.device)? })
    }

    fn bank(
        &self,
        name: &'static str,
        set: &Dataset,
        extractor: &dyn FeatureExtractor,
        view: View,
        n_patches: usize,
    ) -> Result<FeatureBank, CliError> {
        let loader = LoaderConfig {
            n_patches,
            batch_size: self.run.config.evaluation.batch_size,
            view,
            order: Order::Sequential,
            drop_last: false,
            seed: self.seed,
            epoch: NO_EPOCH,
            first_batch: 0,
            rank: 0,
            world: 1,
            n_workers: self.workers,
            prefetch: PREFETCH,
        };
        let loader = PatchLoader::new(set, &self.run.sampler, &loader)?;
        let options = BankOptions {
            n_classes: self.sets.n_classes,
            device: self.device,
            kind: Kind::Float,
            patches_per_call: self.patches_per_call(),
        };
        let mut bar = Bar::new("features", set.len() as u64, "images");
        let bank =
            catch(|| FeatureBank::build(name, extractor, loader, &options, &mut |done| bar.advance(done as u64)));
        bar.finish();
        Ok(bank??)
    }
}

fn setting(probe: &LinearProbeConfig, lr: &str) -> String {
    format!(
        "SGD lr {lr}, momentum {}, weight decay {}, batch {}, {} epochs, last epoch",
        probe.momentum, probe.weight_decay, probe.batch_size, probe.epochs
    )
}

fn assemble(
    run: &Run,
    identity: &RunIdentity,
    sets: &LabelledSets,
    rows: Vec<Row>,
    curve: Vec<CurvePoint>,
    seconds: Seconds,
    device: Device,
) -> RunReport {
    let machine = commands::machine(device);
    let synthetic = sets.train.is_synthetic();
    let peak_bytes = rows.iter().fold(identity.training.peak_bytes, |peak, row| peak.max(row.peak_bytes));
    let bars = run.config.checks.as_ref().map_or_else(Vec::new, |checks| report::bars(checks, &rows, &seconds));
    RunReport {
        schema_version: report::SCHEMA_VERSION,
        title: report::title(identity, synthetic, sets.counts.as_ref(), None),
        dataset: identity.data.name.clone(),
        dataset_description: sets.description.clone(),
        synthetic,
        partial: sets.counts.is_some(),
        partial_counts: sets.counts.clone(),
        recipe: run.recipe.clone(),
        recipe_toml: run.config.to_toml(),
        seed: identity.seed,
        device: identity.machine.device.clone(),
        device_name: identity.machine.device_name.clone(),
        threads: machine.threads,
        versions: machine.versions,
        commit: machine.commit,
        command: format!("{}; {}", identity.command, commands::command_line()),
        skipped_images: sets.skipped.clone(),
        model: identity.model.clone(),
        training_finished: identity.training.finished,
        seconds,
        patches_per_s: identity.training.patches_per_s,
        peak_bytes,
        labelled: Labelled {
            n_train: sets.train.len(),
            n_train_available: sets.n_train_available,
            n_test: sets.test.len(),
        },
        rows,
        // A number for a real set says nothing about generated images.
        published: if synthetic { Vec::new() } else { run.config.published.clone() },
        probe_curve: curve,
        bars,
    }
}

fn print_table(report: &RunReport) {
    say(&report.title);
    for row in &report.rows {
        let encoder = format!("{:?}", row.encoder).to_lowercase();
        let probe = format!("{:?}", row.probe).to_lowercase();
        say(format_args!(
            "  {encoder:<10} {probe:<7} top-1 {:6.2} %  top-5 {:6.2} %  {:7.1} s",
            row.top1, row.top5, row.seconds
        ));
    }
}
