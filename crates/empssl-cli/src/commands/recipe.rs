//! `empssl recipe`: a recipe with every key, and what a run by it would do, for people and for programs that plan runs.

use empssl_data::Split;
use empssl_eval::EvalPass;
use empssl_eval::features::n_pixels;
use empssl_report::outline::{DataOutline, EvaluationOutline, FeatureCost, Outline, TrainingOutline};
use empssl_train::Length;

use crate::args::RecipeArgs;
use crate::config::{Run, word};
use crate::error::CliError;
use crate::images::{ImageSource, run_of};
use crate::print::{json, output};
use crate::report::{SCHEMA_VERSION, partial_counts};

pub(crate) fn run(args: &RecipeArgs) -> Result<(), CliError> {
    let (run, images) = run_of(&args.recipe, &args.set, args.dataset.as_ref(), &args.images)?;
    if !args.json {
        output(run.config.to_toml().trim_end());
        return Ok(());
    }
    json(&outline(run, &images)?)
}

/// What taking the features of so many images costs in these passes.
fn cost(passes: &[EvalPass], images: usize, width: i64) -> FeatureCost {
    let sum = |of: fn(&EvalPass) -> usize| passes.iter().map(of).sum::<usize>() as u64 * images as u64;
    let numbers = sum(|pass| pass.counts.len()) * width.max(0) as u64;
    FeatureCost { patches: sum(EvalPass::n_patches), bytes: numbers * size_of::<f32>() as u64 }
}

/// What `--json` prints.
fn outline(run: Run, source: &ImageSource) -> Result<Outline, CliError> {
    let [train, test] = [source.open(Split::Train)?, source.open(Split::Test)?];
    let (training, evaluation) = (&run.config.training, &run.config.evaluation);
    run.check_images(train.len())?;
    if let Some(labels) = train.labels() {
        run.check_labelled(evaluation.labelled_images.min(labels.len()))?;
    }
    let steps_an_epoch = (train.len() / training.batch_size.max(1)) as u64;
    let steps = match training.length {
        Length::Epochs(epochs) => epochs.saturating_mul(steps_an_epoch),
        Length::Steps(steps) => steps,
    };
    let data = DataOutline {
        description: train.description(),
        synthetic: train.is_synthetic(),
        partial_counts: partial_counts(&train, &test),
        fingerprints: [&train, &test].map(|set| format!("{:016x}", set.fingerprint())),
    };
    let images = evaluation.labelled_images.min(train.len()) + test.len();
    Ok(Outline {
        schema_version: SCHEMA_VERSION,
        recipe_toml: run.config.to_toml(),
        dataset: source.name.clone(),
        data,
        patch_side: run.sampler.side(),
        parameters: run.config.network.n_parameters(),
        precision: word(training.precision),
        training: TrainingOutline {
            n_patches: training.n_patches,
            batch_size: training.batch_size,
            steps,
            epochs: steps as f64 / steps_an_epoch.max(1) as f64,
            snapshot_epochs: training.snapshot_epochs.clone(),
            batch_norm: word(training.batch_norm),
        },
        evaluation: EvaluationOutline {
            n_patches: evaluation.n_patches,
            scored_on: evaluation.scored_on,
            images,
            untrained: cost(&[evaluation.row_pass()], images, run.config.network.hidden),
            trained: cost(&evaluation.trained_passes(), images, run.config.network.hidden),
            pixel_bytes: cost(&[EvalPass::of_pixels()], images, n_pixels(run.sampler.side() as i64)).bytes,
        },
        published: if train.is_synthetic() { Vec::new() } else { run.config.published.clone() },
        recipe: run.recipe,
    })
}
