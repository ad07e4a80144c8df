//! The network of a run: untrained, in a trainer, or as a trained encoder for any images.

use std::path::Path;

use empssl_data::{Dataset, LoaderConfig, Order, PatchLoader};
use empssl_eval::BankOptions;
use empssl_eval::protocol::loader_view;
use empssl_model::{Mode, Network, Portion};
use empssl_report::report::View;
use empssl_train::memory::{demand_room, room};
use empssl_train::{BatchSource, Checkpoint, TrainConfig, Trainer};
use tch::{Device, Kind, Tensor};

use crate::args::{EncodeArgs, FeatureChoice};
use crate::config::{Run, RunConfig, in_training};
use crate::error::CliError;
use crate::host;
use crate::images::{ImageSource, NO_EPOCH};
use crate::machine;
use crate::report::{DataIdentity, Machine, ModelSummary, PeakBytes, RunIdentity, SCHEMA_VERSION, TrainingSummary};
use crate::run::folder::{RunFolder, read_json};
use crate::run::saved::SavedRun;

/// Most patches in one forward pass on a GPU.
const PATCHES_PER_CALL: i64 = 2000;
/// Largest feature map of a forward pass on the CPU, in bytes. Allocators hand larger blocks back to the system, and
/// fetching fresh pages for every layer then costs as much as computing it.
const CPU_MAP_BYTES: i64 = 16 << 20;

/// Finished batches that may wait: enough to hide a slow one, few enough for the memory (a loader owns two more buffers).
pub(crate) const PREFETCH: usize = 2;

/// How many patches of a run go through its network at once when nothing is trained.
pub(crate) fn patches_per_call(run: &Run, device: Device) -> i64 {
    let side = run.sampler.side() as i64;
    let map = run.config.network.resnet.base_width * side * side * Kind::Float.elt_size_in_bytes() as i64;
    if device.is_cuda() { PATCHES_PER_CALL } else { (CPU_MAP_BYTES / map).max(1) }
}

/// One pass over every image in its order, by this process alone; random patches are drawn by seed and epoch.
pub(crate) fn in_order(
    view: empssl_data::View,
    n_patches: usize,
    batch_size: usize,
    (seed, epoch): (u64, u64),
    n_workers: usize,
) -> LoaderConfig {
    LoaderConfig {
        n_patches,
        batch_size,
        view,
        order: Order::Sequential,
        drop_last: false,
        seed,
        epoch,
        first_batch: 0,
        n_batches: None,
        rank: 0,
        world: 1,
        n_workers,
        prefetch: PREFETCH,
    }
}

/// A network with its weights, and the recipe that it was trained by.
pub(crate) struct Encoder {
    pub(crate) run: Run,
    pub(crate) seed: u64,
    /// The training images, where a run's folder names them.
    pub(crate) images: Option<ImageSource>,
    /// Steps of training.
    pub(crate) step: u64,
    pub(crate) view_spec: ViewSpec,
    network: Network,
    features: FeatureChoice,
    device: Device,
    workers: usize,
}

/// What is seen of each image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ViewSpec {
    pub(crate) view: View,
    pub(crate) n_patches: usize,
}

impl Encoder {
    /// The encoder of the newest checkpoint in a run's folder, or of a checkpoint file.
    pub(crate) fn open(args: &EncodeArgs) -> Result<Self, CliError> {
        let device = machine::prepare(&args.compute)?;
        let path = &args.checkpoint;
        let (run, checkpoint, images, portion) = if path.is_dir() {
            let saved = SavedRun::open(path, None, &[])?;
            let (checkpoint, portion) = (saved.checkpoint(None)?, saved.portion());
            (saved.run, checkpoint, Some(saved.identity.data.source), portion)
        } else {
            let checkpoint = Checkpoint::load(path)?;
            let config = RunConfig::parse(&[&checkpoint.recipe], &[])
                .map_err(|reason| CliError::file("cannot use the recipe in", path, reason))?;
            (Run::new(config, Run::name_of(path))?, checkpoint, images_of(path), Portion::Full)
        };
        let mut network = initial_network(&run, checkpoint.seed, device)?;
        network.load_portion_state_dict(portion, &checkpoint.network)?;
        demand_output(path, portion, args.features)?;
        let view_spec =
            ViewSpec::new(args.view, args.patches, run.config.evaluation.view, run.config.evaluation.n_patches);
        let (features, workers) = (args.features, host::n_workers(args.workers));
        Ok(Self {
            run,
            seed: checkpoint.seed,
            images,
            step: checkpoint.step,
            view_spec,
            network,
            features,
            device,
            workers,
        })
    }

    /// The features of normalised patches.
    pub(crate) fn extract(&self, patches: &Tensor) -> Tensor {
        match self.features {
            FeatureChoice::Features => self.network.encode(patches, Mode::Eval),
            FeatureChoice::Backbone => self.network.encode_backbone(patches, Mode::Eval),
            FeatureChoice::Projection => self.network.forward(patches, Mode::Eval).projections,
        }
    }

    /// The numbers of a row.
    pub(crate) fn width(&self) -> i64 {
        match self.features {
            FeatureChoice::Features => self.run.config.network.hidden,
            FeatureChoice::Backbone => self.run.config.network.resnet.width(),
            FeatureChoice::Projection => self.run.config.network.projection,
        }
    }

    /// What the encoder is to see of these images, in their order. Random patches are drawn by the pixels of an image, so
    /// that its features do not depend on the images before it.
    pub(crate) fn patches(&self, set: &Dataset) -> Result<PatchLoader, CliError> {
        let view = match self.view_spec.view {
            View::Published => empssl_data::View::AugmentedByPixels,
            fixed => loader_view(fixed),
        };
        let (n_patches, batch_size) = (self.view_spec.n_patches, self.run.config.evaluation.batch_size);
        let config = in_order(view, n_patches, batch_size, (self.seed, NO_EPOCH), self.workers);
        Ok(PatchLoader::new(set, &self.run.sampler, &config)?)
    }

    pub(crate) fn options(&self) -> BankOptions {
        let patches_per_call = patches_per_call(&self.run, self.device);
        BankOptions { n_classes: 1, device: self.device, kind: Kind::Float, patches_per_call }
    }
}

impl ViewSpec {
    /// As asked for; else as the recipe evaluates, in fixed places where it would draw them.
    fn new(view: Option<View>, patches: Option<usize>, recipe: View, recipe_patches: usize) -> Self {
        let view = view.unwrap_or(match recipe {
            View::Published => View::Grid,
            fixed => fixed,
        });
        let usual = if view == View::Whole { 1 } else { recipe_patches };
        Self { view, n_patches: patches.unwrap_or(usual) }
    }

    /// The same in words.
    pub(crate) fn text(self) -> String {
        let Self { view, n_patches } = self;
        match view {
            View::Grid => format!("{n_patches} patches in fixed places"),
            View::GridFlip => format!("{n_patches} patches in fixed places, half of them mirrored"),
            View::Published => format!("{n_patches} random patches, augmented as in training"),
            View::Whole => "the whole image".to_owned(),
        }
    }
}

/// Refuses an output of layers that imported weights lack.
fn demand_output(path: &Path, portion: Portion, features: FeatureChoice) -> Result<(), CliError> {
    let (holds, instead) = match (portion, features) {
        (Portion::Full, _) | (_, FeatureChoice::Backbone) | (Portion::Encoder, FeatureChoice::Features) => {
            return Ok(());
        }
        (Portion::Encoder, FeatureChoice::Projection) => ("no projector", "features or --features backbone"),
        (Portion::Backbone, _) => ("a backbone alone", "backbone"),
    };
    let reason = format!("it holds {holds}; ask for --features {instead}");
    Err(CliError::file("cannot compute such features with", path, reason))
}

/// The training images of the run in whose folder, or among whose snapshots, a checkpoint file lies.
fn images_of(checkpoint: &Path) -> Option<ImageSource> {
    let folder = checkpoint.ancestors().skip(1).take(2).find_map(|folder| RunFolder::open(folder).ok())?;
    let identity: RunIdentity = read_json(&folder.identity()).ok()?;
    Some(identity.data.source)
}

/// The network before training: the same for the same seed, on every device.
pub(crate) fn initial_network(run: &Run, seed: u64, device: Device) -> Result<Network, CliError> {
    Ok(Network::new(&run.config.network, seed, Kind::Float, device)?)
}

/// A trainer with the recipe's untrained network, when a step fits into the memory, for one of `world` processes that
/// share the batch, of which so many are `here`.
pub(crate) fn build_trainer(
    run: &Run,
    config: TrainConfig,
    dataset: &Dataset,
    device: Device,
    (world, here): (usize, usize),
) -> Result<Trainer, CliError> {
    config.check_images(dataset.len()).map_err(in_training)?;
    let need = run.step_memory(device)?;
    let own = TrainConfig { batch_size: (config.batch_size / world).max(1), ..config.clone() };
    demand_room(&need, &own, device, here)?;
    let total = need.total(own.memory, own.n_patches, own.batch_size);
    keep_freed_memory(total.saturating_mul(here as u64), device)?;
    let mut network = initial_network(run, config.seed, device)?;
    network.set_arithmetic(run.config.training.arithmetic())?;
    Ok(Trainer::new(network, run.loss.clone(), &run.config.optimizer, config, dataset.len())?)
}

/// Lets this process use the memory that a step frees again in the next one, since fresh pages cost a CPU half as much
/// time again as the step; only where there is 2.2 times what a step needs, as a heap that keeps everything has gaps
/// that come to as much as it holds. What the environment says of it wins.
fn keep_freed_memory(need: u64, device: Device) -> Result<(), CliError> {
    let is_set_by_hand = std::env::var_os("MALLOC_MMAP_THRESHOLD_").is_some();
    if device == Device::Cpu && !is_set_by_hand && room(device)?.is_some_and(|room| room / 11 * 5 >= need) {
        empssl_torch::memory::keep_freed_memory();
    }
    Ok(())
}

/// Where the run's patches come from, cut by so many threads.
pub(crate) fn batch_source(run: &Run, dataset: Dataset, workers: Option<usize>) -> BatchSource {
    let n_workers = host::n_workers(workers);
    BatchSource { dataset, sampler: run.sampler.clone(), n_workers, prefetch: PREFETCH }
}

/// What `run.json` says of a run of which no step is done.
pub(crate) fn new_identity(run: &Run, seed: u64, data: DataIdentity, machine: Machine) -> RunIdentity {
    RunIdentity {
        schema_version: SCHEMA_VERSION,
        recipe: run.recipe.clone(),
        seed,
        data,
        machine,
        command: host::command_line(),
        model: model_summary(run, 0, 0.0),
        training: TrainingSummary {
            finished: false,
            steps: 0,
            seconds: 0.0,
            patches_per_s: 0.0,
            peak_bytes: PeakBytes::default(),
        },
        segments: Vec::new(),
        imported: None,
    }
}

/// How large the job is.
pub(crate) fn model_summary(run: &Run, steps: u64, epochs: f64) -> ModelSummary {
    let training = &run.config.training;
    let mut model = ModelSummary {
        parameters: run.config.network.n_parameters(),
        patch_side: run.sampler.side(),
        n_patches: training.n_patches,
        test_patches: run.config.evaluation.n_patches,
        norm_patches: training.memory.patches_at_once(training.n_patches),
        batch_size: training.batch_size,
        steps,
        epochs,
        patches_seen: 0,
    };
    model.patches_seen = steps * model.patches_a_step();
    model
}

#[cfg(test)]
pub(crate) mod tests {
    use empssl_data::{OnBadImage, OpenOptions, Split};

    use super::*;

    /// Sixty generated images.
    pub(crate) fn synthetic() -> Dataset {
        let options =
            OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
        let set = empssl_data::open(&options, Split::Test).unwrap();
        set.subset(&(0..60).collect::<Vec<_>>()).unwrap()
    }

    /// The smallest recipe.
    pub(crate) fn smoke() -> Run {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/synthetic/smoke.toml");
        Run::new(RunConfig::read(&path, &[]).unwrap(), "smoke".into()).unwrap()
    }

    #[test]
    fn what_is_seen_is_what_the_recipe_evaluates_without_its_chance() {
        let view_spec = |view, patches, recipe| ViewSpec::new(view, patches, recipe, 8);
        let grid = ViewSpec { view: View::Grid, n_patches: 8 };
        assert_eq!(view_spec(None, None, View::Published), grid);
        assert_eq!(view_spec(None, Some(4), View::Published), ViewSpec { n_patches: 4, ..grid });
        let whole = ViewSpec { view: View::Whole, n_patches: 1 };
        assert_eq!(ViewSpec::new(None, None, View::Whole, 1), whole);
        assert_eq!(view_spec(Some(View::Whole), None, View::Published), whole);
        assert_eq!(view_spec(Some(View::Published), None, View::Published).view, View::Published);
    }

    #[test]
    fn a_call_of_the_network_stays_in_its_memory() {
        let run = smoke();
        // Maps of 4 x 32 x 32 numbers of 4 bytes.
        assert_eq!(patches_per_call(&run, Device::Cpu), 1024);
        assert_eq!(patches_per_call(&run, Device::Cuda(0)), 2000);
    }
}
