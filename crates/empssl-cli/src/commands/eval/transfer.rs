//! `empssl eval --checkpoint C --dataset OTHER`: a frozen network on images other than those that it learnt from.

use std::path::{Path, PathBuf};

use empssl_data::{Dataset, Split};
use empssl_train::Checkpoint;

use super::EvalTarget;
use super::sets::LabelledSets;
use crate::args::{BadImage, EvalArgs, ImageArgs};
use crate::config::{Run, RunConfig};
use crate::error::CliError;
use crate::images::ImageSource;
use crate::machine;
use crate::network::{model_summary, new_identity};
use crate::report::{DataIdentity, RunIdentity, Transfer};
use crate::run::saved::SavedRun;

/// The network of `path`, a run or a file, on the images of `dataset`.
pub(super) fn target(args: &EvalArgs, path: &Path, dataset: &str) -> Result<EvalTarget, CliError> {
    let device = machine::prepare(&args.compute)?;
    let (run, identity, checkpoint, features, report) =
        if path.is_dir() { of_run(path, args)? } else { of_file(path, args)? };
    let images = ImageArgs { data: args.data.clone(), partial: args.partial, on_bad_image: args.on_bad_image };
    let source = ImageSource::new(dataset, &images)?;
    let (train, test) = (source.open(Split::Train)?, source.open(Split::Test)?);
    let transfer = Transfer { trained_on: identity.data.name.clone(), patches: shown(&run, &train)? };
    let (there, here) = (&transfer.trained_on, train.name());
    crate::print::note(format_args!("trained on {there}, scored on {here}; {}", transfer.patches));
    let sets = LabelledSets::of(&train, test, &run, identity.seed)?;
    let report = args.out.clone().unwrap_or_else(|| report.with_extension(format!("report-{}.json", source.name)));
    let (prefix, transfer) = (format!("{}-", source.name), Some((source.name, transfer)));
    let (snapshot, scatter) = (None, None);
    Ok(EvalTarget { run, identity, checkpoint, snapshot, sets, features, prefix, report, scatter, transfer, device })
}

/// Where the network comes from, the folder of its features, and the report's path but for its ending.
type Origin = (Run, RunIdentity, Checkpoint, PathBuf, PathBuf);

fn of_run(path: &Path, args: &EvalArgs) -> Result<Origin, CliError> {
    let mut saved = SavedRun::open(path, None, &args.set)?;
    let checkpoint = saved.checkpoint(args.snapshot.epochs)?;
    saved.go_to(&checkpoint)?;
    let SavedRun { folder, run, identity } = saved;
    let files = folder.checkpoints();
    let report = args.snapshot.epochs.map_or_else(|| files.newest(), |epochs| files.snapshot(epochs));
    Ok((run, identity, checkpoint, folder.features(), report))
}

/// A checkpoint holds the recipe and the seed; what only its run's folder would tell is left open.
fn of_file(path: &Path, args: &EvalArgs) -> Result<Origin, CliError> {
    if args.snapshot.epochs.is_some() {
        let reason = format!("--snapshot names a state of a run, but {} is one file", path.display());
        return Err(CliError::Run(reason));
    }
    let checkpoint = Checkpoint::load(path)?;
    let fault = |reason: String| CliError::Recipe(format!("the recipe within {}: {reason}", path.display()));
    let config = RunConfig::parse(&[&checkpoint.recipe], &args.set).map_err(fault)?;
    let run = Run::new(config, Run::name_of(path))?;
    let identity = identity(&run, &checkpoint);
    Ok((run, identity, checkpoint, path.with_extension("features"), path.to_owned()))
}

/// What a checkpoint alone tells of its run.
fn identity(run: &Run, checkpoint: &Checkpoint) -> RunIdentity {
    let name = run.config.dataset.clone();
    let source = ImageSource { name: name.clone(), root: None, partial: false, on_bad_image: BadImage::Fail };
    let data = DataIdentity { name, source, n_images: 0, fingerprint: String::new() };
    let mut identity = new_identity(run, checkpoint.seed, data, machine::describe(tch::Device::Cpu));
    identity.command = "a checkpoint without its run".to_owned();
    identity.model = model_summary(run, checkpoint.step, checkpoint.position.epoch as f64);
    identity.training.finished = checkpoint.step == checkpoint.position.schedule_steps;
    identity.training.steps = checkpoint.step;
    identity
}

/// The stated rule in figures: a patch shows the same share of an image as in training, whatever the image's size.
fn shown(run: &Run, train: &Dataset) -> Result<String, CliError> {
    let image = train.image(0)?;
    let (height, width) = (image.shape()[0], image.shape()[1]);
    let [least, most] = run.config.patches.crop_scale;
    let pixels = |share: f64| (share * (height * width) as f64).sqrt().round();
    let percent = |share: f64| 100.0 * share;
    let (shares, sides) = if least == most {
        (format!("{} %", percent(least)), format!("{} pixels", pixels(least)))
    } else {
        let sides = format!("{} to {} pixels", pixels(least), pixels(most));
        (format!("{} to {} %", percent(least), percent(most)), sides)
    };
    let side = run.sampler.side();
    Ok(format!(
        "a random patch shows {shares} of an image's area as in training, of a {width} x {height} image about {sides} a \
         side, resized to {side}"
    ))
}
