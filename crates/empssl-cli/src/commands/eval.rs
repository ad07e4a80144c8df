//! `empssl eval`: the scores of a run, beside an untrained network and raw pixels, in `report.json`.

mod banks;
mod encoders;
mod scores;
mod sets;
pub(crate) mod store;
mod table;

use std::time::Instant;

use empssl_eval::pixels;
use empssl_model::Network;
use tch::Device;

use self::banks::BankMaker;
use self::encoders::{BACKBONE, Encoded, NetworkFeatures, PROJECTION};
use self::sets::LabelledSets;
use self::store::BankStore;
use self::table::Tables;
use crate::args::{EvalArgs, Output};
use crate::commands::{self, SavedRun, say, train};
use crate::config::Run;
use crate::error::CliError;
use crate::progress::seconds_at;
use crate::report::{self, Encoder, Labelled, RunIdentity, RunReport, Seconds};
use crate::run_folder::write_json;

pub(crate) fn run(args: &EvalArgs) -> Result<(), CliError> {
    let mut saved = SavedRun::open(&args.run, args.data.as_deref(), &args.set)?;
    let snapshot = args.snapshot.epochs;
    let checkpoint = saved.checkpoint(snapshot)?;
    if snapshot.is_some() || checkpoint.step != saved.identity.model.steps {
        let seconds = seconds_at(&saved.folder.metrics(), checkpoint.step)?;
        saved.identity.go_back_to(checkpoint.step, seconds);
    }
    saved.identity.model.test_patches = saved.run.config.evaluation.n_patches;
    let SavedRun { folder, identity, run } = &saved;
    let device = commands::prepare(&args.compute)?;
    let sets = LabelledSets::open(&saved)?;
    let mut network = train::initial_network(run, identity.seed, device)?;
    let store = BankStore::open(&folder.features(), args.features)?;
    let workers = commands::n_workers(args.workers);
    let maker = BankMaker { run, sets: &sets, seed: identity.seed, device, workers, store: &store, used: Vec::new() };
    let mut tables = Tables::new(maker);
    let began = Instant::now();
    commands::reset_peaks(device)?;
    tables.add_network(&encoded(Encoder::Untrained, None, &network, &NetworkFeatures(&network))?)?;
    network.load_state_dict(&checkpoint.network)?;
    let features = NetworkFeatures(&network);
    let files = tables.add_trained(&encoded(Encoder::Trained, snapshot, &network, &features)?, &outputs(&args.keep))?;
    if let Some(folder) = &args.npy {
        table::write_npy(folder, &files, run.config.evaluation.n_patches)?;
    }
    let raw = Encoded { encoder: Encoder::Pixels, name: "pixels".to_owned(), extractor: &pixels, checksum: None };
    tables.add_pixels(&raw)?;
    let seconds = Seconds { train: identity.training.seconds, evaluate: tables.seconds_since(began) };
    let mut report = assemble(run, identity, tables, seconds, device);
    if let Some(epochs) = snapshot {
        report.be_of_snapshot(identity, epochs);
    }
    let path = folder.report(snapshot);
    write_json(&path, &report)?;
    print_table(&report);
    say(path.display());
    Ok(())
}

/// A network as an encoder whose features are kept under a name of their own.
fn encoded<'a>(
    encoder: Encoder,
    snapshot: Option<u64>,
    network: &Network,
    extractor: &'a NetworkFeatures<'_>,
) -> Result<Encoded<'a>, CliError> {
    let name = match (encoder, snapshot) {
        (Encoder::Untrained, _) => "untrained".to_owned(),
        (_, Some(epochs)) => format!("epoch-{epochs:04}"),
        _ => "trained".to_owned(),
    };
    Ok(Encoded { encoder, name, extractor, checksum: Some(encoders::checksum(network)?) })
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

fn assemble(run: &Run, identity: &RunIdentity, tables: Tables<'_>, seconds: Seconds, device: Device) -> RunReport {
    let Tables { banks: BankMaker { sets, used, .. }, mut rows, probe_curve, test_curve, .. } = tables;
    rows.sort_by_key(|row| (row.encoder as usize, row.probe as usize));
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
            absent_classes: sets.absent_classes.clone(),
        },
        rows,
        // A number for a real set says nothing about generated images.
        published: if synthetic { Vec::new() } else { run.config.published.clone() },
        probe_curve,
        test_curve,
        features: used,
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
    for point in &report.test_curve {
        let probe = format!("{:?}", point.probe).to_lowercase();
        let per_image = 1e3 * point.seconds / report.labelled.n_test as f64;
        let (view, n) = (point.view.name(), point.n_patches);
        let patches = if n == 1 { "patch  " } else { "patches" };
        say(format_args!(
            "  {view:<10} {probe:<7} top-1 {:6.2} %  {n:>3} {patches}  {per_image:7.2} ms an image",
            point.top1
        ));
    }
}
