//! `cargo xtask reproduce`: setup, release build, training, evaluation, report; one command from nothing to a page.
//!
//! One set, one recipe and one seed make a run; more of any, or a table of the paper, make a sweep ([`crate::sweep`]).

pub(crate) mod images;
pub(crate) mod program;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use empssl_report::report::RunReport;

use crate::failure::{Code, Context, Failure, Outcome};
use crate::report;
use crate::sweep::slots::{Asked, Machine, slots};
use crate::sweep::{self, Request, Table};
use crate::workspace::Workspace;
use crate::{process, setup, workspace};
use images::{ImageSet, MayFetch, OnBadImage, SYNTHETIC};
use program::{Profile, Program};

/// What is taken where nothing is asked for.
const QUICK: &str = "quick";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which images: a folder of configs/, such as synthetic or cifar10, and where they are; may be repeated
    #[arg(long, value_name = "NAME[=DIR]", default_value = SYNTHETIC)]
    dataset: Vec<String>,
    /// Which recipe: a file of configs/DATASET/ without its ending; may be repeated [default: those of the table; without
    /// one quick, or on a machine with an NVIDIA GPU one-epoch and main for a set of the paper]
    #[arg(long, value_name = "NAME")]
    recipe: Vec<String>,
    /// Where the images are, for sets without a folder of their own [default: data, if they are there]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Download a public set that is missing, and verify it
    #[arg(long)]
    fetch: bool,
    /// Accept a set with fewer records than the official count; the report says how many of how many
    #[arg(long)]
    partial: bool,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// GPUs for each run, whose training is as many processes and whose evaluation takes the first; on the CPU so many
    /// processes
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    gpus: u16,
    /// On CUDA, kernels that repeat their bits, at a price in speed; a CPU repeats them anyway
    #[arg(long)]
    deterministic: bool,
    /// Seed of everything random: weights, order and patches; of several the first
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What an image that cannot be decoded means
    #[arg(long, value_enum)]
    on_bad_image: Option<OnBadImage>,
    /// Threads that prepare patches
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Change a key of the recipe, as in `--set training.n_patches=4`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of the run, which must not hold one yet [default: runs/DATASET-RECIPE-sSEED, numbered when taken]; of a
    /// sweep, whose cells and reports lie below it [default: runs]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    sweep: SweepArgs,
}

/// What makes a sweep of it.
#[derive(clap::Args, Default)]
#[command(next_help_heading = "Sweeps")]
struct SweepArgs {
    /// A table of the paper; may be repeated
    #[arg(long, value_enum)]
    table: Vec<Table>,
    /// So many seeds of every cell
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: Option<u64>,
    /// Numbers of patches an image for the table `patches` [default: 5,10,20,50,100,200]
    #[arg(long, value_name = "N,N,..", value_delimiter = ',')]
    patches: Vec<usize>,
    /// Cells at a time, one a GPU or --gpus of them [default: as many as there are GPUs for, else 1]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Say what would be run, what of it is done and what the rest may take, and stop there; for that it installs libtorch
    /// and builds the program, and with --fetch downloads images
    #[arg(long)]
    dry_run: bool,
    /// Leave the features of finished cells on the disk, gigabytes each
    #[arg(long)]
    keep_features: bool,
    /// Go on with cells that failed before, too
    #[arg(long)]
    retry: bool,
}

impl SweepArgs {
    fn is_given(&self) -> bool {
        !self.table.is_empty()
            || self.seeds.is_some()
            || !self.patches.is_empty()
            || self.jobs.is_some()
            || self.dry_run
            || self.keep_features
            || self.retry
    }
}

impl Args {
    /// The arguments of one run on the synthetic set, for checks that need a whole run.
    pub(crate) fn synthetic(recipe: &str, out: PathBuf) -> Self {
        Self {
            dataset: vec![SYNTHETIC.to_owned()],
            recipe: vec![recipe.to_owned()],
            data: None,
            fetch: false,
            partial: false,
            device: Some("cpu".to_owned()),
            gpus: 1,
            deterministic: false,
            seed: 0,
            on_bad_image: None,
            workers: None,
            set: Vec::new(),
            out: Some(out),
            sweep: SweepArgs::default(),
        }
    }

    /// The sets, each with its own folder or the common one.
    fn sets(&self) -> Vec<ImageSet> {
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
    fn tables(&self, has_gpu: bool, workspace: &Workspace) -> Vec<Table> {
        let named_nothing = self.sweep.table.is_empty() && self.recipe.is_empty();
        let on_gpu = has_gpu && self.device.as_deref() != Some("cpu");
        let of_the_paper = |name: &str| workspace.join(format!("configs/{name}/one-epoch.toml")).is_file();
        if named_nothing && on_gpu && self.sets().iter().all(|set| of_the_paper(&set.name)) {
            return vec![Table::OneEpoch, Table::Main];
        }
        self.sweep.table.clone()
    }
}

/// Runs the task.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Outcome {
    let tables = args.tables(setup::has_driver(), workspace);
    let is_sweep = args.sweep.is_given() || !tables.is_empty() || args.dataset.len() > 1 || args.recipe.len() > 1;
    match is_sweep {
        true => sweep::run(&request(args, tables, workspace)?, workspace),
        false => chain(args, workspace, Profile::Release),
    }
}

/// The sweep that was asked for, its recipes and places checked before anything is built.
fn request(args: &Args, tables: Vec<Table>, workspace: &Workspace) -> Outcome<Request> {
    let may_fetch = MayFetch::new(args.fetch);
    let recipes = match (tables.is_empty(), args.recipe.is_empty()) {
        (true, true) => vec![QUICK.to_owned()],
        _ => args.recipe.clone(),
    };
    let sets = args.sets();
    for (set, recipe) in sets.iter().flat_map(|set| recipes.iter().map(move |recipe| (set, recipe))) {
        recipe_file(&set.name, recipe, workspace)?;
    }
    let sets: Outcome<Vec<_>> = sets.into_iter().map(|set| set.place(workspace)).collect();
    Ok(Request {
        sets: sets?,
        may_fetch,
        recipes,
        tables,
        first_seed: args.seed,
        n_seeds: args.sweep.seeds.unwrap_or(1),
        changes: args.set.clone(),
        patches: args.sweep.patches.clone(),
        jobs: args.sweep.jobs,
        ranks: args.gpus.into(),
        device: args.device.clone(),
        workers: args.workers,
        out: args.out.clone().unwrap_or_else(|| workspace::from_here(&workspace.join("runs"))),
        dry_run: args.sweep.dry_run,
        retry: args.sweep.retry,
        keep_features: args.sweep.keep_features,
        deterministic: args.deterministic,
    })
}

/// What one run is made of.
struct Single<'a> {
    args: &'a Args,
    set: ImageSet,
    recipe: &'a str,
    file: PathBuf,
}

impl<'a> Single<'a> {
    fn new(args: &'a Args, workspace: &Workspace) -> Outcome<Self> {
        let [set] = <[ImageSet; 1]>::try_from(args.sets())
            .map_err(|sets| Failure::usage(format!("one run has one set of images, not {}", sets.len())))?;
        let recipe = args.recipe.first().map_or(QUICK, String::as_str);
        let file = recipe_file(&set.name, recipe, workspace)?;
        Ok(Self { args, set: set.place(workspace)?, recipe, file })
    }

    /// The flags of training and evaluation.
    fn common(&self, command: &mut Command) {
        if let Some(device) = &self.args.device {
            command.args(["--device", device]);
        }
        if let Some(workers) = self.args.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        if self.args.deterministic {
            command.arg("--deterministic");
        }
    }

    fn training(&self, folder: &Path, program: &Program) -> Command {
        let mut command = program.command();
        command.arg("train").arg("--recipe").arg(workspace::from_here(&self.file));
        self.set.add_to(&mut command);
        command.args(["--seed", &self.args.seed.to_string()]);
        command.args(self.args.set.iter().flat_map(|change| ["--set", change]));
        self.common(&mut command);
        if self.args.gpus > 1 {
            command.args(["--nproc", &self.args.gpus.to_string()]);
        }
        command.arg("--out").arg(workspace::from_here(folder));
        command
    }

    fn evaluation(&self, folder: &Path, program: &Program) -> Command {
        let mut command = program.command();
        command.arg("eval").arg(workspace::from_here(folder));
        self.common(&mut command);
        command
    }

    /// Trains, evaluates, reports and judges.
    fn perform(&self, folder: &Path, program: &Program) -> Outcome {
        process::run(&mut self.training(folder, program), Code::Child)?;
        process::run(&mut self.evaluation(folder, program), Code::Child)?;
        judge(&report::show(folder)?)
    }
}

/// The whole chain of one run with the program of either profile.
pub(crate) fn chain(args: &Args, workspace: &Workspace, profile: Profile) -> Outcome {
    let single = Single::new(args, workspace)?;
    check_out(args)?;
    demand_gpus(args, &Machine::here())?;
    let program = Program::provide(profile, workspace)?;
    sweep::demand_images(&single.set, &single.file, &program, MayFetch::new(args.fetch), workspace)?;
    let folder = run_folder(&single, workspace)?;
    process::watch_interrupts();
    single.perform(&folder, &program).map_err(|failure| keep_run(failure, &folder))
}

/// Refuses more processes than the GPUs that they would need.
fn demand_gpus(args: &Args, machine: &Machine) -> Outcome {
    let asked = Asked { device: args.device.as_deref(), jobs: Some(1), ranks: args.gpus.into(), workers: None };
    slots(asked, machine).map(drop)
}

/// Says where a failed run is. Only an empty folder can be removed: whatever the run left stays for the reader.
fn keep_run(failure: Failure, folder: &Path) -> Failure {
    if fs::remove_dir(folder).is_ok() {
        return failure;
    }
    Failure::new(failure.code, format!("{failure}; the run is in {}", workspace::from_here(folder).display()))
}

/// Refuses a recipe that is not there and names those that are.
pub(crate) fn recipe_file(dataset: &str, recipe: &str, workspace: &Workspace) -> Outcome<PathBuf> {
    let configs = workspace.join("configs");
    let folder = configs.join(dataset);
    let file = folder.join(format!("{recipe}.toml"));
    if file.is_file() {
        return Ok(file);
    }
    if !folder.is_dir() {
        let known = stems(&configs, Path::is_dir).join(", ");
        return Err(Failure::usage(format!("there is no data set `{dataset}` in configs/; there are: {known}")));
    }
    let known = stems(&folder, Path::is_file).join(", ");
    Err(Failure::usage(format!("there is no recipe `{recipe}` in configs/{dataset}/; there are: {known}")))
}

/// The names of this kind in a folder without their endings, sorted.
fn stems(folder: &Path, is_kind: fn(&Path) -> bool) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let kind = entries.filter(|path| is_kind(path));
    let mut stems: Vec<_> = kind.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect();
    stems.sort();
    stems
}

/// Refuses a folder that holds anything, before minutes are spent on building.
fn check_out(args: &Args) -> Outcome {
    let taken = |out: &&PathBuf| fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    match args.out.as_ref().filter(taken) {
        Some(out) => {
            Err(Failure::usage(format!("{} is not empty: choose another --out, or leave it out", out.display())))
        }
        None => Ok(()),
    }
}

/// A new folder for the run: the one asked for, else the first free number.
fn run_folder(single: &Single<'_>, workspace: &Workspace) -> Outcome<PathBuf> {
    if let Some(out) = &single.args.out {
        fs::create_dir_all(out).at(Code::Usage, "create the folder", out)?;
        return Ok(out.clone());
    }
    let runs = workspace.join("runs");
    fs::create_dir_all(&runs).at(Code::Child, "create the folder", &runs)?;
    first_free(&runs, &format!("{}-{}-s{}", single.set.name, single.recipe, single.args.seed))
}

/// Making the folder is what takes the name, so that two runs started at once get two.
fn first_free(runs: &Path, name: &str) -> Outcome<PathBuf> {
    let mut number = 1;
    loop {
        let folder = runs.join(if number == 1 { name.to_owned() } else { format!("{name}-{number}") });
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            made => return made.at(Code::Child, "create the folder", &folder).map(|()| folder),
        }
    }
}

/// Fails where a bar of the report is not met: accuracy, or the minutes that the recipe allows.
fn judge(report: &RunReport) -> Outcome {
    let missed: Vec<_> = report.bars.iter().filter(|bar| !bar.holds).map(|bar| bar.what.as_str()).collect();
    if missed.is_empty() { Ok(()) } else { Err(Failure::check(format!("not met: {}", missed.join("; ")))) }
}

#[cfg(test)]
mod tests;
