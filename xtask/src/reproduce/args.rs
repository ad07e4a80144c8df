//! The command line of `cargo xtask reproduce`, and the tables of the paper that it names.

use std::path::PathBuf;

use clap::{Args as _, FromArgMatches, ValueEnum};

use super::images::{ImageSet, OnBadImage, SYNTHETIC};
use crate::workspace::Workspace;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Which images: a folder of configs/, such as synthetic or cifar10, and where they are; may be repeated
    #[arg(long, value_name = "NAME[=DIR]", default_value = SYNTHETIC)]
    pub(crate) dataset: Vec<String>,
    /// Which recipe: a file of configs/DATASET/ without its ending; may be repeated [default: those of the table; without
    /// one quick, or on a machine with an NVIDIA GPU one-epoch and main for a set of the paper]
    #[arg(long, value_name = "NAME")]
    pub(crate) recipe: Vec<String>,
    /// Where the images are, for sets without a folder of their own [default: data, if they are there]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Download a public set that is missing, and verify it
    #[arg(long)]
    pub(crate) fetch: bool,
    /// Accept a set with fewer records than the official count; the report says how many of how many
    #[arg(long)]
    pub(crate) partial: bool,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// GPUs for each run, whose training is as many processes and whose evaluation takes the first; on the CPU so many
    /// processes
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) gpus: u16,
    /// On CUDA, kernels that repeat their bits, at a price in speed; a CPU repeats them anyway
    #[arg(long)]
    pub(crate) deterministic: bool,
    /// Seed of everything random: weights, order and patches; of several the first
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// What an image that cannot be decoded means
    #[arg(long, value_enum)]
    pub(crate) on_bad_image: Option<OnBadImage>,
    /// Threads that prepare patches
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Change a key of the recipe, as in `--set training.n_patches=4`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Folder of the run, which must not hold one yet [default: runs/DATASET-RECIPE-sSEED, numbered when taken]; of a
    /// sweep, whose cells and reports lie below it [default: runs]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) sweep: SweepArgs,
}

/// What makes a sweep of it.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Sweeps")]
pub(crate) struct SweepArgs {
    /// A table of the paper; may be repeated
    #[arg(long, value_enum)]
    pub(crate) table: Vec<Table>,
    /// So many seeds of every cell
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) seeds: Option<u64>,
    /// Numbers of patches an image for the table `patches` [default: 5,10,20,50,100,200]
    #[arg(long, value_name = "N,N,..", value_delimiter = ',')]
    pub(crate) patches: Vec<usize>,
    /// Cells at a time, one a GPU or --gpus of them [default: as many as there are GPUs for, else 1]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Say what would be run, what of it is done and what the rest may take, and stop there; for that it installs libtorch
    /// and builds the program, and with --fetch downloads images
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Leave the features of finished cells on the disk, gigabytes each
    #[arg(long)]
    pub(crate) keep_features: bool,
    /// Go on with cells that failed before, too
    #[arg(long)]
    pub(crate) retry: bool,
}

impl Args {
    /// The arguments of one run on the synthetic set, for checks that need a whole run.
    pub(crate) fn synthetic(recipe: &str, out: PathBuf) -> Self {
        let out = out.display().to_string();
        Self::of_line(&["--recipe", recipe, "--device", "cpu", "--out", &out])
    }

    /// What a command line says.
    pub(crate) fn of_line(line: &[&str]) -> Self {
        let command = Self::augment_args(clap::Command::new("reproduce").no_binary_name(true));
        Self::from_arg_matches(&command.get_matches_from(line)).unwrap_or_else(|error| error.exit())
    }

    /// The sets, each with its own folder or the common one.
    pub(crate) fn sets(&self) -> Vec<ImageSet> {
        let set = |text: &String| {
            let (name, dir) = match text.split_once('=') {
                Some((name, dir)) => (name, Some(PathBuf::from(dir))),
                None => (text.as_str(), self.data.clone()),
            };
            ImageSet { name: name.to_owned(), dir, partial: self.partial, on_bad_image: self.on_bad_image }
        };
        self.dataset.iter().map(set).collect()
    }

    /// The tables that are meant where none is named: those of the paper, on a machine that can make them.
    pub(crate) fn tables(&self, has_gpu: bool, workspace: &Workspace) -> Vec<Table> {
        let named_nothing = self.sweep.table.is_empty() && self.recipe.is_empty();
        let on_gpu = has_gpu && self.device.as_deref() != Some("cpu");
        let of_the_paper = |name: &str| workspace.join(format!("configs/{name}/one-epoch.toml")).is_file();
        if named_nothing && on_gpu && self.sets().iter().all(|set| of_the_paper(&set.name)) {
            return vec![Table::OneEpoch, Table::Main];
        }
        self.sweep.table.clone()
    }
}

/// A table of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Table {
    /// One epoch, in the three readings of it: a cosine over one epoch, the first of two epochs, both of two
    OneEpoch,
    /// 1, 10 and 30 epochs with 20 and with 200 patches
    Main,
    /// Trained on one set, scored on the others that are given
    Transfer,
    /// Accuracy by the number of patches an image
    Patches,
    /// Seconds and memory of every recipe with a published figure
    Time,
    /// The recipes that are asked for, where no table is
    #[value(skip)]
    Runs,
}

/// Numbers of patches of the table `patches`, where none are asked for.
const PATCHES: [usize; 6] = [5, 10, 20, 50, 100, 200];

/// Patches of each image that BatchNorm sees at once in the table `patches`: as many as fit a card of 80 GB at 224 pixels,
/// and what the official code lets each of ten GPUs see of 200.
const AT_ONCE: usize = 20;

impl Table {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or("runs".to_owned(), |value| value.get_name().to_owned())
    }

    /// Its heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::OneEpoch => "One epoch",
            Self::Main => "Epochs and patches",
            Self::Transfer => "Transfer to other sets",
            Self::Patches => "Patches an image",
            Self::Time => "Time and memory",
            Self::Runs => "Runs",
        }
    }

    /// Recipes it is made of, as far as a set has them.
    pub(crate) fn recipes(self) -> &'static [&'static str] {
        match self {
            Self::OneEpoch => &["one-epoch", "two-epochs", "one-epoch-200"],
            Self::Main => &["thirty-epochs", "thirty-epochs-200", "ten-epochs-200"],
            Self::Transfer | Self::Patches => &["one-epoch"],
            Self::Runs => &[],
            Self::Time => {
                &["one-epoch", "two-epochs", "one-epoch-200", "thirty-epochs", "thirty-epochs-200", "ten-epochs-200"]
            }
        }
    }

    /// Changes of a recipe, one list for each row of the table.
    pub(crate) fn variants(self, changes: &[String], patches: &[usize]) -> Vec<Vec<String>> {
        if self != Self::Patches {
            return vec![changes.to_vec()];
        }
        let counts = if patches.is_empty() { &PATCHES[..] } else { patches };
        counts.iter().map(|&n| in_parts(n).into_iter().chain(changes.iter().cloned()).collect()).collect()
    }
}

/// So many patches an image, at most [`AT_ONCE`] of them at once.
fn in_parts(n: usize) -> Vec<String> {
    let count = format!("training.n_patches={n}");
    match (1..=AT_ONCE).rev().find(|part| n.is_multiple_of(*part)) {
        Some(part) if part < n => vec![count, format!("training.memory={{ by-patches = {part} }}")],
        _ => vec![count],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_patches_go_through_in_equal_parts() {
        let memory = |n: usize| in_parts(n).get(1).cloned();
        assert_eq!([5, 10, 20].map(memory), [None, None, None]);
        let parts = |part: usize| Some(format!("training.memory={{ by-patches = {part} }}"));
        assert_eq!([50, 100, 200, 30].map(memory), [10, 20, 20, 15].map(parts));
        assert_eq!(Table::Patches.variants(&["a=1".to_owned()], &[4]), [["training.n_patches=4", "a=1"]]);
        assert_eq!(Table::Main.variants(&["a=1".to_owned()], &[4]), [["a=1"]]);
    }
}
