//! `cargo xtask reproduce`: setup, release build, training, evaluation, report; one command from nothing to a page.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use crate::failure::{Code, Context, Failure, Outcome};
use crate::report::{self, Report};
use crate::workspace::Workspace;
use crate::{process, setup, workspace};

/// The set that needs no files.
const SYNTHETIC: &str = "synthetic";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which images: a folder of configs/, such as synthetic or cifar10
    #[arg(long, default_value = SYNTHETIC)]
    dataset: String,
    /// Which recipe: a file of configs/DATASET/ without its ending
    #[arg(long, default_value = "quick")]
    recipe: String,
    /// Where the images are; every set but the synthetic one needs it
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Accept a set with fewer records than the official count; the report says how many of how many
    #[arg(long)]
    partial: bool,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Seed of everything random: weights, order and patches
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What an image that cannot be decoded means
    #[arg(long, value_enum)]
    on_bad_image: Option<OnBadImage>,
    /// Threads that prepare patches
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Folder of the run; must not hold one yet [default: runs/DATASET-RECIPE-sSEED, numbered when taken]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnBadImage {
    /// Stop and name the file
    Fail,
    /// Leave it out; the report counts and names those left out
    Skip,
}

impl OnBadImage {
    fn flag(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

impl Args {
    /// The arguments of one run on the synthetic set, for checks that need a whole run.
    pub(crate) fn synthetic(recipe: &str, out: PathBuf) -> Self {
        Self {
            dataset: SYNTHETIC.to_owned(),
            recipe: recipe.to_owned(),
            data: None,
            partial: false,
            device: Some("cpu".to_owned()),
            seed: 0,
            on_bad_image: None,
            workers: None,
            out: Some(out),
        }
    }
}

/// How the program is built: the figures are those of the release build, a check of the chain takes what is there.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    /// Cargo's name of the folder under its target.
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Runs the task.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Outcome {
    chain(args, workspace, Profile::Release)
}

/// The whole chain with the program of either profile.
pub(crate) fn chain(args: &Args, workspace: &Workspace, profile: Profile) -> Outcome {
    let recipe = recipe_file(args, workspace)?;
    check_data(args)?;
    check_out(args)?;
    setup::ensure(workspace)?;
    build(profile, workspace)?;
    let path = workspace.target().join(profile.folder()).join("empssl");
    let program = Program { path, commit: commit(workspace) };
    let folder = run_folder(args, workspace)?;
    process::watch_interrupts();
    perform(args, &recipe, &folder, &program).map_err(|failure| keep_run(failure, &folder))
}

/// Trains, evaluates, reports and judges.
fn perform(args: &Args, recipe: &Path, folder: &Path, program: &Program) -> Outcome {
    process::run(&mut training(args, recipe, folder, program), Code::Child)?;
    process::run(&mut evaluation(args, folder, program), Code::Child)?;
    let report = report::render(folder)?;
    print!("\n{}", report::terminal(&report));
    let shown = workspace::from_here(folder);
    println!("\nreport: {}\n        {}", shown.join("report.html").display(), shown.join("report.md").display());
    judge(&report)
}

/// Says where a failed run is. Only an empty folder can be removed: whatever the run left stays for the reader.
fn keep_run(failure: Failure, folder: &Path) -> Failure {
    if fs::remove_dir(folder).is_ok() {
        return failure;
    }
    Failure::new(failure.code, format!("{failure}; the run is in {}", workspace::from_here(folder).display()))
}

/// Refuses a recipe that is not there and names those that are.
fn recipe_file(args: &Args, workspace: &Workspace) -> Outcome<PathBuf> {
    let configs = workspace.join("configs");
    let folder = configs.join(&args.dataset);
    let file = folder.join(format!("{}.toml", args.recipe));
    if file.is_file() {
        return Ok(file);
    }
    if !folder.is_dir() {
        let known = stems(&configs).join(", ");
        return Err(Failure::usage(format!("there is no data set `{}` in configs/; there are: {known}", args.dataset)));
    }
    let known = stems(&folder).join(", ");
    Err(Failure::usage(format!(
        "there is no recipe `{}` in configs/{}/; there are: {known}",
        args.recipe, args.dataset
    )))
}

/// The names in a folder without their endings, sorted.
fn stems(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut stems: Vec<_> =
        entries.filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned())).collect();
    stems.sort();
    stems
}

fn check_data(args: &Args) -> Outcome {
    match &args.data {
        None if args.dataset != SYNTHETIC => Err(Failure::usage(format!(
            "the set {} is read from files: say where they are with `--data DIR` (the folder data/ tells where to get them)",
            args.dataset
        ))),
        Some(folder) if !folder.exists() => {
            Err(Failure::usage(format!("--data {}: there is no such folder", folder.display())))
        }
        _ => Ok(()),
    }
}

fn build(profile: Profile, workspace: &Workspace) -> Outcome {
    let mut cargo = Command::new(workspace::cargo());
    cargo.args(["build", "--package", "empssl-cli"]).current_dir(workspace.root());
    if matches!(profile, Profile::Release) {
        cargo.arg("--release");
    }
    process::run(&mut cargo, Code::Child)
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
fn run_folder(args: &Args, workspace: &Workspace) -> Outcome<PathBuf> {
    if let Some(out) = &args.out {
        fs::create_dir_all(out).at(Code::Usage, "create the folder", out)?;
        return Ok(out.clone());
    }
    let runs = workspace.join("runs");
    fs::create_dir_all(&runs).at(Code::Child, "create the folder", &runs)?;
    first_free(&runs, &format!("{}-{}-s{}", args.dataset, args.recipe, args.seed))
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

/// The `empssl` that was built, and the commit it was built from as it goes into the report.
struct Program {
    path: PathBuf,
    commit: Option<String>,
}

impl Program {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(commit) = &self.commit {
            command.env("EMPSSL_COMMIT", commit);
        }
        command
    }
}

/// The commit of the checkout, marked where files differ from it; nothing where git cannot tell.
fn commit(workspace: &Workspace) -> Option<String> {
    let git = |args: &[&str]| process::output(Command::new("git").args(args).current_dir(workspace.root())).ok();
    let head = git(&["rev-parse", "--verify", "HEAD"])?;
    let clean = git(&["status", "--porcelain"])?.trim().is_empty();
    Some(format!("{}{}", head.trim(), if clean { "" } else { " with uncommitted changes" }))
}

fn training(args: &Args, recipe: &Path, folder: &Path, program: &Program) -> Command {
    let mut command = program.command();
    command.args(["train", "--dataset", &args.dataset, "--recipe"]).arg(workspace::from_here(recipe));
    if let Some(data) = &args.data {
        command.arg("--data").arg(data);
    }
    if args.partial {
        command.arg("--partial");
    }
    command.args(["--seed", &args.seed.to_string()]);
    if let Some(choice) = args.on_bad_image {
        command.args(["--on-bad-image", choice.flag()]);
    }
    common(&mut command, args);
    command.arg("--out").arg(workspace::from_here(folder));
    command
}

fn evaluation(args: &Args, folder: &Path, program: &Program) -> Command {
    let mut command = program.command();
    command.arg("eval").arg(workspace::from_here(folder));
    common(&mut command, args);
    command
}

fn common(command: &mut Command, args: &Args) {
    if let Some(device) = &args.device {
        command.args(["--device", device]);
    }
    if let Some(workers) = args.workers {
        command.args(["--workers", &workers.to_string()]);
    }
}

/// Fails where a bar of the report is not met: accuracy, or the minutes that the recipe allows.
fn judge(report: &Report) -> Outcome {
    let missed: Vec<_> = report.bars.iter().filter(|bar| !bar.holds).map(|bar| bar.what.as_str()).collect();
    if missed.is_empty() { Ok(()) } else { Err(Failure::check(format!("not met: {}", missed.join("; ")))) }
}

#[cfg(test)]
mod tests;
