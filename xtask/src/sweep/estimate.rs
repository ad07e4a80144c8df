//! What cells may take: by what finished ones took, else by a few steps of the recipe's network.

use std::env;
use std::fs;

use empssl_report::outline::{Outline, TRAINING_OVER_FORWARD};
use serde_json::Value;

use super::plan::{Cell, Plan};
use super::slots::Slot;
use crate::reproduce::program::Program;

/// Patches and images of a trial: as many as keep a GPU busy, few enough for a processor.
const TRIAL_GPU: (u64, u64) = (20, 100);
const TRIAL_CPU: (u64, u64) = (2, 16);

/// How fast one network is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Patches a second in training.
    pub(crate) training: f64,
    /// Patches a second whose features are taken, with everything else that scoring does where cells tell.
    pub(crate) scoring: f64,
    /// Whether finished cells tell.
    pub(crate) is_measured: bool,
}

/// What decides about the speed, but for the number of patches: parameters, side of a patch and precision.
type Kind = (i64, usize, String);

fn kind(outline: &Outline) -> Kind {
    (outline.parameters, outline.patch_side, outline.precision.clone())
}

/// Rates of the networks of a plan.
pub(crate) struct Rates(Vec<(Kind, Option<Rate>)>);

impl Rates {
    /// One for each network, by trials on `slot` where no finished cell tells.
    pub(crate) fn new(plan: &Plan, slot: &Slot, program: &Program) -> Self {
        let mut rates = Self(Vec::new());
        for group in plan.groups() {
            let kind_here = kind(&group.outline);
            if rates.0.iter().any(|(known, _)| *known == kind_here) {
                continue;
            }
            let alike = plan.groups().filter(|other| kind(&other.outline) == kind_here);
            let finished = alike.flat_map(|other| plan.cells_of(other).map(move |cell| (other, cell)));
            let measured = finished.filter_map(|(other, cell)| measured(cell, &other.outline)).last();
            let rate = measured.or_else(|| trial(plan.cells_of(group).next()?, slot, program));
            rates.0.push((kind_here, rate));
        }
        rates
    }

    pub(crate) fn of(&self, outline: &Outline) -> Option<Rate> {
        let kind = kind(outline);
        self.0.iter().find(|(known, _)| *known == kind)?.1
    }

    /// Seconds of a whole cell: training, and all its features. Probes take time besides, which a trial cannot tell.
    pub(crate) fn seconds(&self, cell: &Cell, outline: &Outline) -> Option<f64> {
        let (rate, scored) = (self.of(outline)?, cell.feature_cost(outline).patches);
        Some(outline.training_patches() as f64 / rate.training + scored as f64 / rate.scoring)
    }
}

fn measured(cell: &Cell, outline: &Outline) -> Option<Rate> {
    let report = cell.report(None)?;
    let scoring = outline.feature_cost(1).patches as f64 / report.seconds.evaluate;
    let training = report.patches_per_s;
    (training > 0.0 && scoring > 0.0).then_some(Rate { training, scoring, is_measured: true })
}

/// Takes a few steps on generated images.
fn trial(cell: &Cell, slot: &Slot, program: &Program) -> Option<Rate> {
    let file = env::temp_dir().join(format!("xtask-trial-{}-{}.json", std::process::id(), cell.key));
    let (n, b) = if slot.gpu.is_some() { TRIAL_GPU } else { TRIAL_CPU };
    let mut command = program.command();
    command.args(["bench", "step", "--dataset", "synthetic", "--steps", "5", "--warmup", "1", "--recipe"]);
    command.arg(&cell.recipe).args(cell.changes.iter().flat_map(|change| ["--set", change]));
    for change in [format!("n_patches={n}"), format!("batch_size={b}"), "memory=whole".to_owned()] {
        command.arg("--set").arg(format!("training.{change}"));
    }
    let mut one = slot.clone();
    one.ranks = 1;
    one.add_to(&mut command);
    let output = command.arg("--json").arg(&file).output().ok()?;
    let text = fs::read_to_string(&file).ok();
    let _ = fs::remove_file(&file);
    let report: Value = serde_json::from_str(&text.filter(|_| output.status.success())?).ok()?;
    let training = report["measured"]["patches_per_s"].as_f64().filter(|rate| *rate > 0.0)?;
    // One process was tried; on a GPU each has as much of its own.
    let training = if slot.gpu.is_some() { training * slot.ranks as f64 } else { training };
    Some(Rate { training, scoring: training * TRAINING_OVER_FORWARD, is_measured: false })
}
