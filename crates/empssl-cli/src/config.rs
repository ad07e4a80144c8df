//! A recipe, in two stages: [`RunConfig`] is what was typed, [`Run`] is what the program needs, checked once.
//!
//! A recipe names every key, so that nothing that shapes a result hides in the program; an unknown key is refused with
//! the nearest valid one.

use std::path::Path;

use empssl_data::{PatchConfig, PatchSampler};
use empssl_loss::{EmpSslLoss, EmpSslLossConfig};
use empssl_model::{Arithmetic, Layout, NetworkConfig, Products, ResNetConfig, Stem};
pub(crate) use empssl_report::report::Published;
use empssl_train::memory::StepMemory;
use empssl_train::{BatchNormOver, CheckpointEvery, LarsConfig, Length, MemoryMode, TrainConfig};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

pub(crate) use self::evaluation::{CurveProbe, CurveSection, EvalPass, EvalView, EvaluationSection, ScoredOn};
pub(crate) use self::scores::ScoresSection;
use crate::error::CliError;

mod evaluation;
mod scores;

/// A recipe as it stands in a TOML file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunConfig {
    /// The data set, one of those that `empssl data list` names.
    pub(crate) dataset: String,
    pub(crate) patches: PatchConfig,
    pub(crate) network: NetworkSection,
    pub(crate) loss: LossSection,
    pub(crate) optimizer: LarsConfig,
    pub(crate) schedule: ScheduleSection,
    pub(crate) training: TrainingSection,
    pub(crate) evaluation: EvaluationSection,
    /// What the report must show for the run to count as good; a recipe without claims has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checks: Option<Checks>,
    /// Numbers others published for this recipe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) published: Vec<Published>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkSection {
    pub(crate) backbone: Backbone,
    pub(crate) stem: Stem,
    /// Channels of the first stage; 64 is the published width.
    pub(crate) base_width: i64,
    /// h
    pub(crate) hidden: i64,
    /// d
    pub(crate) projection: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backbone {
    Resnet18,
    Resnet34,
    Resnet50,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LossSection {
    pub(crate) invariance_weight: f64,
    pub(crate) coding_rate_weight: f64,
    pub(crate) eps_sq: f64,
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
    /// Minutes of training and evaluation on a 2-core CPU.
    pub(crate) max_minutes: f64,
}

impl RunConfig {
    /// Reads a recipe file, with `KEY=VALUE` changes on top.
    pub(crate) fn read(path: &Path, changes: &[String]) -> Result<Self, CliError> {
        let text = std::fs::read_to_string(path).map_err(|e| CliError::file("cannot read the recipe", path, e))?;
        Self::parse(&text, changes).map_err(|reason| CliError::Recipe(format!("{}: {reason}", path.display())))
    }

    /// Parses a recipe; the error is a sentence that names line and key.
    pub(crate) fn parse(text: &str, changes: &[String]) -> Result<Self, String> {
        if changes.is_empty() {
            return toml::from_str(text).map_err(|error| explain(text, &error));
        }
        // First as it stands, so that its own mistakes are reported with their lines.
        let config: Self = toml::from_str(text).map_err(|error| explain(text, &error))?;
        // Every key, also one that the file leaves out, may be changed.
        let mut table = toml::Table::try_from(&config).map_err(|error| error.to_string())?;
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

fn explain(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let place = line.map_or(String::new(), |line| format!("line {line}: "));
    format!("{place}{}", explain_message(error.message()))
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
    pub(crate) network: NetworkConfig,
    pub(crate) loss: EmpSslLoss,
}

impl Run {
    /// Checks a recipe.
    pub(crate) fn new(config: RunConfig, recipe: String) -> Result<Self, CliError> {
        let loss = EmpSslLossConfig {
            invariance_weight: config.loss.invariance_weight,
            coding_rate_weight: config.loss.coding_rate_weight,
            eps_sq: config.loss.eps_sq,
        };
        demand_possible(&config)?;
        let network = config.network.resolve();
        network.check()?;
        config.evaluation.check_scores()?;
        let (sampler, loss) = (PatchSampler::new(&config.patches)?, EmpSslLoss::new(&loss)?);
        Ok(Self { recipe, sampler, network, loss, config })
    }

    /// The recipe's name, from its path: `configs/cifar10/quick.toml` is `quick`.
    pub(crate) fn name_of(path: &Path) -> String {
        path.file_stem().map_or_else(|| "recipe".to_owned(), |stem| stem.to_string_lossy().into_owned())
    }

    /// The loop's settings.
    pub(crate) fn train_config(&self, seed: u64, logging: &Logging) -> TrainConfig {
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
            max_steps: logging.max_steps,
            log_every: logging.log_every,
            checkpoint_every: logging.checkpoint_every,
            snapshot_epochs: training.snapshot_epochs.clone(),
        }
    }

    /// What a step of this run needs on `device`.
    pub(crate) fn step_memory(&self, device: Device) -> Result<StepMemory, CliError> {
        let activations = self.config.training.arithmetic().activation_kind(Kind::Float, device)?;
        Ok(StepMemory::estimate(&self.network, self.sampler.side(), Kind::Float, activations))
    }
}

/// Settings of one invocation, which no result depends on.
pub(crate) struct Logging {
    pub(crate) max_steps: Option<u64>,
    pub(crate) log_every: u64,
    pub(crate) checkpoint_every: Option<CheckpointEvery>,
}

impl TrainingSection {
    /// How the network computes while it trains.
    pub(crate) fn arithmetic(&self) -> Arithmetic {
        let products = if self.precision == Precision::Bf16 { Products::Bf16 } else { Products::Own };
        Arithmetic { products, layout: self.layout }
    }
}

impl NetworkSection {
    fn resolve(&self) -> NetworkConfig {
        let resnet = match self.backbone {
            Backbone::Resnet18 => ResNetConfig::resnet18(self.stem),
            Backbone::Resnet34 => ResNetConfig::resnet34(self.stem),
            Backbone::Resnet50 => ResNetConfig::resnet50(self.stem),
        };
        let resnet = ResNetConfig { base_width: self.base_width, ..resnet };
        NetworkConfig { resnet, hidden: self.hidden, projection: self.projection }
    }
}

/// What no crate below checks: settings that only this file knows.
fn demand_possible(config: &RunConfig) -> Result<(), CliError> {
    if config.schedule.horizon == Horizon::Official && matches!(config.training.length, Length::Steps(_)) {
        let reason = "schedule.horizon = \"official\" counts epochs, so training.length must be in epochs";
        return Err(CliError::Recipe(reason.to_owned()));
    }
    config.evaluation.demand_possible()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use empssl_eval::{KnnConfig, LinearProbeConfig};

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

    fn smoke() -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/synthetic/smoke.toml"))
            .unwrap()
    }

    fn refusal(text: &str) -> String {
        let config = RunConfig::parse(text, &[]);
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
            assert!(
                text.starts_with("# ") && text.contains("cargo xtask reproduce"),
                "{} has no header",
                path.display()
            );
        }
    }

    #[test]
    fn a_recipe_survives_being_stored_with_its_run() {
        for path in shipped_recipes() {
            let config = RunConfig::read(&path, &[]).unwrap();
            assert_eq!(RunConfig::parse(&config.to_toml(), &[]).unwrap(), config);
        }
    }

    #[test]
    fn photographs_get_the_published_patches_and_stem() {
        for (dataset, stem) in [("imagenet100", Stem::Imagenet), ("tiny-imagenet", Stem::TinyImagenet)] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../configs/{dataset}/one-epoch.toml"));
            let run = Run::new(RunConfig::read(&path, &[]).unwrap(), "one-epoch".into()).unwrap();
            assert_eq!(run.config.patches, PatchConfig::imagenet224());
            assert_eq!(run.network, NetworkConfig::paper(ResNetConfig::resnet18(stem)));
        }
    }

    #[test]
    fn the_one_epoch_recipe_is_the_papers() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/cifar10/one-epoch.toml");
        let run = Run::new(RunConfig::read(&path, &[]).unwrap(), "one-epoch".into()).unwrap();
        assert_eq!(run.config.patches, PatchConfig::cifar32());
        assert_eq!(run.config.optimizer, LarsConfig::paper());
        assert_eq!(run.network, NetworkConfig::paper(ResNetConfig::resnet18(Stem::Cifar)));
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
        let text = smoke().replace("momentum = 0.9\nnesterov", "momentun = 0.9\nnesterov");
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

    #[test]
    fn impossible_settings_are_refused_by_name() {
        let set = |change: &str| {
            let config = RunConfig::parse(&smoke(), &[change.to_owned()]).unwrap();
            Run::new(config, "test".into()).err().expect("the setting is impossible").to_string()
        };
        for (change, named) in [
            ("patches.side=0", "side"),
            ("patches.flip_p=nan", "flip_p"),
            ("loss.eps_sq=nan", "eps_sq"),
            ("loss.eps_sq=-0.2", "eps_sq"),
            ("network.base_width=-16", "resnet.base_width"),
            ("evaluation.n_patches=0", "evaluation.n_patches = 0"),
            ("evaluation.view=whole", "evaluation.n_patches = 2"),
            ("evaluation.batch_size=0", "evaluation.batch_size = 0"),
            ("evaluation.labelled_images=0", "evaluation.labelled_images = 0"),
            ("evaluation.probe.lr=-1", "evaluation.probe: `lr`"),
            ("evaluation.knn.k=[0]", "evaluation.knn: `k`"),
            ("evaluation.knn.k=[]", "evaluation.knn: `k`"),
            ("schedule.horizon=official", "schedule.horizon"),
        ] {
            assert!(set(change).contains(named), "{change}: {}", set(change));
        }
    }

    #[test]
    fn precision_layout_and_memory_are_refused_with_the_list() {
        let refusal = |change: &str| RunConfig::parse(&smoke(), &[change.to_owned()]).unwrap_err();
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
        let changed = |change: &str| RunConfig::parse(&smoke(), &[change.to_owned()]);
        assert_eq!(changed("training.n_patches=7").unwrap().training.n_patches, 7);
        assert_eq!(changed("evaluation.view = whole").unwrap().evaluation.view, EvalView::Whole);
        assert_eq!(changed("training.length={epochs=3}").unwrap().training.length, Length::Epochs(3));
        assert!(changed("training.n_patch=7").unwrap_err().contains("did you mean `n_patches`?"));
        assert!(changed("trainig.n_patches=7").unwrap_err().contains("no section `trainig`; did you mean `training`?"));
        assert!(changed("training.n_patches").unwrap_err().contains("write KEY=VALUE"));
        assert!(changed("training.n_patches=many").unwrap_err().contains("after --set: invalid type"));
    }
}
