//! The command line.

mod encode;

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use empssl_data::{OnBadImage, Split};
use empssl_model::Portion;
use empssl_torch::DeviceChoice;
use empssl_train::CheckpointEvery;
use serde::{Deserialize, Serialize};

pub(crate) use self::encode::{EmbedArgs, EncodeArgs, FeatureChoice, NeighboursArgs, RowsFile, RowsForm};
use crate::error::EXIT_CODES;

/// Learn image representations without labels, in one epoch (EMP-SSL, arXiv 2304.03977).
#[derive(Debug, Parser)]
#[command(name = "empssl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a network by a recipe and save it in a run folder.
    Train(Box<TrainArgs>),
    /// Score a run: neighbours and linear probes on frozen features, beside an untrained network and raw pixels.
    Eval(EvalArgs),
    /// Make a run of weights from elsewhere: official EMP-SSL encoders, torchvision's and solo-learn's ResNets.
    Import(ImportArgs),
    /// Write the network of a run for PyTorch: its weights, or a TorchScript module.
    Export(ExportArgs),
    /// Check a recipe and print it with every key; with --json also what a run by it would do.
    Recipe(RecipeArgs),
    /// List the runs of a folder with their scores and sizes, or remove their features.
    Runs(RunsArgs),
    /// Write the features of any images to a file.
    Embed(EmbedArgs),
    /// Draw the training images that are most like an image, by the features of a run.
    Neighbours(NeighboursArgs),
    /// Fetch, check and look at a data set.
    Data(DataArgs),
    /// Measure where the time of training goes.
    Bench(BenchArgs),
    /// Report libtorch, CUDA, precision, memory and threads; fails when a GPU is there and cannot be used.
    Doctor(DoctorArgs),
    /// Print completions for a shell, to be sourced from its start-up file.
    Completions(CompletionsArgs),
}

impl Command {
    /// Whether it keeps the processors busy.
    pub(crate) fn computes(&self) -> bool {
        matches!(self, Self::Train(_) | Self::Eval(_) | Self::Embed(_) | Self::Neighbours(_) | Self::Bench(_))
    }
}

/// A number of threads: more than a machine can have is a slip of the hand.
fn at_least_one() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(1..=4096).map(|threads| threads as usize)
}

/// A value of a library's type, by its word on the command line.
fn one_of<T: Clone + Send + Sync + 'static, const N: usize>(
    values: [(T, PossibleValue); N],
) -> impl TypedValueParser<Value = T> {
    let (values, words): (Vec<T>, Vec<PossibleValue>) = values.into_iter().unzip();
    PossibleValuesParser::new(words.clone()).map(move |word| {
        let place = words.iter().position(|known| known.matches(&word, false));
        values[place.expect("the parser lets only these words through")].clone()
    })
}

/// Where to compute.
#[derive(Debug, Clone, Default, PartialEq, ClapArgs, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DeviceArgs {
    /// auto (CUDA where there is a GPU), cpu, cuda or cuda:N [default: auto].
    #[arg(long, value_name = "DEVICE")]
    #[serde(with = "as_text")]
    pub(crate) device: Option<DeviceChoice>,
    /// CPU threads of the tensor library [default: one per core].
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub(crate) threads: Option<usize>,
    /// Kernels that repeat their bits on CUDA, at a price in speed.
    #[arg(long)]
    pub(crate) deterministic: bool,
}

impl DeviceArgs {
    /// The device that was asked for.
    pub(crate) fn choice(&self) -> DeviceChoice {
        self.device.unwrap_or(DeviceChoice::Auto)
    }
}

/// Serializes an argument as it is typed.
mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(T::to_string).serialize(to)
    }

    pub(super) fn deserialize<'de, T, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
    {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
    }
}

/// How many processes work together.
#[derive(Debug, ClapArgs)]
pub(crate) struct RankArgs {
    /// Train in so many processes on this machine, each on its slice of every batch; for several machines start empssl
    /// with torchrun or srun instead.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) nproc: Option<u16>,
    /// Seconds after which a process gives up that waits for another one; more than the longest step takes.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..=86_400))]
    pub(crate) dist_timeout: u64,
}

/// Which images.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ImageArgs {
    /// The folder that holds the data set, or its archive; the synthetic set needs none.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Accept a data set with fewer records than the official count; the report's title will say so.
    #[arg(long)]
    pub(crate) partial: bool,
    /// What an unreadable image does.
    #[arg(long, value_enum, default_value_t = BadImage::Fail, value_name = "WHAT")]
    pub(crate) on_bad_image: BadImage,
}

/// `--on-bad-image`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BadImage {
    /// End with an error that names the file.
    Fail,
    /// Leave it out, count it and list it in the report.
    Skip,
}

impl From<BadImage> for OnBadImage {
    fn from(choice: BadImage) -> Self {
        match choice {
            BadImage::Fail => Self::Fail,
            BadImage::Skip => Self::Skip,
        }
    }
}

/// `empssl doctor`
#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) compute: DeviceArgs,
    /// A recipe, to say what its steps need in every memory mode and which of them fit here.
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// Change a key of the recipe, as in `--set training.n_patches=200`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", requires = "recipe")]
    pub(crate) set: Vec<String>,
}

/// `empssl train`
#[derive(Debug, ClapArgs)]
pub(crate) struct TrainArgs {
    /// The recipe, a TOML file of configs/.
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    pub(crate) recipe: Option<PathBuf>,
    #[arg(long, value_name = "NAME", help = dataset_help())]
    pub(crate) dataset: Option<String>,
    #[command(flatten)]
    pub(crate) images: ImageArgs,
    /// The seed of weights, order and patches.
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub(crate) seed: u64,
    /// Change a key of the recipe, as in `--set training.n_patches=4`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    #[command(flatten)]
    pub(crate) options: TrainOptions,
    /// Stop after so many steps, for a trial; the schedule stays that of the whole run.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_steps: Option<u64>,
    #[command(flatten)]
    pub(crate) ranks: RankArgs,
    /// The run folder to write [default: runs/DATASET-RECIPE-sSEED].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replace a run that is already in the folder.
    #[arg(long)]
    pub(crate) force: bool,
    /// Go on with an interrupted run, in its folder and by its own recipe, data set, seed and options of above; --set may
    /// change keys that leave the result alone, and options that are given replace those of the run.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["recipe", "dataset", "seed", "out", "force", "partial", "on_bad_image"])]
    pub(crate) resume: Option<PathBuf>,
}

/// How a training computes and what it reports, which no result depends on but in its last bits. A run keeps what was
/// asked for until it is resumed with something else.
#[derive(Debug, Clone, Default, PartialEq, ClapArgs, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TrainOptions {
    #[command(flatten)]
    pub(crate) compute: DeviceArgs,
    /// Threads that cut patches [default: one per core, at most 16].
    #[arg(long, value_name = "W", value_parser = at_least_one())]
    pub(crate) workers: Option<usize>,
    /// Read and log the metrics every so many steps [default: 10].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) log_every: Option<u64>,
    /// Score the features by kNN on labelled training images every so many steps [default: every tenth of the run].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) monitor_every: Option<u64>,
    /// Do not score the features while they are being trained.
    #[arg(long, conflicts_with = "monitor_every")]
    pub(crate) no_monitor: bool,
    /// Save a checkpoint every so many steps, as 200, or minutes, as 10min, besides at the end [default: 200].
    #[arg(long, value_name = "N|Nmin")]
    #[serde(with = "as_text")]
    pub(crate) checkpoint_every: Option<CheckpointEvery>,
}

impl TrainOptions {
    /// These options, and those of `before` where nothing is asked for.
    pub(crate) fn or(self, before: &Self) -> Self {
        let monitored = if self.no_monitor || self.monitor_every.is_some() { &self } else { before };
        let (monitor_every, no_monitor) = (monitored.monitor_every, monitored.no_monitor);
        let compute = DeviceArgs {
            device: self.compute.device.or(before.compute.device),
            threads: self.compute.threads.or(before.compute.threads),
            deterministic: self.compute.deterministic || before.compute.deterministic,
        };
        Self {
            compute,
            workers: self.workers.or(before.workers),
            log_every: self.log_every.or(before.log_every),
            monitor_every,
            no_monitor,
            checkpoint_every: self.checkpoint_every.or(before.checkpoint_every),
        }
    }
}

/// `empssl bench`
#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Take steps of a recipe and say how long each part takes, beside the rate at which this machine multiplies matrices.
    ///
    /// Nothing is saved. On CUDA the device is waited for wherever a part ends, which keeps the parts from overlapping; as
    /// many steps again are then timed as a whole, without that.
    Step(BenchStepArgs),
}

/// `empssl bench step`
#[derive(Debug, ClapArgs)]
pub(crate) struct BenchStepArgs {
    /// The recipe, a TOML file of configs/.
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: PathBuf,
    /// The data set, when it is not the recipe's; synthetic needs no files.
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: Option<String>,
    #[command(flatten)]
    pub(crate) images: ImageArgs,
    #[command(flatten)]
    pub(crate) compute: DeviceArgs,
    /// Change a key of the recipe, as in `--set training.n_patches=4`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Threads that cut patches [default: one per core, at most 16].
    #[arg(long, value_name = "W", value_parser = at_least_one())]
    pub(crate) workers: Option<usize>,
    /// Steps that are measured.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) steps: u64,
    /// Steps before them that are not.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub(crate) warmup: u64,
    /// Write everything that was measured to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// `empssl eval`
#[derive(Debug, ClapArgs)]
pub(crate) struct EvalArgs {
    /// The folder of the run, to be scored on the images that it learnt from.
    #[arg(required_unless_present = "checkpoint")]
    pub(crate) run: Option<PathBuf>,
    /// Where the data set is now, when it has moved since training; with --dataset, where that set is.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Transfer: score the frozen network of this run, or of this one checkpoint file, on --dataset.
    #[arg(long, value_name = "RUN|FILE", requires = "dataset", conflicts_with = "run")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// The data set to transfer to, any that train can open, or auto. A patch keeps its share of an image: the recipe's
    /// quarter of the area is 16 pixels a side of a 32-pixel image, 32 of 64, 48 of 96 and 14 of 28, resized to the
    /// side that the network was trained with; grey images have three equal channels.
    #[arg(long, value_name = "NAME", requires = "checkpoint", conflicts_with = "run")]
    pub(crate) dataset: Option<String>,
    /// Accept a --dataset with fewer records than the official count; the report's title will say so.
    #[arg(long, requires = "dataset", conflicts_with = "run")]
    pub(crate) partial: bool,
    /// What an unreadable image of --dataset does.
    #[arg(long, value_enum, default_value_t = BadImage::Fail, value_name = "WHAT", requires = "dataset", conflicts_with = "run")]
    pub(crate) on_bad_image: BadImage,
    /// The report of a transfer [default: beside the checkpoint, checkpoint.report-NAME.json].
    #[arg(long, value_name = "FILE", requires = "dataset", conflicts_with = "run")]
    pub(crate) out: Option<PathBuf>,
    /// Change a key of the recipe's evaluation, as in `--set evaluation.view=grid`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Which features may be taken from RUN/features.
    #[arg(long, value_enum, default_value_t = FeatureUse::Auto, value_name = "WHICH")]
    pub(crate) features: FeatureUse,
    /// Outputs of the network to keep in RUN/features besides the scored features; comma-separated.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "OUTPUTS")]
    pub(crate) keep: Vec<Output>,
    /// Write the trained network's features, labels and image numbers of both splits to this folder as NumPy arrays.
    #[arg(long, value_name = "DIR")]
    pub(crate) npy: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) snapshot: SnapshotArgs,
    #[command(flatten)]
    pub(crate) compute: DeviceArgs,
    /// Threads that cut patches [default: one per core, at most 16].
    #[arg(long, value_name = "W", value_parser = at_least_one())]
    pub(crate) workers: Option<usize>,
    /// Understood only to say that it is none of eval's.
    #[arg(long, hide = true, value_name = "N")]
    pub(crate) nproc: Option<u16>,
}

/// `--features`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FeatureUse {
    /// Take those in RUN/features that are of this state and these images, compute the others.
    Auto,
    /// Compute none: refuse what is missing or of something else.
    Reuse,
    /// Compute all.
    Fresh,
}

/// `--keep`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// The pooled output of the ResNet.
    Backbone,
    /// The output of the projector, which is trained on.
    Projection,
}

/// Which state of a run.
#[derive(Debug, ClapArgs)]
pub(crate) struct SnapshotArgs {
    /// The snapshot after so many epochs, one of the recipe's snapshot_epochs [default: the last state].
    #[arg(id = "snapshot", long = "snapshot", value_name = "EPOCHS")]
    pub(crate) epochs: Option<u64>,
}

/// `empssl import`
#[derive(Debug, ClapArgs)]
pub(crate) struct ImportArgs {
    /// The file of weights: what torch.save wrote (.pt, .pth, .ckpt) or safetensors. Nothing in it is executed.
    pub(crate) file: PathBuf,
    /// The recipe to evaluate by [default: the paper's for the stem that the weights have, sizes as they have them].
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// Change a key of the recipe, as in `--set evaluation.n_patches=8`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// The data set to evaluate on, when it is not the recipe's, or auto for what the files in --data are.
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: Option<String>,
    #[command(flatten)]
    pub(crate) images: ImageArgs,
    /// The seed of evaluation and of the untrained network beside it.
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub(crate) seed: u64,
    /// The run folder to write [default: runs/imported-FILE].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replace a run that is already in the folder.
    #[arg(long)]
    pub(crate) force: bool,
}

/// `empssl runs`
#[derive(Debug, ClapArgs)]
pub(crate) struct RunsArgs {
    /// The folder that holds the runs, or a run.
    #[arg(default_value = "runs", value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// Remove the features of RUN, or of every run in DIR, and what killed processes left; checkpoints and reports stay.
    #[arg(long, value_name = "RUN", num_args = 0..=1)]
    pub(crate) clean: Option<Option<PathBuf>>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `empssl export`
#[derive(Debug, ClapArgs)]
pub(crate) struct ExportArgs {
    /// The folder of the run.
    pub(crate) run: PathBuf,
    /// Which part of the network.
    #[arg(long, value_parser = part(), default_value = "full")]
    pub(crate) part: Portion,
    /// As what.
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) snapshot: SnapshotArgs,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// `--part`
fn part() -> impl TypedValueParser<Value = Portion> {
    let part = |name, help| PossibleValue::new(name).help(help);
    let full = "Everything, under the names of the official encoder class; loads with strict=True";
    let encoder = "The ResNet and the pre-feature layer, which give the features that are scored, under the same names";
    let backbone =
        "The ResNet alone, under torchvision's names; loads into a torchvision ResNet with `fc = Identity()`";
    one_of([
        (Portion::Full, part("full", full).alias("network")),
        (Portion::Encoder, part("encoder", encoder)),
        (Portion::Backbone, part("backbone", backbone)),
    ])
}

/// `--format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The weights by name.
    Safetensors,
    /// A module for torch.jit.load, which runs without any source; patches of any number and side, in any precision.
    Torchscript,
}

/// `empssl recipe`
#[derive(Debug, ClapArgs)]
pub(crate) struct RecipeArgs {
    /// The recipe, a TOML file of configs/.
    #[arg(value_name = "FILE")]
    pub(crate) recipe: PathBuf,
    /// The data set, when it is not the recipe's.
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: Option<String>,
    #[command(flatten)]
    pub(crate) images: ImageArgs,
    /// Change a key of the recipe, as in `--set training.n_patches=4`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Open the images as well and print, as JSON, the recipe, the steps and patches of a run by it, and fingerprints of
    /// the images; for programs that plan runs.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `empssl data`
#[derive(Debug, ClapArgs)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// The data sets: numbers of images and classes, and where each comes from.
    List {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Download a published set and check it; what was interrupted goes on, what is complete stays.
    Fetch {
        #[arg(help = fetch_help())]
        name: String,
        /// The folder to put it into.
        #[arg(long, value_name = "DIR", default_value = empssl_data::options::DEFAULT_ROOT)]
        data: PathBuf,
    },
    /// Check counts and checksums, decode every image, and name what is wrong.
    Verify {
        /// The data set [default: what the files in --data are].
        name: Option<String>,
        /// The folder that holds the data set, or its archive; the synthetic set needs none.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Accept a data set with fewer records than the official count.
        #[arg(long)]
        partial: bool,
    },
    /// Classes, counts, sizes, and mean and deviation of each channel.
    Info {
        /// The data set [default: what the files in --data are].
        name: Option<String>,
        #[command(flatten)]
        images: ImageArgs,
    },
    /// Draw labelled images, each with its crops before and after augmentation.
    Show {
        /// The data set [default: what the files in --data are].
        name: Option<String>,
        #[command(flatten)]
        images: ImageArgs,
        /// The PNG file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Whose augmentation to draw [default: the published one for sets of this kind].
        #[arg(long, value_name = "FILE")]
        recipe: Option<PathBuf>,
        /// Which split [default: train, or test where that is all there is].
        #[arg(long, value_parser = split())]
        split: Option<Split>,
        /// Which images and patches are drawn.
        #[arg(long, default_value_t = 0, value_name = "S")]
        seed: u64,
    },
}

/// `--split` where one is drawn.
fn split() -> impl TypedValueParser<Value = Split> {
    one_of([
        (Split::Train, PossibleValue::new("train").help("What is learned from")),
        (Split::Test, PossibleValue::new("test").help("What is scored")),
    ])
}

fn dataset_help() -> String {
    let names = empssl_data::sets::names().join(", ");
    format!("The data set, when it is not the recipe's: {names}, or auto for what the files in --data are")
}

fn fetch_help() -> String {
    let fetched = empssl_data::SETS.iter().filter(|set| !set.files.is_empty());
    let names: Vec<&str> = fetched.map(|set| set.name).collect();
    format!("One of {}", names.join(", "))
}

/// `empssl completions`
#[derive(Debug, ClapArgs)]
pub(crate) struct CompletionsArgs {
    /// bash, elvish, fish, powershell or zsh.
    pub(crate) shell: clap_complete::Shell,
}
