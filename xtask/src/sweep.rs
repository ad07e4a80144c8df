//! Sweeps: tables of cells, each a training with its scores, that are planned, run, taken up again and reported together.
//!
//! Everything lies below one folder: `cells/NAME` are runs, shared by all sweeps in it; `sweeps/NAME` are reports.
//! Nothing is remembered elsewhere, so the same command goes on wherever everything was killed.

mod cell;
mod estimate;
mod measured;
mod plan;
mod runner;
pub(crate) mod slots;

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use empssl_report::page::Page;
use empssl_report::sweep::Status;
use empssl_report::{sweep_page, words};

use crate::failure::{Code, Context, Failure, Outcome};
use crate::reproduce::args::{Args, Table};
use crate::reproduce::images::ImageSet;
use crate::reproduce::program::{Profile, Program, digest};
use crate::workspace::Workspace;
use crate::{process, report};
use estimate::Rates;
use plan::{Cell, Plan};
use runner::Runner;
use slots::{Machine, Slot};

/// What was asked for.
pub(crate) struct Request {
    pub(crate) args: Args,
    pub(crate) sets: Vec<ImageSet>,
    /// Empty for those of the tables.
    pub(crate) recipes: Vec<String>,
    pub(crate) tables: Vec<Table>,
    pub(crate) out: PathBuf,
}

impl Request {
    /// The folder of the report: the same for the same tables, recipes, sets and changes, however many the seeds.
    fn folder(&self) -> PathBuf {
        let tables = self.tables.iter().map(|table| table.name());
        let mut names: Vec<String> = tables.chain(self.recipes.iter().cloned()).collect();
        for set in self.set_names() {
            if !names.contains(&set) {
                names.push(set);
            }
        }
        let changes = &self.args.set;
        let changed = (!changes.is_empty()).then(|| format!("-{}", &digest(changes)[..6]));
        self.out.join("sweeps").join(names.join("-") + &changed.unwrap_or_default())
    }

    /// The names of the sets, each once.
    fn set_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for set in &self.sets {
            if !names.contains(&set.name) {
                names.push(set.name.clone());
            }
        }
        names
    }

    fn n_seeds(&self) -> u64 {
        self.args.sweep.seeds.unwrap_or(1)
    }

    fn seeds(&self) -> Range<u64> {
        self.args.seed..self.args.seed.saturating_add(self.n_seeds())
    }

    fn title(&self) -> String {
        let tables = self.tables.iter().map(|table| format!("table {}", table.name()));
        let recipes = self.recipes.iter().map(|recipe| format!("recipe {recipe}"));
        let what: Vec<_> = tables.chain(recipes).collect();
        let seeds = words::counted(self.n_seeds() as usize, "seed");
        format!("EMP-SSL on {}: {}, {seeds}", self.set_names().join(", "), what.join(", "))
    }
}

/// Plans, runs and reports.
pub(crate) fn run(request: &Request, workspace: &Workspace) -> Outcome {
    let slots = slots::slots(&request.args, &Machine::here())?;
    let program = Program::provide(Profile::Release, workspace)?;
    let sweep = Sweep::new(request, slots, program, workspace)?;
    eprint!("{}", sweep.plan_text());
    if request.args.sweep.dry_run {
        return Ok(());
    }
    process::watch_interrupts();
    sweep.run(&process::interrupts)
}

/// A sweep that is ready to run.
struct Sweep<'a> {
    request: &'a Request,
    plan: Plan,
    slots: Vec<Slot>,
    program: Program,
    folder: PathBuf,
    command: String,
}

impl<'a> Sweep<'a> {
    fn new(request: &'a Request, slots: Vec<Slot>, program: Program, workspace: &Workspace) -> Outcome<Self> {
        let plan = Plan::new(request, &program, workspace)?;
        let command = measured::command_line(workspace.xtask());
        Ok(Self { request, plan, slots, program, folder: request.folder(), command })
    }

    /// Runs every cell that is not done, and writes the report whenever one ends.
    fn run(&self, interrupts: &(dyn Fn() -> usize + Sync)) -> Outcome {
        let runner = Runner { program: &self.program, args: &self.request.args, interrupts };
        let ended = || {
            if let Err(failure) = self.report() {
                eprintln!("warning: {failure}");
            }
        };
        runner.run_all(&self.plan.cells, &self.slots, &ended);
        println!();
        report::write_and_show(&self.report()?, &self.folder)?;
        self.judge(interrupts() > 0)
    }

    /// Writes report.json, report.md and report.html, and returns the page.
    fn report(&self) -> Outcome<Page> {
        let report = measured::report(&self.plan, &self.request.title(), &self.command, &self.program, &self.folder);
        fs::create_dir_all(&self.folder).at(Code::Report, "create the folder", &self.folder)?;
        report::write_json(&self.folder.join("report.json"), &report)?;
        let page = sweep_page::page(&report, measured::curves(&self.plan));
        report::write(&page, &self.folder)?;
        Ok(page)
    }

    /// What the sweep as a whole came to.
    fn judge(&self, interrupted: bool) -> Outcome {
        let cells = &self.plan.cells;
        let count = |status| cells.iter().filter(|cell| cell.shown_status() == status).count();
        let (done, failed) = (count(Status::Done), count(Status::Failed));
        let all = cells.len();
        if interrupted {
            let message = format!("interrupted with {done} of {all} cells done: the same command goes on");
            return Err(Failure::new(Code::Interrupted, message));
        }
        let message = match (failed, all - done) {
            (0, 0) => return Ok(()),
            (0, left) => format!("{left} of {all} cells were stopped from outside: the same command goes on"),
            (failed, _) => format!("{failed} of {all} cells failed: the same command with --retry tries them again"),
        };
        Err(Failure::new(Code::Child, message))
    }

    /// What is to be run, what is done, and what the rest may take.
    fn plan_text(&self) -> String {
        let rates = Rates::new(&self.plan, &self.slots[0], &self.program);
        let cells = &self.plan.cells;
        let done = cells.iter().filter(|cell| cell.is_done()).count();
        let places: Vec<_> = self.slots.iter().map(|slot| slot.name.as_str()).collect();
        let mut lines = vec![format!(
            "{}\n{}, {done} done; on {}",
            self.request.title(),
            words::counted(cells.len(), "cell"),
            places.join(", ")
        )];
        let mut seen: Vec<&str> = Vec::new();
        let mut left = Some(0.0);
        for group in self.plan.groups() {
            let new: Vec<&Cell> = self.plan.cells_of(group).filter(|cell| !seen.contains(&cell.key.as_str())).collect();
            seen.extend(new.iter().map(|cell| cell.key.as_str()));
            let open = new.iter().filter(|cell| !cell.is_done()).count() as f64;
            let seconds = self.plan.cells_of(group).next().and_then(|cell| rates.seconds(cell, &group.outline));
            left = if open > 0.0 { left.zip(seconds).map(|(left, seconds)| left + open * seconds) } else { left };
            if !new.is_empty() {
                lines.push(self.group_text(group, &new, &rates));
            }
        }
        let left = left.map_or("an unknown time".to_owned(), |left| words::duration(left / self.slots.len() as f64));
        lines.push(format!("about {left} for what is left, without the probes where no cell is finished yet\n"));
        lines.join("\n")
    }

    fn group_text(&self, group: &plan::Group, new: &[&Cell], rates: &Rates) -> String {
        let (outline, one) = (&group.outline, new[0]);
        let states: Vec<_> = new.iter().map(|cell| self.cell_text(cell)).collect();
        let changes: String = group.changes.iter().map(|change| format!(" {change}")).collect();
        let time = match (rates.seconds(one, outline), rates.of(outline)) {
            (Some(seconds), Some(rate)) => {
                let from = if rate.is_measured { "as finished cells" } else { "by a trial of a few steps" };
                format!("about {} a cell, {from}", words::duration(seconds))
            }
            _ => "time unknown".to_owned(),
        };
        let others: Vec<_> = one.targets.iter().map(|target| target.set.name.as_str()).collect();
        let others = if others.is_empty() { String::new() } else { format!(" and on {}", others.join(", ")) };
        let cost = one.feature_cost(outline);
        format!(
            "  {} {}{changes}: {}\n    {} patches to train, {} to score in {}{others}, {} of features while a cell is \
             scored; {time}",
            measured::label(outline),
            group.recipe,
            states.join(", "),
            words::count(outline.training_patches()),
            words::count(cost.patches),
            words::counted(one.states.len(), "state"),
            words::bytes(cost.bytes),
        )
    }

    fn cell_text(&self, cell: &Cell) -> String {
        let status = cell.shown_status();
        let note = match status {
            Status::Failed if !self.request.args.sweep.retry => ", left alone without --retry",
            Status::Begun | Status::Interrupted => ", to go on",
            _ => "",
        };
        format!("seed {} {}{note}", cell.seed, status.label())
    }
}

#[cfg(test)]
mod tests;
