//! `empssl recipe`: a recipe with every key, and what a run by it would do, for people and for programs that plan runs.

use empssl_data::Split;
use empssl_eval::features::n_pixels;
use empssl_train::{BatchNormOver, Length};
use serde::Serialize;

use crate::args::RecipeArgs;
use crate::config::{EvalPass, Precision, Published, Run, RunConfig, ScoredOn};
use crate::error::CliError;
use crate::images::ImageSource;
use crate::print::output;
use crate::report::{PartialCounts, partial_counts};

pub(crate) fn run(args: &RecipeArgs) -> Result<(), CliError> {
    let mut config = RunConfig::read(&args.recipe, &args.set)?;
    let images = ImageSource::new(args.dataset.as_ref().unwrap_or(&config.dataset), &args.images)?;
    config.dataset.clone_from(&images.name);
    let run = Run::new(config, Run::name_of(&args.recipe))?;
    if !args.json {
        output(run.config.to_toml().trim_end());
        return Ok(());
    }
    let outline = Outline::new(run, &images)?;
    output(serde_json::to_string_pretty(&outline).map_err(|e| CliError::file("cannot print", &args.recipe, e))?);
    Ok(())
}

/// What `--json` prints.
#[derive(Serialize)]
struct Outline {
    schema_version: u32,
    recipe: String,
    /// With every key, as a run stores it.
    recipe_toml: String,
    dataset: String,
    data: DataOutline,
    patch_side: usize,
    parameters: i64,
    precision: Precision,
    training: TrainingOutline,
    evaluation: EvaluationOutline,
    published: Vec<Published>,
}

#[derive(Serialize)]
struct DataOutline {
    description: String,
    synthetic: bool,
    partial_counts: Option<PartialCounts>,
    /// Of names, labels and sizes of the training and of the test images.
    fingerprints: [String; 2],
}

#[derive(Serialize)]
struct TrainingOutline {
    n_patches: usize,
    batch_size: usize,
    steps: u64,
    epochs: f64,
    snapshot_epochs: Vec<u64>,
    batch_norm: BatchNormOver,
}

#[derive(Serialize)]
struct EvaluationOutline {
    n_patches: usize,
    scored_on: ScoredOn,
    /// Labelled training images and test images, whose features are taken, at most.
    images: usize,
    /// For the untrained network, whose features every state of a run shares.
    untrained: FeatureCost,
    /// For the trained network in one state, with the curve.
    trained: FeatureCost,
    /// Bytes of the raw pixels, which are on the disk while they are scored.
    pixel_bytes: u64,
}

/// What taking the features of a network costs.
#[derive(Serialize)]
struct FeatureCost {
    /// Patches that go through the network.
    patches: u64,
    /// Of the files in RUN/features.
    bytes: u64,
}

impl FeatureCost {
    fn of(passes: &[EvalPass], images: usize, width: i64) -> Self {
        let sum = |of: fn(&EvalPass) -> usize| passes.iter().map(of).sum::<usize>() as u64 * images as u64;
        let numbers = sum(|pass| pass.counts.len()) * width.max(0) as u64;
        Self { patches: sum(EvalPass::n_patches), bytes: numbers * size_of::<f32>() as u64 }
    }
}

impl Outline {
    fn new(run: Run, source: &ImageSource) -> Result<Self, CliError> {
        let [train, test] = [source.open(Split::Train)?, source.open(Split::Test)?];
        let (training, evaluation) = (&run.config.training, &run.config.evaluation);
        run.check_images(train.len())?;
        if let Some(labels) = train.labels() {
            evaluation.check_labelled(evaluation.labelled_images.min(labels.len()))?;
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
        Ok(Self {
            schema_version: 1,
            recipe_toml: run.config.to_toml(),
            dataset: source.name.clone(),
            data,
            patch_side: run.sampler.side(),
            parameters: run.config.network.n_parameters(),
            precision: training.precision,
            training: TrainingOutline {
                n_patches: training.n_patches,
                batch_size: training.batch_size,
                steps,
                epochs: steps as f64 / steps_an_epoch.max(1) as f64,
                snapshot_epochs: training.snapshot_epochs.clone(),
                batch_norm: training.batch_norm,
            },
            evaluation: EvaluationOutline {
                n_patches: evaluation.n_patches,
                scored_on: evaluation.scored_on,
                images,
                untrained: FeatureCost::of(&[evaluation.row_pass()], images, run.config.network.hidden),
                trained: FeatureCost::of(&evaluation.trained_passes(), images, run.config.network.hidden),
                pixel_bytes: FeatureCost::of(&[EvalPass::of_pixels()], images, n_pixels(run.sampler.side() as i64))
                    .bytes,
            },
            published: if train.is_synthetic() { Vec::new() } else { run.config.published.clone() },
            recipe: run.recipe,
        })
    }
}
