//! `empssl eval`: the scores of a run, beside an untrained network and raw pixels, in `report.json`.

mod banks;
mod encoders;
mod scatter;
mod sets;
mod transfer;

use std::path::{Path, PathBuf};
use std::time::Instant;

use empssl_eval::features::npy;
use empssl_eval::{BankFile, BankFiles, FEATURES, NamedEncoder, Protocol, pixels};
use empssl_report::words::duration;
use empssl_train::Checkpoint;
use tch::Device;

use self::banks::BankMaker;
use self::encoders::{BACKBONE, NetworkFeatures, PROJECTION};
use self::sets::LabelledSets;
use crate::args::{EvalArgs, Output};
use crate::config::{Checks, Run};
use crate::error::CliError;
use crate::host;
use crate::machine;
use crate::network;
use crate::print::output;
use crate::ranks;
use crate::report::{self, Encoder, Probe, Processes, RunIdentity, RunReport, ScoredOn, Seconds, Transfer};
use crate::run::folder::write_json;
use crate::run::saved::SavedRun;

pub(crate) fn run(args: &EvalArgs) -> Result<(), CliError> {
    ranks::demand_one_process("eval", args.nproc)?;
    let target = match args.checkpoint.as_deref().zip(args.dataset.as_deref()) {
        Some((checkpoint, dataset)) => transfer::target(args, checkpoint, dataset)?,
        None => EvalTarget::of_run(args)?,
    };
    let mut report = score(&target, args)?;
    match (&target.transfer, target.snapshot) {
        (Some((dataset, transfer)), _) => {
            report::mark_transfer(&mut report, &target.identity, dataset, transfer.clone());
        }
        (None, Some(epochs)) => report::mark_snapshot(&mut report, &target.identity, epochs),
        (None, None) => {}
    }
    write_json(&target.report, &report)?;
    print_table(&report);
    print_seconds(&report.seconds, target.run.config.checks.as_ref());
    output(target.report.display());
    Ok(())
}

/// What is scored on which images.
struct EvalTarget {
    run: Run,
    identity: RunIdentity,
    checkpoint: Checkpoint,
    snapshot: Option<u64>,
    sets: LabelledSets,
    /// The folder that features are kept in, and what the names of their files begin with.
    features: PathBuf,
    prefix: String,
    report: PathBuf,
    /// Where the test images are drawn by their features.
    scatter: Option<PathBuf>,
    /// The name of the images, where they are not those that were learnt from, and what is said of it.
    transfer: Option<(String, Transfer)>,
    device: Device,
}

impl EvalTarget {
    /// A run on its own images.
    fn of_run(args: &EvalArgs) -> Result<Self, CliError> {
        let path = args.run.as_deref().ok_or_else(|| CliError::Run("name the folder of a run".to_owned()))?;
        let mut saved = SavedRun::open(path, args.data.as_deref(), &args.set)?;
        let snapshot = args.snapshot.epochs;
        let checkpoint = saved.checkpoint(snapshot)?;
        saved.go_to(&checkpoint)?;
        let device = machine::prepare(&args.compute)?;
        let sets = LabelledSets::open(&saved)?;
        let SavedRun { folder, identity, run } = saved;
        let (features, report, scatter) = (folder.features(), folder.report(snapshot), Some(folder.scatter(snapshot)));
        let (prefix, transfer) = (String::new(), None);
        Ok(Self { run, identity, checkpoint, snapshot, sets, features, prefix, report, scatter, transfer, device })
    }
}

/// Every score of the network, of the same network untrained, and of raw pixels.
fn score(target: &EvalTarget, args: &EvalArgs) -> Result<RunReport, CliError> {
    let EvalTarget { run, identity, checkpoint, sets, prefix, scatter, device, .. } = target;
    let (evaluation, portion) = (&run.config.evaluation, report::portion(identity));
    let mut network = network::initial_network(run, identity.seed, *device)?;
    let maker = BankMaker::new(target, args.features, host::n_workers(args.workers))?;
    let mut protocol = Protocol::new(evaluation, identity.seed, maker);
    let began = Instant::now();
    machine::reset_peaks(*device)?;
    let untrained = NetworkFeatures(&network, portion);
    protocol.add_baseline(&named(target, Encoder::Untrained, &untrained)?)?;
    network.load_portion_state_dict(portion, &checkpoint.network)?;
    let trained = NetworkFeatures(&network, portion);
    let files = protocol.add_trained(&named(target, Encoder::Trained, &trained)?, &outputs(&args.keep))?;
    if let Some(folder) = &args.npy {
        write_npy(folder, &files, sets.test.name, evaluation.n_patches)?;
    }
    if let Some(path) = scatter {
        let count = evaluation.n_patches as i64;
        let (features, labels) = (files.test.features(FEATURES, count)?, files.test.labels()?);
        scatter::write(path, &features, &labels, sets.test.images.class_names(), evaluation.scored_on, identity.seed)?;
    }
    let (encoder, name) = (Encoder::Pixels, format!("{prefix}pixels"));
    protocol.add_baseline(&NamedEncoder { encoder, name, extractor: &pixels, checksum: None })?;
    // Features that were taken from an earlier evaluation count with what they took then.
    let earlier: f64 = protocol.source.used.iter().filter(|file| file.reused).map(|file| file.seconds).sum();
    let seconds = Seconds { train: identity.training.seconds, evaluate: began.elapsed().as_secs_f64() + earlier };
    Ok(assemble(target, protocol, seconds))
}

/// Writes labels, ids and every output over `n_patches` patches as NumPy arrays, `SPLIT-NAME.npy`.
fn write_npy(folder: &Path, files: &BankFiles, scored: &str, n_patches: usize) -> Result<(), CliError> {
    std::fs::create_dir_all(folder).map_err(|e| CliError::file("cannot make the folder", folder, e))?;
    for (split, file) in [("train", &files.train), (scored, &files.test)] {
        let path = |name: &str| folder.join(format!("{split}-{name}.npy"));
        npy::write(&path("labels"), &file.labels()?)?;
        npy::write(&path("ids"), &file.ids()?)?;
        for output in &BankFile::kept(file).outputs {
            npy::write(&path(output), &file.features(output, n_patches as i64)?)?;
        }
    }
    Ok(())
}

/// A network, and what its features are kept under.
fn named<'a>(
    target: &EvalTarget,
    encoder: Encoder,
    network: &'a NetworkFeatures<'a>,
) -> Result<NamedEncoder<'a>, CliError> {
    let name = match (encoder, target.snapshot) {
        (Encoder::Trained, Some(epochs)) => format!("epoch-{epochs:04}"),
        (encoder, _) => encoder.name().to_owned(),
    };
    let (name, checksum) = (format!("{}{name}", target.prefix), Some(encoders::checksum(network.0)?));
    Ok(NamedEncoder { encoder, name, extractor: network, checksum })
}

/// The names of outputs as the network gives them.
fn outputs(kept: &[Output]) -> Vec<String> {
    let name = |output: &Output| match output {
        Output::Backbone => BACKBONE.to_owned(),
        Output::Projection => PROJECTION.to_owned(),
    };
    let mut names: Vec<String> = kept.iter().map(name).collect();
    names.dedup();
    names
}

fn assemble(target: &EvalTarget, protocol: Protocol<'_, BankMaker<'_>>, seconds: Seconds) -> RunReport {
    let EvalTarget { run, identity, sets, device, .. } = target;
    let Protocol { source: BankMaker { used, .. }, mut rows, probe_curve, test_curve, .. } = protocol;
    rows.sort_by_key(|row| (row.encoder as usize, row.probe as usize));
    let machine = machine::describe(*device);
    let (synthetic, held_out) =
        (sets.train.images.is_synthetic(), run.config.evaluation.scored_on == ScoredOn::HeldOut);
    let peak_bytes = rows.iter().fold(identity.training.peak_bytes, |peak, row| peak.max(row.peak_bytes));
    let bars = run.config.checks.as_ref().map_or_else(Vec::new, |checks| report::bars(checks, &rows));
    RunReport {
        schema_version: report::SCHEMA_VERSION,
        title: report::title(identity, synthetic, sets.counts.as_ref(), None) + &report::scored(&rows),
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
        command: format!("{}; {}", identity.command, host::command_line()),
        skipped_images: sets.skipped.clone(),
        model: identity.model.clone(),
        training_finished: identity.training.finished,
        seconds,
        processes: Processes { train: identity.segments.last().map_or(1, |segment| segment.ranks) },
        patches_per_s: identity.training.patches_per_s,
        peak_bytes,
        labelled: sets.labelled.clone(),
        rows,
        // A number for the test images of a real set says nothing about generated or held-out images.
        published: if synthetic || held_out { Vec::new() } else { run.config.published.clone() },
        probe_curve,
        test_curve,
        transfer: None,
        features: used,
        bars,
    }
}

/// What all of it took, beside what the recipe expects.
fn print_seconds(Seconds { train, evaluate }: &Seconds, checks: Option<&Checks>) {
    let [train, evaluate] = [train, evaluate].map(|seconds| duration(*seconds));
    let expected = checks.map_or(String::new(), |checks| {
        format!("; at most {} min in all are expected on two idle processor cores", checks.max_minutes)
    });
    output(format_args!("took {train} to train and {evaluate} to evaluate{expected}"));
}

fn print_table(report: &RunReport) {
    output(&report.title);
    for row in &report.rows {
        let (encoder, probe) = (row.encoder.name(), row.probe.name());
        let spread = row.top1_deviation.map_or(String::new(), |deviation| format!("  +- {deviation:.2}"));
        let few = if row.probe == Probe::FewLabels { format!("  {} labels", row.n_train) } else { String::new() };
        output(format_args!(
            "  {encoder:<10} {probe:<14} top-1 {:6.2} %  top-5 {:6.2} %  {:7.1} s{spread}{few}",
            row.top1, row.top5, row.seconds
        ));
    }
    for point in &report.test_curve {
        let probe = point.probe.name();
        let per_image = 1e3 * point.seconds / report.labelled.n_test as f64;
        let (view, n) = (point.view.name(), point.n_patches);
        let patches = if n == 1 { "patch  " } else { "patches" };
        output(format_args!(
            "  {view:<10} {probe:<14} top-1 {:6.2} %  {n:>3} {patches}  {per_image:7.2} ms an image",
            point.top1
        ));
    }
}
