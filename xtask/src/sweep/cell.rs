//! The folder of a cell: what it holds, and what is still to be done in it.
//!
//! `cell.json` says of what the cell is and how far it came; `log.txt` holds whatever its programs said; everything else
//! is the run's own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use empssl_report::report::{Encoder, RunReport};
use empssl_report::sweep::Status;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::{Cell, Target};
use crate::failure::{Code, Context, Failure, Outcome};
use crate::report::write_file;

/// `cell.json`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

impl Cell {
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// `cell.json`, or what it would say of a cell that was not begun.
    pub(crate) fn state(&self) -> State {
        let text = fs::read_to_string(self.join("cell.json")).ok();
        let read = text.and_then(|text| serde_json::from_str::<State>(&text).ok());
        read.filter(|state| state.key == self.key).unwrap_or_else(|| State {
            key: self.key.clone(),
            status: Status::New,
            error: None,
            starts: 0,
            resumes: 0,
            joules: Joules::default(),
        })
    }

    /// Writes `cell.json`, whole or not at all.
    pub(crate) fn write_state(&self, state: &State) -> Outcome {
        let text = serde_json::to_string_pretty(state).map_err(|error| Failure::report(error.to_string()))?;
        write_file(&self.join("cell.json"), &text)
    }

    /// What is to be done, by what lies in the folder; nothing where everything is there.
    pub(crate) fn next_step(&self) -> Option<Step> {
        let Some(run) = json(&self.join("run.json")) else { return Some(Step::Train) };
        if run["training"]["finished"] != true {
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

    /// Where the scores of a state are, as `empssl eval` writes them.
    pub(crate) fn report_path(&self, state: Option<u64>) -> PathBuf {
        match state {
            Some(epochs) => self.join(&format!("snapshots/epoch-{epochs:04}.report.json")),
            None => self.join("report.json"),
        }
    }

    pub(crate) fn report(&self, state: Option<u64>) -> Option<RunReport> {
        read(&self.report_path(state))
    }

    /// Where the scores on another set are.
    pub(crate) fn transfer_path(&self, target: &Target) -> PathBuf {
        self.join(&format!("transfer/{}-{}.report.json", target.set.name, target.key))
    }

    pub(crate) fn transfer_report(&self, target: &Target) -> Option<RunReport> {
        read(&self.transfer_path(target))
    }

    /// Steps done and in all, and seconds of training so far, while it runs.
    pub(crate) fn progress(&self) -> Option<(u64, u64, f64)> {
        let run = json(&self.join("run.json"))?;
        let metrics = fs::read_to_string(self.join("metrics.jsonl")).ok()?;
        let last = metrics.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok())?;
        Some((last["step"].as_u64()?, run["model"]["steps"].as_u64()?, last["seconds"].as_f64()?))
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

fn json(path: &Path) -> Option<Value> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

/// A whole report that scores the trained encoder.
fn read(path: &Path) -> Option<RunReport> {
    let report: RunReport = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    report.rows.iter().any(|row| row.encoder == Encoder::Trained).then_some(report)
}
