//! `cargo xtask reproduce`: setup, release build, training, evaluation, report; one command from nothing to a page.
//!
//! One set, one recipe and one seed make a run; more of any, or a table of the paper, make a sweep ([`crate::sweep`]).

pub(crate) mod args;
pub(crate) mod images;
pub(crate) mod program;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use empssl_report::report::RunReport;

use crate::failure::{Code, Context, Failure, Outcome};
use crate::report;
use crate::sweep::slots::{Machine, Slot, slots};
use crate::sweep::{self, Request};
use crate::workspace::Workspace;
use crate::{process, setup, workspace};
pub(crate) use args::Args;
use args::{SweepArgs, Table};
use images::{ImageSet, MayFetch};
use program::{Profile, Program};

/// What is taken where nothing is asked for.
const QUICK: &str = "quick";

/// Runs the task.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Outcome {
    let tables = args.tables(setup::has_driver(), workspace);
    let is_one = args.sweep == SweepArgs::default() && tables.is_empty();
    match is_one && args.dataset.len() == 1 && args.recipe.len() <= 1 {
        false => sweep::run(&request(args, tables, workspace)?, workspace),
        true => chain(args, workspace, Profile::Release),
    }
}

/// The sweep that was asked for, its recipes and places checked before anything is built.
pub(crate) fn request(args: &Args, tables: Vec<Table>, workspace: &Workspace) -> Outcome<Request> {
    let recipes = match (tables.is_empty(), args.recipe.is_empty()) {
        (true, true) => vec![QUICK.to_owned()],
        _ => args.recipe.clone(),
    };
    let sets = args.sets();
    for (set, recipe) in sets.iter().flat_map(|set| recipes.iter().map(move |recipe| (set, recipe))) {
        recipe_file(&set.name, recipe, workspace)?;
    }
    let sets = sets.into_iter().map(|set| set.place(workspace)).collect::<Outcome<_>>()?;
    let out = args.out.clone().unwrap_or_else(|| workspace::from_here(&workspace.join("runs")));
    Ok(Request { args: args.clone(), sets, recipes, tables, out })
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
    fn common(&self, slot: &Slot, command: &mut Command) {
        slot.add_to(command);
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
        self.common(&Slot::of(self.args), &mut command);
        command.arg("--out").arg(workspace::from_here(folder));
        command
    }

    fn evaluation(&self, folder: &Path, program: &Program) -> Command {
        let mut command = program.command();
        command.arg("eval").arg(workspace::from_here(folder));
        self.common(&Slot::of(self.args).first(), &mut command);
        command
    }

    /// Trains, evaluates, reports and judges.
    fn perform(&self, folder: &Path, program: &Program) -> Outcome {
        process::run(&mut self.training(folder, program), Code::Child)?;
        process::run(&mut self.evaluation(folder, program), Code::Child)?;
        println!();
        judge(&report::show(folder)?)
    }
}

/// The whole chain of one run with the program of either profile.
pub(crate) fn chain(args: &Args, workspace: &Workspace, profile: Profile) -> Outcome {
    let single = Single::new(args, workspace)?;
    check_out(args)?;
    slots(args, &Machine::here())?;
    let program = Program::provide(profile, workspace)?;
    if single.set.dir == Some(workspace.join("data")) {
        single.set.outline(&single.file, &[], &program, MayFetch::new(args.fetch), workspace)?;
    }
    let folder = run_folder(&single, workspace)?;
    process::watch_interrupts();
    single.perform(&folder, &program).map_err(|failure| keep_run(failure, &folder))
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
pub(crate) fn stems(folder: &Path, is_kind: fn(&Path) -> bool) -> Vec<String> {
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
