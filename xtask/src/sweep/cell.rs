//! The folder of a cell: what it holds, and what is still to be done in it.
//!
//! `cell.json` says of what the cell is and how far it came; `log.txt` holds whatever its programs said; everything else
//! is the run's own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use empssl_report::metrics::Progress;
use empssl_report::report::{Encoder, RunReport};
use empssl_report::run::RunIdentity;
use empssl_report::sweep::Status;
use serde::{Deserialize, Serialize};

use super::plan::{Cell, Target};
use crate::failure::{Code, Context, Outcome};
use crate::report::{read_json, write_json};

/// `cell.json`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) key: String,
    pub(crate) status: Status,
    /// Why it failed.
    pub(crate) error: Option<String>,
    /// Trainings that began at their first step, or anew because nothing had been saved.
    pub(crate) starts: u32,
    /// Trainings that went on.
    pub(crate) resumes: u32,
    /// Energy of its GPU while its programs ran, in joules, where the driver tells.
    pub(crate) joules: Joules,
}

/// Joules by what they were spent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Joules {
    pub(crate) train: Option<f64>,
    pub(crate) evaluate: Option<f64>,
}

/// What a cell does next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Train from the beginning.
    Train,
    /// Go on with the training.
    Resume,
    /// Score a state.
    Score(Option<u64>),
    /// Score the end on another set.
    Transfer(Target),
}

impl Step {
    /// Whether it trains; else it scores.
    pub(crate) fn is_training(&self) -> bool {
        matches!(self, Self::Train | Self::Resume)
    }
}

impl Cell {
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// `cell.json`, or what it would say of a cell that was not begun.
    pub(crate) fn state(&self) -> State {
        let read: Option<State> = read_json(&self.join("cell.json"));
        let new = || State { key: self.key.clone(), ..State::default() };
        read.filter(|state| state.key == self.key).unwrap_or_else(new)
    }

    /// Writes `cell.json`, whole or not at all.
    pub(crate) fn write_state(&self, state: &State) -> Outcome {
        write_json(&self.join("cell.json"), state)
    }

    /// `run.json`
    fn run(&self) -> Option<RunIdentity> {
        read_json(&self.join("run.json"))
    }

    /// What is to be done, by what lies in the folder; nothing where everything is there.
    pub(crate) fn next_step(&self) -> Option<Step> {
        let Some(run) = self.run() else { return Some(Step::Train) };
        if !run.training.finished {
            return Some(Step::Resume);
        }
        let unscored = self.states.iter().find(|state| self.report(**state).is_none());
        let untried = || self.targets.iter().find(|target| self.transfer_report(target).is_none());
        unscored.map(|state| Step::Score(*state)).or_else(|| untried().map(|target| Step::Transfer(target.clone())))
    }

    /// Whether everything is there that was to be made.
    pub(crate) fn is_done(&self) -> bool {
        self.state().status == Status::Done && self.next_step().is_none()
    }

    /// How far it came, for readers: what was done and now lacks something is begun again.
    pub(crate) fn shown_status(&self) -> Status {
        match self.state().status {
            Status::Done if self.next_step().is_some() => Status::Begun,
            status => status,
        }
    }

    /// The scores of a state, where `empssl eval` writes them.
    pub(crate) fn report(&self, state: Option<u64>) -> Option<RunReport> {
        let snapshot = |epochs| format!("snapshots/epoch-{epochs:04}.report.json");
        scores(&self.join(&state.map_or_else(|| "report.json".to_owned(), snapshot)))
    }

    /// Where the scores on another set are.
    pub(crate) fn transfer_path(&self, target: &Target) -> PathBuf {
        self.join(&format!("transfer/{}-{}.report.json", target.set.name, target.key))
    }

    pub(crate) fn transfer_report(&self, target: &Target) -> Option<RunReport> {
        scores(&self.transfer_path(target))
    }

    /// How far training has come, and its steps in all.
    pub(crate) fn progress(&self) -> Option<(Progress, u64)> {
        let metrics = fs::read_to_string(self.join("metrics.jsonl")).ok()?;
        let last = metrics.lines().rev().find_map(|line| serde_json::from_str(line).ok())?;
        Some((last, self.run()?.model.steps))
    }

    /// Holds the cell for this process and for whatever it starts with a copy of the file: where this process is killed
    /// and its child lives on, the cell is held until the child ends too. `waiting` is called if others hold it.
    pub(crate) fn lock(&self, waiting: impl FnOnce()) -> Outcome<File> {
        fs::create_dir_all(&self.folder).at(Code::Child, "create the folder", &self.folder)?;
        let path = self.join(".cell.lock");
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = opened.at(Code::Child, "write", &path)?;
        if file.try_lock().is_err() {
            waiting();
            file.lock().at(Code::Child, "lock", &path)?;
        }
        Ok(file)
    }
}

/// A whole report that scores the trained encoder.
fn scores(path: &Path) -> Option<RunReport> {
    let report: RunReport = read_json(path)?;
    report.rows.iter().any(|row| row.encoder == Encoder::Trained).then_some(report)
}
