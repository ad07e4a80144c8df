//! `empssl runs`: which runs a folder holds, how they stand, what they take of the disk; and the removal of features.

mod clean;
mod scores;

use std::fs::{self, TryLockError};
use std::path::{Path, PathBuf};

use empssl_torch::failure::Bytes;
use serde::Serialize;

use self::scores::{Best, Last};
use crate::args::RunsArgs;
use crate::error::CliError;
use crate::print;
use crate::print::{json, output};
use crate::report::{Counts, RunIdentity};
use crate::run::folder::{RunFolder, read_json};
use crate::run::metrics::last_step;

pub(crate) fn run(args: &RunsArgs) -> Result<(), CliError> {
    let folders = match &args.clean {
        Some(Some(run)) => vec![RunFolder::open(run)?],
        _ => runs_in(&args.folder)?,
    };
    match &args.clean {
        Some(named) => clean::run(&folders, named.is_some(), args.json),
        None => list(&folders, args),
    }
}

/// The runs in a folder by name, or the folder itself where it is one.
fn runs_in(folder: &Path) -> Result<Vec<RunFolder>, CliError> {
    if RunFolder::open(folder).is_ok() {
        return Ok(vec![RunFolder::open(folder)?]);
    }
    let entries = fs::read_dir(folder).map_err(|e| CliError::file("cannot read the folder of runs", folder, e))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths.iter().filter_map(|path| RunFolder::open(path).ok()).collect())
}

/// What is listed of one run.
#[derive(Debug, PartialEq, Serialize)]
struct Listed {
    name: String,
    path: PathBuf,
    data: String,
    recipe: String,
    seed: u64,
    state: State,
    step: u64,
    /// Of the whole run.
    steps: u64,
    /// The test images that were scored, where they are not all of the split.
    test_part: Option<Counts>,
    /// The scores of its last state.
    last: Option<Last>,
    /// The best linear probe among its states that were scored.
    best: Option<Best>,
    checkpoint_bytes: u64,
    feature_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// A process trains it now.
    Training,
    Finished,
    /// `empssl train --resume` goes on with it.
    Stopped,
}

impl Listed {
    fn of(folder: &RunFolder) -> Result<Self, CliError> {
        let identity: RunIdentity = read_json(&folder.identity())?;
        let path = folder.path();
        let state = match identity.training.finished {
            true => State::Finished,
            false if is_training(path) => State::Training,
            false => State::Stopped,
        };
        let step = if state == State::Finished { identity.training.steps } else { last_step(&folder.metrics())? };
        let (checkpoints, scores) = (folder.checkpoints(), scores::of(folder));
        let files = [checkpoints.newest(), checkpoints.previous(), checkpoints.damaged(), checkpoints.snapshots()];
        Ok(Self {
            name: path
                .file_name()
                .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned()),
            path: path.to_path_buf(),
            data: identity.data.name,
            recipe: identity.recipe,
            seed: identity.seed,
            state,
            step,
            steps: identity.model.steps,
            test_part: scores.test_part,
            best: scores.best,
            last: scores.last,
            checkpoint_bytes: files.iter().map(|file| bytes_in(file)).sum(),
            feature_bytes: bytes_in(&folder.features()),
        })
    }

    fn cells(&self) -> [String; 9] {
        let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1} %"));
        let state = match self.state {
            State::Finished => "finished".to_owned(),
            State::Training => format!("training, step {} of {}", self.step, self.steps),
            // A trial counts its own steps as the whole; it goes on all the same.
            State::Stopped if self.step >= self.steps => format!("stopped at step {}", self.step),
            State::Stopped => format!("stopped at step {} of {}", self.step, self.steps),
        };
        let part = |test: &Counts| format!(", {} of {} test images", test.found, test.expected);
        let size = |bytes| if bytes == 0 { "-".to_owned() } else { Bytes(bytes).to_string() };
        [
            self.name.clone(),
            self.data.clone() + &self.test_part.as_ref().map_or(String::new(), part),
            format!("{}, seed {}", self.recipe, self.seed),
            state,
            percent(self.last.as_ref().and_then(|last| last.linear)),
            percent(self.last.as_ref().and_then(|last| last.knn)),
            self.best.as_ref().map_or("-".to_owned(), |best| format!("{:.1} % ({})", best.linear, best.state)),
            size(self.checkpoint_bytes),
            size(self.feature_bytes),
        ]
    }
}

/// Whether some process holds the lock of the training.
fn is_training(path: &Path) -> bool {
    fs::File::open(path.join(".lock")).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Bytes of a file, or of all files in a folder; 0 for what is not there.
fn bytes_in(path: &Path) -> u64 {
    let own = |path: &Path| fs::metadata(path).map_or(0, |about| about.len());
    if !path.is_dir() {
        return own(path);
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| own(&entry.path())).sum()
}

fn list(folders: &[RunFolder], args: &RunsArgs) -> Result<(), CliError> {
    let mut runs = Vec::with_capacity(folders.len());
    for folder in folders {
        match Listed::of(folder) {
            Ok(run) => runs.push(run),
            // One damaged file must not hide the other runs.
            Err(reason) => print::note(format_args!("{} is left out: {reason}", folder.path().display())),
        }
    }
    if args.json {
        return json(&runs);
    }
    if runs.is_empty() {
        output(format_args!("no runs in {}", args.folder.display()));
    } else {
        table(&runs);
    }
    Ok(())
}

fn table(runs: &[Listed]) {
    let head = ["run", "data", "recipe", "state", "linear", "kNN", "best linear", "checkpoints", "features"];
    let lines: Vec<[String; 9]> =
        std::iter::once(head.map(str::to_owned)).chain(runs.iter().map(Listed::cells)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    for line in &lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        output(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    let bytes = runs.iter().map(|run| run.feature_bytes).sum();
    if bytes > 0 {
        output(format_args!("\n{} in features, which `empssl runs --clean` removes", Bytes(bytes)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_test_split_stands_beside_the_scores() {
        let listed = |test_part| Listed {
            name: "a".to_owned(),
            path: PathBuf::new(),
            data: "cifar10".to_owned(),
            recipe: "quick".to_owned(),
            seed: 0,
            state: State::Finished,
            step: 4,
            steps: 4,
            test_part,
            last: Some(Last { linear: Some(54.7), knn: None }),
            best: None,
            checkpoint_bytes: 0,
            feature_bytes: 0,
        };
        let part = Counts { found: 1017, expected: 10000 };
        assert_eq!(listed(Some(part)).cells()[1], "cifar10, 1017 of 10000 test images");
        assert_eq!(listed(None).cells()[1], "cifar10");
    }

    #[test]
    fn a_folder_is_as_large_as_its_files_and_nothing_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), [0; 100]).unwrap();
        fs::write(folder.path().join("b"), [0; 20]).unwrap();
        assert_eq!(bytes_in(folder.path()), 120);
        assert_eq!(bytes_in(&folder.path().join("a")), 100);
        assert_eq!(bytes_in(&folder.path().join("c")), 0);
    }
}
