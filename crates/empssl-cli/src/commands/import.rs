//! `empssl import`: weights from elsewhere become a run that is evaluated and exported like one of ours.

use std::path::{Path, PathBuf};

use empssl_model::import::{self, Import};
use empssl_model::{Backbone, Block, Network, NetworkConfig, ResNetConfig};
use empssl_train::{Checkpoint, Position, Versions};
use tch::Device;

use crate::args::ImportArgs;
use crate::config::{Run, RunConfig};
use crate::error::CliError;
use crate::images::ImageSource;
use crate::machine;
use crate::network::new_identity;
use crate::print::output;
use crate::report::{DataIdentity, Imported, RunIdentity};
use crate::run::folder::{self, RunFolder, write_json};

/// What is evaluated by where no recipe is named: the paper's settings for small images, and over them those for
/// photographs.
const RECIPES: [&str; 2] =
    [include_str!("../../../../configs/base.toml"), include_str!("../../../../configs/photographs.toml")];

pub(crate) fn run(args: &ImportArgs) -> Result<(), CliError> {
    let import = import::read(&args.file)?;
    let (mut config, name) = recipe(args, &import)?;
    let images = ImageSource::new(args.dataset.as_ref().unwrap_or(&config.dataset), &args.images)?;
    config.dataset.clone_from(&images.name);
    // Both are claims about trainings by the recipe, of which this is none.
    (config.checks, config.published) = (None, Vec::new());
    let run = Run::new(config, name)?;
    let network = import.network(&run.config.network, args.seed)?;
    let path = args.out.clone().unwrap_or_else(|| default_folder(&args.file));
    let (folder, _lock) = RunFolder::create(&path, args.force)?;
    folder::write_file(&folder.recipe(), run.config.to_toml().as_bytes())?;
    checkpoint(&run, &import, &network, args.seed).save(&folder.checkpoints().newest())?;
    write_json(&folder.identity(), &identity(&run, args, &import, &network, images))?;
    announce(&import, &network, &path);
    Ok(())
}

/// The recipe that was named, which must fit, or the paper's with the sizes of the weights; `--set` has the last word.
fn recipe(args: &ImportArgs, import: &Import) -> Result<(RunConfig, String), CliError> {
    let found = (&import.resnet, backbone(&args.file, &import.resnet)?);
    let (config, name) = match &args.recipe {
        Some(path) => (RunConfig::read(path, &args.set)?, Run::name_of(path)),
        None => (derived(import, &args.set)?, "imported".to_owned()),
    };
    let NetworkConfig { resnet, hidden, projection } = &config.network;
    let stem_fits = import.stems().contains(&resnet.stem);
    let differing = [
        resnet.backbone().and_then(|backbone| difference("backbone", &backbone, &found.1)),
        (!stem_fits).then(|| {
            let (recipe, weights) = (resnet.stem.name(), found.0.stem.name());
            format!("`network.stem` is \"{recipe}\" there and \"{weights}\" in the weights")
        }),
        difference("base_width", &resnet.base_width, &found.0.base_width),
        import.hidden.and_then(|found| difference("hidden", hidden, &found)),
        import.projection.and_then(|found| difference("projection", projection, &found)),
    ];
    let named: Vec<String> = differing.into_iter().flatten().collect();
    match named.is_empty() {
        true => Ok((config, name)),
        false => Err(CliError::Recipe(format!(
            "the recipe is for another network than {}: {}; change it with --set, or leave --recipe out",
            args.file.display(),
            named.join("; ")
        ))),
    }
}

/// A key of the recipe's network that is not what the weights say.
fn difference<T: PartialEq + std::fmt::Debug>(key: &str, recipe: &T, weights: &T) -> Option<String> {
    (recipe != weights).then(|| format!("`network.{key}` is {recipe:?} there and {weights:?} in the weights"))
}

/// The paper's recipe for the weights' stem, with their sizes. What the file does not say, the width of heads that it
/// does not have, stays the paper's and is not used.
fn derived(import: &Import, changes: &[String]) -> Result<RunConfig, CliError> {
    let texts = &RECIPES[..1 + usize::from(import.resnet.stem.pools())];
    let mut config = RunConfig::parse(texts, &[]).map_err(CliError::Recipe)?;
    config.network = NetworkConfig {
        resnet: import.resnet.clone(),
        hidden: import.hidden.unwrap_or(config.network.hidden),
        projection: import.projection.unwrap_or(config.network.projection),
    };
    config.changed(changes).map_err(CliError::Recipe)
}

/// The backbone as recipes name it.
fn backbone(file: &Path, resnet: &ResNetConfig) -> Result<Backbone, CliError> {
    resnet.backbone().ok_or_else(|| {
        let blocks = if resnet.block == Block::Basic { "basic" } else { "bottleneck" };
        let reason = format!("its stages have {:?} {blocks} blocks; ResNet-18, -34 and -50 are known", resnet.layers);
        CliError::file("cannot import", file, reason)
    })
}

/// The weights, at step 0 of no training.
fn checkpoint(run: &Run, import: &Import, network: &Network, seed: u64) -> Checkpoint {
    Checkpoint {
        world: 1,
        step: 0,
        position: Position { epoch: 0, batch: 0, schedule_steps: 0 },
        seed,
        threads: tch::get_num_threads() as u64,
        versions: Versions::running(),
        recipe: run.config.to_toml(),
        network: network.portion_state_dict(import.portion),
        momentum: Vec::new(),
    }
}

/// What `run.json` says: nothing of a training, as nothing of it is known.
fn identity(run: &Run, args: &ImportArgs, import: &Import, network: &Network, source: ImageSource) -> RunIdentity {
    let imported = Imported {
        file: args.file.file_name().unwrap_or(args.file.as_os_str()).to_string_lossy().into_owned(),
        origin: import.origin.clone(),
        portion: import.portion,
        left_out: import.left_out.clone(),
        notes: import.notes.clone(),
    };
    let data = DataIdentity { name: source.name.clone(), source, n_images: 0, fingerprint: String::new() };
    let mut identity = new_identity(run, args.seed, data, machine::describe(Device::Cpu));
    identity.model.parameters = n_parameters(import, network);
    identity.model.norm_patches = run.config.training.n_patches;
    identity.training.finished = true;
    identity.imported = Some(imported);
    identity
}

/// Numbers that were trained, of the parts that the file holds.
fn n_parameters(import: &Import, network: &Network) -> i64 {
    let held = |name: &String| import.tensors.iter().any(|(key, _)| key == name);
    network.parameters().iter().filter(|(name, _)| held(name)).map(|(_, tensor)| tensor.numel() as i64).sum()
}

fn announce(import: &Import, network: &Network, path: &Path) {
    let count = n_parameters(import, network);
    output(format_args!("{} ({count} parameters, {} tensors)", import.origin, import.tensors.len()));
    if !import.left_out.is_empty() {
        output(format_args!("left out: {}", import.left_out.join(", ")));
    }
    import.notes.iter().for_each(|note| output(format_args!("note: {note}")));
    output(path.display());
}

/// `runs/imported-FILE`
fn default_folder(file: &Path) -> PathBuf {
    let name = file.file_stem().map_or_else(|| "weights".into(), |name| name.to_string_lossy().into_owned());
    Path::new("runs").join(format!("imported-{name}"))
}
