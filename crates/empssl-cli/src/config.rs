//! A recipe, in two stages: [`RunConfig`] is what was typed, [`Run`] is what the program needs, checked once.
//!
//! - [`mod@file`]: files that extend others, and where in them a mistake is; [`check`]: what is refused.
//!
//! Most sections are the configs of the libraries.

use std::path::Path;

use empssl_data::{PatchConfig, PatchSampler};
use empssl_eval::EvaluationConfig;
use empssl_loss::{EmpSslLoss, EmpSslLossConfig};
use empssl_model::{Arithmetic, Layout, NetworkConfig, Products};
pub(crate) use empssl_report::report::Published;
use empssl_train::memory::StepMemory;
use empssl_train::{BatchNormOver, LarsConfig, Length, MemoryMode, TrainConfig, TrainError};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

pub(crate) use self::check::{AUTO, in_section, leaves};
use crate::error::CliError;

mod check;
mod file;

/// A recipe as it stands in a TOML file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunConfig {
    /// The data set, one of those that `empssl data list` names.
    pub(crate) dataset: String,
    pub(crate) patches: PatchConfig,
    pub(crate) network: NetworkConfig,
    pub(crate) loss: EmpSslLossConfig,
    pub(crate) optimizer: LarsConfig,
    pub(crate) schedule: ScheduleSection,
    pub(crate) training: TrainingSection,
    pub(crate) evaluation: EvaluationConfig,
    /// What the report must show for the run to count as good; a recipe without claims has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checks: Option<Checks>,
    /// Numbers others published for this recipe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) published: Vec<Published>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScheduleSection {
    /// The learning rate of the first step.
    pub(crate) lr: f64,
    pub(crate) horizon: Horizon,
}

/// Over which steps the cosine falls to 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Horizon {
    /// The steps of the run.
    Run,
    /// 50,000 / batch_size steps an epoch whatever the data set has, as the official code counts (`main.py:131-136`);
    /// the same as `run` for CIFAR, far too short for ImageNet-100.
    Official,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainingSection {
    /// n
    pub(crate) n_patches: usize,
    /// b
    pub(crate) batch_size: usize,
    /// `{ epochs = 1 }` or `{ steps = 500 }`
    pub(crate) length: Length,
    /// Epochs, counted from 1, after which a checkpoint is kept for good.
    pub(crate) snapshot_epochs: Vec<u64>,
    pub(crate) precision: Precision,
    /// The order of a feature map's numbers in memory; it moves the last bits of a result.
    pub(crate) layout: Layout,
    /// What a step keeps in memory; by patches BatchNorm sees fewer of them, which changes the result.
    pub(crate) memory: MemoryMode,
    /// What BatchNorm looks at where several processes share a batch: `global` is the same training for any number.
    #[serde(default)]
    pub(crate) batch_norm: BatchNormOver,
}

/// The arithmetic of convolutions and products in training. Weights, the statistics of BatchNorm, the objective and the
/// optimizer are in float32 always, and evaluation is in float32 throughout, whatever a run was trained in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Precision {
    /// float32 throughout: TF32 is off in cuDNN, where libtorch's default leaves it on, and in cuBLAS.
    Fp32,
    /// float32 numbers, multiplied with 10 of their 23 bits where a GPU's tensor cores can; on a CPU the same as fp32.
    Tf32,
    /// Operands and results with the 8 bits of bfloat16, sums in float32; on a CPU by rounding, which shows the effect
    /// and saves nothing.
    Bf16,
}

/// Bars, in points of top-1 accuracy unless said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checks {
    pub(crate) linear_above_untrained: f64,
    pub(crate) linear_above_pixels: f64,
    pub(crate) knn_above_untrained: f64,
    pub(crate) knn_above_pixels: f64,
    /// Minutes that training and evaluation take at most on two idle processor cores: an expectation, told beside what
    /// they took, which nothing fails for.
    pub(crate) max_minutes: f64,
}

impl RunConfig {
    /// Reads a recipe file over those that it extends, with `KEY=VALUE` changes on top.
    pub(crate) fn read(path: &Path, changes: &[String]) -> Result<Self, CliError> {
        let config: Self = file::read(path)?;
        config.changed(changes).map_err(|reason| CliError::Recipe(format!("{}: {reason}", path.display())))
    }

    /// Parses texts, each over those before it; the error is a sentence that names line and key.
    pub(crate) fn parse(texts: &[&str], changes: &[String]) -> Result<Self, String> {
        file::parse::<Self>(texts)?.changed(changes)
    }

    /// The recipe with `KEY=VALUE` changes.
    pub(crate) fn changed(self, changes: &[String]) -> Result<Self, String> {
        if changes.is_empty() {
            return Ok(self);
        }
        // Every key, also one that the file leaves out, may be changed.
        let mut table = toml::Table::try_from(&self).map_err(|error| error.to_string())?;
        for change in changes {
            apply(&mut table, change)?;
        }
        let changed = toml::to_string(&table).map_err(|error| error.to_string())?;
        toml::from_str(&changed).map_err(|error| format!("after --set: {}", explain_message(error.message())))
    }

    /// The recipe with every key, as it is stored with the run.
    pub(crate) fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe has only tables, text and numbers")
    }
}

/// Sets one dotted key, which must be there already.
fn apply(table: &mut toml::Table, change: &str) -> Result<(), String> {
    let (key, value) = change.split_once('=').ok_or_else(|| format!("--set {change}: write KEY=VALUE"))?;
    let value = parse_value(value.trim());
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().expect("split yields one part at least");
    let mut here = table;
    for part in parts {
        let known: Vec<String> = here.keys().cloned().collect();
        here = match here.get_mut(part) {
            Some(toml::Value::Table(inner)) => inner,
            _ => return Err(format!("--set {change}: there is no section `{part}`{}", hint(part, &known))),
        };
    }
    if !here.contains_key(last) {
        let known: Vec<String> = here.keys().cloned().collect();
        return Err(format!("--set {change}: there is no key `{last}`{}", hint(last, &known)));
    }
    here.insert(last.to_owned(), value);
    Ok(())
}

/// A TOML value; what is none is taken as text, so that quotes need not survive the shell.
fn parse_value(text: &str) -> toml::Value {
    let parsed: Result<toml::Table, _> = format!("value = {text}").parse();
    parsed.ok().and_then(|mut table| table.remove("value")).unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

/// Adds the nearest valid key to serde's message about an unknown one.
fn explain_message(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let message = message.trim_end();
    match (message.starts_with("unknown field"), quoted.next()) {
        (true, Some(unknown)) => {
            let known: Vec<String> = quoted.map(str::to_owned).collect();
            format!("unknown key `{unknown}`{}", hint(unknown, &known))
        }
        _ if message.contains("expected newtype variant") => "write memory = { by-patches = COUNT }".to_owned(),
        _ => message.replace("missing field", "missing key").replace('\n', " "),
    }
}

/// A setting by its word in recipes.
pub(crate) fn word(setting: impl Serialize) -> String {
    serde_json::to_value(setting).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn hint(unknown: &str, known: &[String]) -> String {
    let distance = |key: &String| strsim::damerau_levenshtein(unknown, key);
    match known.iter().min_by_key(|key| distance(key)) {
        Some(nearest) if distance(nearest) <= 2.max(unknown.len() / 2) => format!("; did you mean `{nearest}`?"),
        _ => format!("; the keys here are {}", known.join(", ")),
    }
}

/// A recipe that was checked: everything a run is built from.
pub(crate) struct Run {
    pub(crate) config: RunConfig,
    /// The recipe's name, its file's without the ending.
    pub(crate) recipe: String,
    pub(crate) sampler: PatchSampler,
    pub(crate) loss: EmpSslLoss,
}

impl Run {
    /// Checks a recipe: everything that needs no images.
    pub(crate) fn new(config: RunConfig, recipe: String) -> Result<Self, CliError> {
        check::check(&config)?;
        let sampler = PatchSampler::new(&config.patches).map_err(|error| in_section("patches", error))?;
        config.network.check().map_err(|error| in_section("network", error))?;
        let loss = EmpSslLoss::new(&config.loss).map_err(|error| in_section("loss", error))?;
        config.optimizer.check().map_err(|error| in_section("optimizer", error))?;
        if config.schedule.horizon == Horizon::Official && matches!(config.training.length, Length::Steps(_)) {
            let reason = "schedule.horizon = \"official\" counts epochs, so training.length must be in epochs";
            return Err(CliError::Recipe(reason.to_owned()));
        }
        config.evaluation.check().map_err(|error| in_section("evaluation", error))?;
        let run = Self { config, recipe, sampler, loss };
        run.train_config(0).check().map_err(in_training)?;
        Ok(run)
    }

    /// Checks what only the images tell: that so many can be trained on.
    pub(crate) fn check_images(&self, n_images: usize) -> Result<(), CliError> {
        self.train_config(0).check_images(n_images).map_err(in_training)
    }

    /// Checks what only the images tell: that the batches of the probe are filled by so many labelled ones.
    pub(crate) fn check_labelled(&self, n_images: usize) -> Result<(), CliError> {
        self.config.evaluation.check_labelled(n_images).map_err(|error| in_section("evaluation", error))
    }

    /// The recipe's name, from its path: `configs/cifar10/quick.toml` is `quick`.
    pub(crate) fn name_of(path: &Path) -> String {
        path.file_stem().map_or_else(|| "recipe".to_owned(), |stem| stem.to_string_lossy().into_owned())
    }

    /// The loop's settings, for a run that nobody follows.
    pub(crate) fn train_config(&self, seed: u64) -> TrainConfig {
        let training = &self.config.training;
        let t_max = match (self.config.schedule.horizon, training.length) {
            (Horizon::Official, Length::Epochs(epochs)) => {
                Some((50_000 / training.batch_size.max(1) as u64).saturating_mul(epochs))
            }
            (Horizon::Run, _) | (_, Length::Steps(_)) => None,
        };
        TrainConfig {
            n_patches: training.n_patches,
            batch_size: training.batch_size,
            length: training.length,
            lr: self.config.schedule.lr,
            t_max,
            memory: training.memory,
            tf32: training.precision == Precision::Tf32,
            seed,
            max_steps: None,
            log_every: 1,
            checkpoint_every: None,
            snapshot_epochs: training.snapshot_epochs.clone(),
        }
    }

    /// What a step of this run needs on `device`.
    pub(crate) fn step_memory(&self, device: Device) -> Result<StepMemory, CliError> {
        let activations = self.config.training.arithmetic().activation_kind(Kind::Float, device)?;
        Ok(StepMemory::estimate(&self.config.network, self.sampler.side(), Kind::Float, activations))
    }
}

impl TrainingSection {
    /// How the network computes while it trains.
    pub(crate) fn arithmetic(&self) -> Arithmetic {
        let products = if self.precision == Precision::Bf16 { Products::Bf16 } else { Products::Own };
        Arithmetic { products, layout: self.layout }
    }
}

/// A refusal of the training crate, which names the rate as the schedule's key and all others as those of the training.
pub(crate) fn in_training(error: TrainError) -> CliError {
    let section = if matches!(error, TrainError::Setting { key: "lr", .. }) { "schedule" } else { "training" };
    in_section(section, error)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use empssl_eval::{KnnConfig, LinearProbeConfig};
    use empssl_model::{ResNetConfig, Stem};

    use super::*;

    /// `configs/DATASET/NAME.toml` files of the repository.
    fn shipped_recipes() -> Vec<PathBuf> {
        let entries = |folder: &Path| -> Vec<PathBuf> {
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let folders = entries(&root).into_iter().filter(|path| path.is_dir());
        let mut recipes: Vec<PathBuf> = folders.flat_map(|folder| entries(&folder)).collect();
        recipes.sort();
        recipes
    }

    fn shipped(name: &str) -> RunConfig {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name);
        RunConfig::read(&path, &[]).unwrap()
    }

    /// The smoke recipe with every key.
    fn smoke() -> String {
        shipped("synthetic/smoke.toml").to_toml()
    }

    fn refusal(text: &str) -> String {
        let config = RunConfig::parse(&[text], &[]);
        let checked = config.and_then(|config| Run::new(config, "test".into()).map_err(|error| error.to_string()));
        checked.err().expect("the recipe is wrong")
    }

    #[test]
    fn every_shipped_recipe_is_possible_and_says_what_it_is_for() {
        let recipes = shipped_recipes();
        assert!(recipes.len() >= 4, "{recipes:?}");
        for path in recipes {
            let config = RunConfig::read(&path, &[]).unwrap();
            assert_eq!(Some(config.dataset.as_str()), path.parent().unwrap().file_name().unwrap().to_str());
            Run::new(config, Run::name_of(&path)).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let shown = path.display();
            assert!(text.starts_with("# ") && text.contains("cargo xtask reproduce"), "{shown} has no header");
            let bases = text.lines().find_map(|line| line.strip_prefix("extends = ")).unwrap();
            assert!(bases.trim_start_matches('[').starts_with("\"../base.toml\""), "{shown} extends {bases}");
            assert!(text.lines().count() <= 32, "{shown} names more than what differs");
        }
    }

    #[test]
    fn a_recipe_survives_being_stored_with_its_run() {
        for path in shipped_recipes() {
            let config = RunConfig::read(&path, &[]).unwrap();
            assert_eq!(RunConfig::parse(&[&config.to_toml()], &[]).unwrap(), config);
        }
    }

    #[test]
    fn photographs_get_the_published_patches_and_stem() {
        for (dataset, stem) in [("imagenet100", Stem::Imagenet), ("tiny-imagenet", Stem::TinyImagenet)] {
            let config = shipped(&format!("{dataset}/one-epoch.toml"));
            assert_eq!(config.patches, PatchConfig::imagenet224());
            assert_eq!(config.network, NetworkConfig::paper(ResNetConfig::resnet18(stem)));
        }
    }

    #[test]
    fn the_one_epoch_recipe_is_the_papers() {
        let run = Run::new(shipped("cifar10/one-epoch.toml"), "one-epoch".into()).unwrap();
        assert_eq!(run.config.patches, PatchConfig::cifar32());
        assert_eq!(run.config.optimizer, LarsConfig::paper());
        assert_eq!(run.config.network, NetworkConfig::paper(ResNetConfig::resnet18(Stem::Cifar)));
        let (probe, knn) = (&run.config.evaluation.probe, &run.config.evaluation.knn);
        assert_eq!(*probe, LinearProbeConfig::published());
        assert_eq!((knn.main_k(), knn.temperature), (20, KnnConfig::published().temperature));
        let (training, loss) = (&run.config.training, &run.config.loss);
        assert_eq!((training.n_patches, training.batch_size, training.length), (20, 100, Length::Epochs(1)));
        assert_eq!((loss.invariance_weight, loss.coding_rate_weight, loss.eps_sq), (200.0, 1.0, 0.2));
        assert_eq!((run.config.evaluation.n_patches, run.config.schedule.lr), (128, 0.3));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_valid_one() {
        let text = smoke().replace("[optimizer]\nmomentum", "[optimizer]\nmomentun");
        let line = text.lines().position(|line| line.starts_with("momentun")).unwrap() + 1;
        assert_eq!(refusal(&text), format!("line {line}: unknown key `momentun`; did you mean `momentum`?"));
        let text = smoke().replace("k = [1, 5, 20, 200]", "neighbourhood = 20");
        assert!(
            refusal(&text).ends_with("unknown key `neighbourhood`; the keys here are k, temperature"),
            "{}",
            refusal(&text)
        );
    }

    #[test]
    fn a_missing_key_and_a_wrong_value_are_refused_by_name() {
        assert!(refusal(&smoke().replace("eps_sq = 0.2\n", "")).contains("missing key `eps_sq`"));
        assert!(
            refusal(&smoke().replace("\"resnet18\"", "\"resnet19\""))
                .contains("unknown variant `resnet19`, expected one of")
        );
        assert!(refusal(&smoke().replace("hidden = ", "hidden = \"many\" #")).contains("invalid type"));
        assert!(refusal("dataset = ").contains("line 1"));
    }

    /// Changes of the smoke recipe, each with the beginning of its refusal.
    const IMPOSSIBLE: &[(&str, &str)] = &[
        ("dataset=cifar11", "unknown data set `cifar11`: the known ones are "),
        ("patches.side=0", "`patches.side` is 0, expected "),
        ("patches.side=100000", "`patches.side` must be at most 4096, found 100000"),
        ("patches.flip_p=nan", "`patches.flip_p` must be 0 or of a size from 1e-20 to 1e20, which float32 can compute"),
        ("patches.blur_sigma=[0.1,inf]", "`patches.blur_sigma` must be 0 or of a size"),
        ("network.base_width=-16", "`network.base_width` must be at least 1, found -16"),
        ("network.base_width=9000000000", "`network.base_width` must be at most 65536, found 9000000000"),
        ("network.hidden=0", "`network.hidden` must be at least 1"),
        ("network.projection=1000000000", "`network.projection` must be at most 1000000"),
        ("loss.eps_sq=nan", "`loss.eps_sq` must be 0 or of a size from 1e-20"),
        ("loss.eps_sq=1e-300", "`loss.eps_sq` must be 0 or of a size from 1e-20"),
        ("loss.eps_sq=1e300", "`loss.eps_sq` must be 0 or of a size from 1e-20"),
        ("loss.eps_sq=0.0", "`loss.eps_sq` must be "),
        ("loss.eps_sq=-0.2", "`loss.eps_sq` must be "),
        ("loss.invariance_weight=-1.0", "`loss.invariance_weight` must be "),
        ("optimizer.momentum=1.5", "`optimizer.momentum` must be at least 0 and below 1, found 1.5"),
        ("optimizer.eta=-1.0", "`optimizer.eta` must be positive and finite, found -1"),
        ("optimizer.weight_decay=-1.0", "`optimizer.weight_decay` must be at least 0"),
        ("schedule.lr=nan", "`schedule.lr` must be 0 or of a size"),
        ("schedule.lr=-1.0", "`schedule.lr` must be positive and finite, found -1"),
        ("schedule.lr=0.0", "`schedule.lr` must be positive and finite, found 0"),
        ("schedule.horizon=official", "schedule.horizon = \"official\" counts epochs"),
        ("training.n_patches=0", "`training.n_patches` must be at least 1, found 0"),
        ("training.n_patches=1000000000", "`training.n_patches` must be at most 1000000, found 1000000000"),
        ("training.batch_size=0", "`training.batch_size` must be at least 1, found 0"),
        (
            "training.n_patches=1 training.batch_size=1",
            "`training.batch_size` must be such that n_patches x batch_size",
        ),
        (
            "training.n_patches=1000000 training.batch_size=1000000",
            "`training.n_patches` must be such that n_patches x",
        ),
        ("training.n_patches=20 training.memory={by-patches=9}", "`training.memory.by-patches` must be a divisor"),
        ("training.memory={by-patches=0}", "`training.memory.by-patches` must be a divisor"),
        ("training.length={steps=0}", "`training.length` must be at least one epoch or step"),
        ("training.length={steps=9000000000000}", "`training.length.steps` must be at most 1000000000"),
        ("training.snapshot_epochs=[2,1]", "`training.snapshot_epochs` must be rising numbers of epochs"),
        ("training.length={epochs=3} training.snapshot_epochs=[1,5]", "`training.snapshot_epochs` must be epochs that"),
        ("evaluation.n_patches=0", "`evaluation.n_patches` = 0 is not possible: "),
        ("evaluation.n_patches=1000000000", "`evaluation.n_patches` must be at most 1000000"),
        ("evaluation.view=whole", "`evaluation.n_patches` = 2 is not possible: "),
        ("evaluation.batch_size=0", "`evaluation.batch_size` = 0 is not possible: "),
        ("evaluation.labelled_images=0", "`evaluation.labelled_images` = 0 is not possible: "),
        (
            "evaluation.labelled_images=99",
            "`evaluation.probe.batch_size` must be at most the number of labelled training images, found 100 with 99",
        ),
        ("evaluation.probe.lr=-1.0", "`evaluation.probe.lr` must be positive"),
        ("evaluation.probe.lr=inf", "`evaluation.probe.lr` must be 0 or of a size"),
        ("evaluation.probe.batch_size=0", "`evaluation.probe.batch_size` must be at least 1"),
        ("evaluation.probe.epochs=0", "`evaluation.probe.epochs` must be at least 1"),
        ("evaluation.knn.k=[0]", "`evaluation.knn.k` must be at least 1"),
        ("evaluation.knn.k=[]", "`evaluation.knn.k` must be at least one number"),
        ("evaluation.knn.temperature=0.0", "`evaluation.knn.temperature` must be positive"),
        ("evaluation.curve.published=[4,2]", "`evaluation.curve.published` = 2 is not possible: "),
        ("evaluation.scores.few_shares=[2.0]", "`evaluation.scores.few_shares` must be above 0"),
        ("evaluation.scores.few_seeds=0", "`evaluation.scores.few_seeds` must be at least 1"),
        ("evaluation.scores.optimum_iterations=0", "`evaluation.scores.optimum_iterations` must be at least 1"),
        ("evaluation.scores.probe_seeds=0", "`evaluation.scores.probe_seeds` must be at least 1"),
    ];

    #[test]
    fn impossible_settings_are_refused_with_their_key_in_full() {
        let set = |changes: &str| {
            let changes: Vec<String> = changes.split(' ').map(str::to_owned).collect();
            let config = RunConfig::parse(&[&smoke()], &changes).unwrap();
            Run::new(config, "test".into()).err().unwrap_or_else(|| panic!("{changes:?} is possible")).to_string()
        };
        for &(changes, sentence) in IMPOSSIBLE {
            assert!(set(changes).starts_with(sentence), "{changes}: {}", set(changes));
        }
    }

    #[test]
    fn too_few_images_are_refused_with_the_key_in_full() {
        let run = Run::new(shipped("synthetic/smoke.toml"), "smoke".into()).unwrap();
        assert!(run.check_images(100).is_ok() && run.check_labelled(100).is_ok());
        let trained = run.check_images(99).unwrap_err().to_string();
        assert!(trained.starts_with("`training.batch_size` must be at most the number of images"), "{trained}");
        let scored = run.check_labelled(99).unwrap_err();
        assert!(scored.to_string().ends_with("found 100 with 99 images"), "{scored}");
        assert_eq!((scored.exit_code(), run.check_images(99).unwrap_err().exit_code()), (4, 4));
    }

    #[test]
    fn precision_layout_and_memory_are_refused_with_the_list() {
        let refusal = |change: &str| RunConfig::parse(&[&smoke()], &[change.to_owned()]).unwrap_err();
        for (change, list) in [
            ("training.precision=fp16", "unknown variant `fp16`, expected one of `fp32`, `tf32`, `bf16`"),
            ("training.layout=nhwc", "unknown variant `nhwc`, expected `contiguous` or `channels-last`"),
            ("training.memory=half", "unknown variant `half`, expected one of `whole`, `by-stage`, `by-patches`"),
            ("training.memory=by-patches", "write memory = { by-patches = COUNT }"),
            ("training.memory={by-patches=-1}", "invalid value"),
        ] {
            assert!(refusal(change).contains(list), "{change}: {}", refusal(change));
        }
    }

    #[test]
    fn changes_reach_nested_keys_and_wrong_ones_get_a_hint() {
        let changed = |change: &str| RunConfig::parse(&[&smoke()], &[change.to_owned()]);
        assert_eq!(changed("training.n_patches=7").unwrap().training.n_patches, 7);
        assert_eq!(changed("evaluation.view = whole").unwrap().evaluation.view, empssl_report::report::View::Whole);
        assert_eq!(changed("training.length={epochs=3}").unwrap().training.length, Length::Epochs(3));
        assert!(changed("training.n_patch=7").unwrap_err().contains("did you mean `n_patches`?"));
        assert!(changed("trainig.n_patches=7").unwrap_err().contains("no section `trainig`; did you mean `training`?"));
        assert!(changed("training.n_patches").unwrap_err().contains("write KEY=VALUE"));
        assert!(changed("training.n_patches=many").unwrap_err().contains("after --set: invalid type"));
    }
}
