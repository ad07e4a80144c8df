//! `empssl eval`: the scores of a run, beside an untrained network and raw pixels, in `report.json`.

mod banks;
mod scores;
mod sets;

use std::time::Instant;

use tch::Device;

use self::banks::BankMaker;
use self::scores::Scorer;
use self::sets::LabelledSets;
use crate::args::EvalArgs;
use crate::commands::{self, SavedRun, say, train};
use crate::config::Run;
use crate::error::CliError;
use crate::progress::seconds_at;
use crate::report::{self, CurvePoint, Encoder, Labelled, Row, RunIdentity, RunReport, Seconds};
use crate::run_folder::write_json;

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
    let banks = BankMaker { run, sets: &sets, seed: identity.seed, device, workers };
    let mut scorer = Scorer { banks, portion: saved.portion(), rows: Vec::new(), curve: Vec::new() };
    let began = Instant::now();
    commands::reset_peaks(device)?;
    scorer.score_network(Encoder::Untrained, &network)?;
    saved.load(&mut network, &checkpoint)?;
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
