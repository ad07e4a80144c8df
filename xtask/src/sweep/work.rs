//! Doing a cell: whatever is still missing in its folder, one program after the other.

use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use super::cell::{Joules, State, Status, Step};
use super::child::{self, End};
use super::energy::Meter;
use super::plan::{Cell, Target};
use super::slots::Slot;
use crate::failure::{Code, Context, Failure, Outcome};
use crate::report::model::{Encoder, Probe};
use crate::reproduce::program::Program;
use crate::{process, report, workspace};

/// The driver's tool.
const NVIDIA_SMI: &str = "nvidia-smi";

/// How often a long training is told of.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What cells share.
pub(crate) struct Bench<'a> {
    pub(crate) program: &'a Program,
    /// Go on with cells that failed before.
    pub(crate) retry: bool,
    /// Leave the features of finished cells on the disk.
    pub(crate) keep_features: bool,
    /// Take kernels that repeat their bits.
    pub(crate) deterministic: bool,
    pub(crate) interrupts: &'a (dyn Fn() -> usize + Sync),
    /// Takes lines for the reader.
    pub(crate) say: &'a (dyn Fn(&str) + Sync),
}

impl Bench<'_> {
    /// Does what is missing of a cell, and returns how far it came. Only what concerns the cell's own files fails.
    pub(crate) fn run(&self, cell: &Cell, slot: &Slot) -> Outcome<Status> {
        let held = cell.lock(|| {
            (self.say)(&format!("{}: waiting for a program that an earlier sweep left running there", cell.name));
        })?;
        let mut state = cell.state();
        if cell.is_done() || (state.status == Status::Failed && !self.retry) {
            return Ok(state.status);
        }
        (state.status, state.error) = (Status::Begun, None);
        cell.write_state(&state)?;
        (state.status, state.error) = match self.steps(cell, slot, &held, &mut state) {
            Ok(status) => (status, None),
            Err(failure) => (Status::Failed, Some(failure.to_string())),
        };
        cell.write_state(&state)?;
        if let Some(error) = &state.error {
            let log = workspace::from_here(&cell.join("log.txt"));
            (self.say)(&format!("{}: FAILED: {error} ({})", cell.name, log.display()));
        }
        Ok(state.status)
    }

    /// Takes one step after the other until none is left; what fails is the cell's failure.
    fn steps(&self, cell: &Cell, slot: &Slot, held: &File, state: &mut State) -> Outcome<Status> {
        while let Some(step) = cell.next_step() {
            if (self.interrupts)() > 0 {
                return Ok(Status::Interrupted);
            }
            match step {
                Step::Train => state.starts += 1,
                Step::Resume => state.resumes += 1,
                Step::Score(_) | Step::Transfer(_) => {}
            }
            cell.write_state(state)?;
            match self.step(cell, slot, held, &step, &mut state.joules)? {
                End::Done if cell.next_step().as_ref() == Some(&step) => {
                    return Err(Failure::new(Code::Child, format!("{} left nothing behind", name(&step))));
                }
                End::Done => self.tell(cell, &step),
                End::Stopped => return Ok(Status::Interrupted),
                End::Failed(why) => return Err(Failure::new(Code::Child, format!("{}: {why}", name(&step)))),
            }
        }
        report::render(&cell.folder)?;
        if !self.keep_features {
            self.drop_features(cell);
        }
        Ok(Status::Done)
    }

    /// Removes what can be computed again: gigabytes for each cell.
    fn drop_features(&self, cell: &Cell) {
        let mut command = self.program.command();
        command.args(["runs", "--clean"]).arg(workspace::from_here(&cell.folder));
        if let Err(failure) = process::output(&mut command) {
            (self.say)(&format!("warning: {}: its features stay on the disk: {failure}", cell.name));
        }
    }

    fn step(&self, cell: &Cell, slot: &Slot, held: &File, step: &Step, joules: &mut Joules) -> Outcome<End> {
        let mut command = self.command(cell, slot, step)?;
        let log = cell.join("log.txt");
        let noted = File::options().create(true).append(true).open(&log);
        let noted = noted.and_then(|mut log| writeln!(log, "$ {}", process::shown(&command)));
        noted.at(Code::Child, "write", &log)?;
        let meter = slot.gpu.as_deref().and_then(|gpu| Meter::start(NVIDIA_SMI, gpu));
        let mut told = Instant::now();
        let mut watch = || {
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                self.tell_progress(cell, step);
            }
        };
        let end = child::run(&mut command, &log, held, &self.interrupts, &mut watch);
        let spent = meter.and_then(Meter::stop);
        let sum = match step {
            Step::Train | Step::Resume => &mut joules.train,
            Step::Score(_) | Step::Transfer(_) => &mut joules.evaluate,
        };
        *sum = spent.map(|spent| sum.unwrap_or(0.0) + spent).or(*sum);
        end
    }

    fn command(&self, cell: &Cell, slot: &Slot, step: &Step) -> Outcome<Command> {
        let mut command = self.program.command();
        let folder = workspace::from_here(&cell.folder);
        match step {
            Step::Train => {
                // What a training that was killed at its very beginning left is no run yet.
                command.arg("train").arg("--force").arg("--recipe").arg(workspace::from_here(&cell.recipe));
                cell.set.add_to(&mut command);
                command.args(["--seed", &cell.seed.to_string()]);
                command.args(cell.changes.iter().flat_map(|change| ["--set", change]));
                command.arg("--out").arg(&folder);
            }
            Step::Resume => {
                command.arg("train").arg("--resume").arg(&folder);
                cell.set.add_place(&mut command);
            }
            Step::Score(state) => {
                command.arg("eval").arg(&folder);
                cell.set.add_place(&mut command);
                if let Some(epochs) = state {
                    command.args(["--snapshot", &epochs.to_string()]);
                }
            }
            Step::Transfer(target) => transfer(&mut command, cell, target)?,
        }
        if self.deterministic {
            command.arg("--deterministic");
        }
        slot.add_to(&mut command);
        slot.add_ranks(&mut command);
        Ok(command)
    }

    fn tell(&self, cell: &Cell, step: &Step) {
        let text = match step {
            Step::Train | Step::Resume => {
                let (steps, _, seconds) = cell.progress().unwrap_or_default();
                format!("trained {steps} steps in {}", report::text::duration(seconds))
            }
            Step::Score(state) => scored(cell.report(*state)),
            Step::Transfer(target) => format!("on {}: {}", target.set.name, scored(cell.transfer_report(target))),
        };
        (self.say)(&format!("{}: {text}", cell.name));
    }

    fn tell_progress(&self, cell: &Cell, step: &Step) {
        if let (Step::Train | Step::Resume, Some((done, of, seconds))) = (step, cell.progress()) {
            let left = seconds / done.max(1) as f64 * of.saturating_sub(done) as f64;
            let left = report::text::duration(left);
            (self.say)(&format!("{}: step {done} of {of}, about {left} of training left", cell.name));
        }
    }
}

/// Scores of the end on another set's images, under that set's own labels.
fn transfer(command: &mut Command, cell: &Cell, target: &Target) -> Outcome {
    let path = cell.transfer_path(target);
    let folder = cell.join("transfer");
    std::fs::create_dir_all(&folder).at(Code::Child, "create the folder", &folder)?;
    command.args(["eval", "--checkpoint"]).arg(workspace::from_here(&cell.folder));
    target.set.add_to(command);
    command.arg("--out").arg(workspace::from_here(&path));
    Ok(())
}

fn scored(report: Option<report::Report>) -> String {
    let Some(report) = report else { return "no scores".to_owned() };
    let top1 =
        |probe| report.row(Encoder::Trained, probe).map_or("-".to_owned(), |row| report::text::percent(row.top1));
    let seconds = report::text::duration(report.seconds.evaluate);
    format!(
        "after {} epochs linear {}, kNN {}; evaluated in {seconds}",
        report::text::number(report.model.epochs),
        top1(Probe::Linear),
        top1(Probe::Knn)
    )
}

/// What a step is called where it failed.
fn name(step: &Step) -> String {
    match step {
        Step::Train => "training".to_owned(),
        Step::Resume => "going on with the training".to_owned(),
        Step::Score(None) => "evaluation".to_owned(),
        Step::Score(Some(epochs)) => format!("evaluation of the state after {epochs} epochs"),
        Step::Transfer(target) => format!("evaluation on {}", target.set.name),
    }
}
