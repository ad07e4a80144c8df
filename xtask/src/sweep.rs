//! Sweeps: tables of cells, each a training with its scores, that are planned, run, taken up again and reported together.
//!
//! Everything lies below one folder: `cells/NAME` are runs, shared by all sweeps in it; `sweeps/NAME` are reports.
//! Nothing is remembered elsewhere, so the same command goes on wherever everything was killed.

mod cell;
mod child;
mod energy;
mod estimate;
mod html;
mod markdown;
pub(crate) mod measured;
mod outline;
mod plan;
mod pool;
pub(crate) mod slots;
mod tables;
pub(crate) mod words;
mod work;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use cell::Status;
pub(crate) use outline::demand_images;
pub(crate) use tables::Table;

use crate::failure::{Code, Context, Failure, Outcome};
use crate::report::text;
use crate::reproduce::images::{ImageSet, MayFetch};
use crate::reproduce::program::{Profile, Program, digest};
use crate::workspace::Workspace;
use crate::{process, workspace};
use estimate::Rates;
use measured::SweepReport;
use plan::{Cell, Plan};
use slots::{Asked, Machine, Slot};
use work::Bench;

/// What was asked for.
pub(crate) struct Request {
    pub(crate) sets: Vec<ImageSet>,
    pub(crate) may_fetch: MayFetch,
    /// Empty for those of the tables.
    pub(crate) recipes: Vec<String>,
    pub(crate) tables: Vec<Table>,
    pub(crate) first_seed: u64,
    pub(crate) n_seeds: u64,
    pub(crate) changes: Vec<String>,
    pub(crate) patches: Vec<usize>,
    pub(crate) jobs: Option<usize>,
    /// Processes of a cell, one a GPU.
    pub(crate) ranks: usize,
    pub(crate) device: Option<String>,
    pub(crate) workers: Option<usize>,
    pub(crate) out: PathBuf,
    pub(crate) dry_run: bool,
    pub(crate) retry: bool,
    /// Leave the features of finished cells on the disk.
    pub(crate) keep_features: bool,
    /// Take kernels that repeat their bits.
    pub(crate) deterministic: bool,
}

impl Request {
    /// The folder of the report: the same for the same tables, recipes, sets and changes, however many the seeds.
    fn folder(&self) -> PathBuf {
        let mut names: Vec<&str> = self.tables.iter().map(|table| table.name()).collect();
        names.extend(self.recipes.iter().map(String::as_str));
        for set in &self.sets {
            if !names.contains(&set.name.as_str()) {
                names.push(&set.name);
            }
        }
        let changed = (!self.changes.is_empty()).then(|| format!("-{}", &digest(&self.changes)[..6]));
        self.out.join("sweeps").join(names.join("-") + &changed.unwrap_or_default())
    }

    /// The place that it asks for.
    fn asked(&self) -> Asked<'_> {
        Asked { device: self.device.as_deref(), jobs: self.jobs, ranks: self.ranks, workers: self.workers }
    }

    fn title(&self) -> String {
        let mut sets: Vec<&str> = Vec::new();
        for set in &self.sets {
            if !sets.contains(&set.name.as_str()) {
                sets.push(&set.name);
            }
        }
        let tables = self.tables.iter().map(|table| format!("table {}", table.name()));
        let recipes = self.recipes.iter().map(|recipe| format!("recipe {recipe}"));
        let what: Vec<_> = tables.chain(recipes).collect();
        let seeds = text::counted(self.n_seeds as usize, "seed");
        format!("EMP-SSL on {}: {}, {seeds}", sets.join(", "), what.join(", "))
    }
}

/// Plans, runs and reports.
pub(crate) fn run(request: &Request, workspace: &Workspace) -> Outcome {
    let slots = slots::slots(request.asked(), &Machine::here())?;
    let program = Program::provide(Profile::Release, workspace)?;
    let sweep = Sweep::new(request, slots, program, workspace)?;
    eprint!("{}", sweep.plan_text());
    if request.dry_run {
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
        let say = |line: &str| eprintln!("{line}");
        let Request { retry, keep_features, deterministic, .. } = *self.request;
        let bench = Bench { program: &self.program, retry, keep_features, deterministic, interrupts, say: &say };
        let ended = || {
            if let Err(failure) = self.report() {
                say(&format!("warning: {failure}"));
            }
        };
        pool::run(&self.plan.cells, &self.slots, &bench, &ended);
        let report = self.report()?;
        print!("\n{}", terminal(&report));
        let shown = workspace::from_here(&self.folder);
        println!("\nreport: {}\n        {}", shown.join("report.html").display(), shown.join("report.md").display());
        self.judge(interrupts() > 0)
    }

    /// Writes report.json, report.md and report.html.
    fn report(&self) -> Outcome<SweepReport> {
        let report = SweepReport::new(&self.plan, &self.request.title(), &self.command, &self.program, &self.folder);
        fs::create_dir_all(&self.folder).at(Code::Report, "create the folder", &self.folder)?;
        let json = serde_json::to_string_pretty(&report).map_err(|error| Failure::report(error.to_string()))?;
        for (name, text) in [
            ("report.json", json + "\n"),
            ("report.md", markdown::render(&report)),
            ("report.html", html::render(&report, &self.plan)),
        ] {
            write(&self.folder.join(name), &text)?;
        }
        Ok(report)
    }

    /// What the sweep as a whole came to.
    fn judge(&self, interrupted: bool) -> Outcome {
        let (cells, count) = (&self.plan.cells, |status| pool::count(&self.plan.cells, status));
        let (done, failed) = (count(Status::Done), count(Status::Failed));
        let all = cells.len();
        if interrupted {
            let message = format!("interrupted with {done} of {all} cells done: the same command goes on");
            return Err(Failure::new(Code::Interrupted, message));
        }
        match (failed, all - done) {
            (0, 0) => Ok(()),
            (0, left) => {
                let message = format!("{left} of {all} cells were stopped from outside: the same command goes on");
                Err(Failure::new(Code::Child, message))
            }
            (failed, _) => {
                let message = format!("{failed} of {all} cells failed: the same command with --retry tries them again");
                Err(Failure::new(Code::Child, message))
            }
        }
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
            text::counted(cells.len(), "cell"),
            places.join(", ")
        )];
        let mut seen: Vec<usize> = Vec::new();
        let mut left = Some(0.0);
        for group in self.plan.tables.iter().flat_map(|table| &table.groups) {
            let new: Vec<usize> = group.cells.iter().copied().filter(|index| !seen.contains(index)).collect();
            seen.extend(&new);
            let open = new.iter().filter(|&&index| !cells[index].is_done()).count() as f64;
            let seconds = group.cells.first().and_then(|&index| rates.seconds(&cells[index], &group.outline));
            left = if open > 0.0 { left.zip(seconds).map(|(left, seconds)| left + open * seconds) } else { left };
            if !new.is_empty() {
                lines.push(self.group_text(group, &new, &rates));
            }
        }
        let left = left.map_or("an unknown time".to_owned(), |left| text::duration(left / self.slots.len() as f64));
        lines.push(format!("about {left} for what is left, without the probes where no cell is finished yet\n"));
        lines.join("\n")
    }

    fn group_text(&self, group: &plan::Group, new: &[usize], rates: &Rates) -> String {
        let (outline, one) = (&group.outline, &self.plan.cells[new[0]]);
        let states: Vec<_> = new.iter().map(|&index| self.cell_text(&self.plan.cells[index])).collect();
        let changes: String = group.changes.iter().map(|change| format!(" {change}")).collect();
        let time = match (rates.seconds(one, outline), rates.of(outline)) {
            (Some(seconds), Some(rate)) => {
                let from = if rate.is_measured { "as finished cells" } else { "by a trial of a few steps" };
                format!("about {} a cell, {from}", text::duration(seconds))
            }
            _ => "time unknown".to_owned(),
        };
        let others: Vec<_> = one.targets.iter().map(|target| target.set.name.as_str()).collect();
        let others = if others.is_empty() { String::new() } else { format!(" and on {}", others.join(", ")) };
        let cost = one.feature_cost(outline);
        format!(
            "  {} {}{changes}: {}\n    {} patches to train, {} to score in {}{others}, {} of features while a cell is \
             scored; {time}",
            measured::label(&outline.dataset, &outline.data),
            group.recipe,
            states.join(", "),
            text::count(outline.training_patches()),
            text::count(cost.patches),
            text::counted(one.states.len(), "state"),
            text::bytes(cost.bytes),
        )
    }

    fn cell_text(&self, cell: &Cell) -> String {
        let status = cell.shown_status();
        let note = match status {
            Status::Failed if !self.request.retry => ", left alone without --retry",
            Status::Begun | Status::Interrupted => ", to go on",
            _ => "",
        };
        format!("seed {} {}{note}", cell.seed, status.label())
    }
}

/// Writes a file that is there whole or not at all.
fn write(path: &Path, text: &str) -> Outcome {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path)).at(Code::Report, "write", path)
}

/// The rows in a few lines.
fn terminal(report: &SweepReport) -> String {
    use crate::report::model::Encoder;

    let warnings: String = words::warnings(report).iter().map(|warning| format!("! {warning}\n")).collect();
    let row = |row: &measured::Row| {
        let published: Vec<_> = row.published.iter().map(|beside| words::published(beside).0).collect();
        let published =
            if published.is_empty() { String::new() } else { format!("; published {}", published.join(", ")) };
        format!(
            "  {} {}, {} epochs: linear {}, kNN {}{published}; trained in {}, evaluated in {}; {}\n",
            words::data(row),
            words::recipe(row),
            words::epochs(row),
            words::linear(row, Encoder::Trained),
            words::knn(row, Encoder::Trained),
            words::seconds(row.train_seconds.as_ref()),
            words::seconds(row.evaluate_seconds.as_ref()),
            row.status()
        )
    };
    let tables: String = report
        .tables
        .iter()
        .map(|table| format!("{}\n{}", table.title, table.rows.iter().map(row).collect::<String>()))
        .collect();
    format!("{}\n{warnings}{tables}", report.title)
}

#[cfg(test)]
mod tests;
