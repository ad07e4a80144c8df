//! What a run would be, as `empssl recipe --json` says it: the resolved recipe, the images, how much there is to do.

use std::iter::{self, Sum};
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::failure::{Code, Failure, Outcome};
use crate::process;
use crate::report::model::{PartialCounts, Published, ScoredOn};
use crate::reproduce::images::{ImageSet, MayFetch};
use crate::reproduce::program::Program;
use crate::workspace::Workspace;

/// How `empssl` ends when images are missing or wrong.
const BAD_DATA: i32 = 3;

/// One recipe on one set, with its changes.
#[derive(Debug, Deserialize)]
pub(crate) struct Outline {
    pub(crate) recipe_toml: String,
    pub(crate) dataset: String,
    pub(crate) data: Data,
    pub(crate) patch_side: u64,
    pub(crate) parameters: u64,
    pub(crate) precision: String,
    pub(crate) training: Training,
    pub(crate) evaluation: Evaluation,
    pub(crate) published: Vec<Published>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Data {
    pub(crate) description: String,
    pub(crate) synthetic: bool,
    pub(crate) partial_counts: Option<PartialCounts>,
    pub(crate) fingerprints: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Training {
    pub(crate) n_patches: u64,
    pub(crate) batch_size: u64,
    pub(crate) steps: u64,
    pub(crate) epochs: f64,
    pub(crate) snapshot_epochs: Vec<u64>,
    /// Whose patches BatchNorm looks at: `global` or `per-rank`.
    pub(crate) batch_norm: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Evaluation {
    pub(crate) n_patches: u64,
    #[serde(default)]
    pub(crate) scored_on: ScoredOn,
    /// Of the untrained network, once for all states.
    pub(crate) untrained: FeatureCost,
    /// Of the trained network in one state.
    pub(crate) trained: FeatureCost,
    /// Of the raw pixels, which are on the disk while they are scored.
    pub(crate) pixel_bytes: u64,
}

/// What taking the features of a network costs.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(crate) struct FeatureCost {
    /// Patches that go through it.
    pub(crate) patches: u64,
    /// On the disk, until the cell is done.
    pub(crate) bytes: u64,
}

impl Sum for FeatureCost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self { patches: 0, bytes: 0 }, |sum, cost| Self {
            patches: sum.patches + cost.patches,
            bytes: sum.bytes + cost.bytes,
        })
    }
}

impl Outline {
    /// Asks the program; a public set that is missing is fetched where that is wanted.
    pub(crate) fn of(
        set: &ImageSet,
        recipe: &Path,
        changes: &[String],
        program: &Program,
        may_fetch: MayFetch,
        workspace: &Workspace,
    ) -> Outcome<Self> {
        let mut command = question(set, recipe, changes, program);
        let answer = match ask(&mut command)? {
            Answer::BadData(said) if set.dir == Some(workspace.join("data")) => {
                set.fetch(may_fetch, program, workspace).map_err(|failure| {
                    Failure::new(failure.code, format!("{failure} (`{}` says: {said})", process::shown(&command)))
                })?;
                ask(&mut command)?
            }
            answer => answer,
        };
        let text = match answer {
            Answer::Outline(text) => text,
            Answer::BadData(said) => return Err(Failure::usage(said)),
        };
        let unreadable = |error| Failure::new(Code::Child, format!("`{}`: {error}", process::shown(&command)));
        serde_json::from_str(&text).map_err(unreadable)
    }

    /// Whether another number of processes makes another training, and not the same to rounding.
    pub(crate) fn depends_on_ranks(&self) -> bool {
        self.training.batch_norm == "per-rank"
    }

    /// Patches that training takes.
    pub(crate) fn training_patches(&self) -> u64 {
        self.training.steps * self.training.batch_size * self.training.n_patches
    }

    /// What the features of so many states take, with those of the untrained network that all of them share and, for the
    /// moment when they are scored, the raw pixels.
    pub(crate) fn feature_cost(&self, states: usize) -> FeatureCost {
        let Evaluation { untrained, trained, pixel_bytes, .. } = self.evaluation;
        let pixels = FeatureCost { patches: 0, bytes: pixel_bytes };
        [untrained, pixels].into_iter().chain(iter::repeat_n(trained, states)).sum()
    }

    /// The states that are scored: snapshots by their epochs, and the end.
    pub(crate) fn states(&self) -> Vec<Option<u64>> {
        let earlier = self.training.snapshot_epochs.iter().filter(|&&epochs| (epochs as f64) < self.training.epochs);
        earlier.map(|&epochs| Some(epochs)).chain([None]).collect()
    }

    /// Epochs of a state.
    pub(crate) fn epochs(&self, state: Option<u64>) -> f64 {
        state.map_or(self.training.epochs, |epochs| epochs as f64)
    }
}

/// Makes sure that a set that lies in the default place is there.
pub(crate) fn demand_images(
    set: &ImageSet,
    recipe: &Path,
    program: &Program,
    may_fetch: MayFetch,
    workspace: &Workspace,
) -> Outcome {
    match set.dir == Some(workspace.join("data")) {
        true => Outline::of(set, recipe, &[], program, may_fetch, workspace).map(drop),
        false => Ok(()),
    }
}

fn question(set: &ImageSet, recipe: &Path, changes: &[String], program: &Program) -> Command {
    let mut command = program.command();
    command.arg("recipe").arg(recipe).arg("--json");
    set.add_to(&mut command);
    command.args(changes.iter().flat_map(|change| ["--set", change]));
    command
}

enum Answer {
    Outline(String),
    /// Images are missing or wrong; the program's sentence.
    BadData(String),
}

fn ask(command: &mut Command) -> Outcome<Answer> {
    let output = command.output().map_err(|error| {
        Failure::new(Code::Child, format!("cannot start `{}`: {error}", command.get_program().to_string_lossy()))
    })?;
    if output.status.success() {
        return Ok(Answer::Outline(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("error: ").to_owned();
    match output.status.code() {
        Some(BAD_DATA) => Ok(Answer::BadData(said)),
        _ => Err(Failure::new(Code::Child, format!("`{}`: {said}", process::shown(command)))),
    }
}
