//! The gradient of one step, by three roads that keep more or less of it in memory.
//!
//! ```text
//! whole       patches -> network, all of it kept -> z -> objective, dz -> back through the network
//! by stage    patches -> network, only the stages' inputs kept -> z -> objective, dz
//!             -> from the last stage to the first: run it again, kept -> back through it -> forget it
//! by patches  some patches of every image -> network, nothing kept -> their z; and the next ...; all z -> objective, dz
//!             -> the same patches again, kept -> back through the network -> forget them; and the next ...
//! ```
//!
//! All three see the objective of the whole step. By stage, BatchNorm sees the whole step too, and the gradient is that
//! of the whole step to within rounding. By patches, BatchNorm normalises each part by its own statistics, which is
//! another training than the published one wherever a part is not the whole.
//!
//! The running statistics move once a step on every road: while the projections are computed, never when something is
//! run again. By patches they move towards the mean of the parts' statistics; the running variance is hence that within
//! a part, which is what the network was trained on.

use std::fmt;

use empssl_loss::{EmpSslLoss, LossTerms};
use empssl_model::{Mode, Network, Part};
use empssl_torch::ShimError;
use empssl_torch::autograd::backward;
use empssl_torch::precision::Tf32Scope;
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use crate::error::TrainError;
use crate::phase::Phase;
use crate::ranks::Ranks;
use crate::source::network_input;

/// What a step keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryMode {
    /// Everything: the fastest.
    Whole,
    /// One stage of the network at a time, for one more forward pass of all but the last. Same gradient as
    /// [`Self::Whole`].
    ByStage,
    /// So many patches of every image at a time, for one more forward pass. BatchNorm sees only these.
    ByPatches(usize),
}

impl MemoryMode {
    /// Patches of each image that BatchNorm sees at once, of n in a step.
    pub fn patches_at_once(self, n: usize) -> usize {
        if let Self::ByPatches(part) = self { part } else { n }
    }

    /// Every mode that a step of n patches of b images can take, the one that needs most memory first.
    pub fn all(n: usize, b: usize) -> impl Iterator<Item = Self> {
        let by_patches = (1..n).rev().map(Self::ByPatches).filter(move |mode| mode.check(n, b).is_ok());
        [Self::Whole, Self::ByStage].into_iter().chain(by_patches)
    }

    /// Refuses parts that do not fit a step of n patches of b images.
    pub(crate) fn check(self, n: usize, b: usize) -> Result<(), TrainError> {
        let Self::ByPatches(part) = self else { return Ok(()) };
        let even = "a divisor of n_patches, so that all parts are alike";
        TrainError::check(part >= 1 && n.is_multiple_of(part), "memory.by-patches", even, part)?;
        let normalisable =
            "such that a part has at least 2 patches in all, or batch normalisation has nothing to normalise";
        TrainError::check(part * b >= 2, "memory.by-patches", normalisable, part)
    }
}

/// As a recipe spells it.
impl fmt::Display for MemoryMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("\"whole\""),
            Self::ByStage => f.write_str("\"by-stage\""),
            Self::ByPatches(part) => write!(f, "{{ by-patches = {part} }}"),
        }
    }
}

/// Which statistics BatchNorm normalises by in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// The batch's, as in all training here; the running ones move.
    Batch,
    /// The running ones, which stay: the network is a fixed function of each patch, and all roads have one gradient.
    Running,
}

/// How the gradient of a step is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepPlan {
    /// What is kept.
    pub memory: MemoryMode,
    /// What is normalised by.
    pub norms: Norms,
    /// Whether the network, and it alone, may use TF32; where this is false the process's switches stay as they are.
    pub tf32: bool,
}

impl StepPlan {
    /// Adds the gradient of the objective with respect to every parameter to what the parameters have, for patches
    /// `[n, b, 3, s, s]` in bytes on the network's device.
    ///
    /// # Errors
    /// When the objective refuses its projections, or libtorch fails.
    ///
    /// # Panics
    /// When libtorch fails in a forward pass; [`empssl_torch::catch`] makes an error of it.
    pub fn backward(&self, network: &Network, loss: &EmpSslLoss, patches: &Tensor) -> Result<LossTerms, TrainError> {
        self.backward_in_phases(network, loss, patches, &mut |_| ())
    }

    /// [`Self::backward`], which tells `enter` of every phase that begins: [`Phase::Forward`], [`Phase::Loss`],
    /// [`Phase::Again`] where something is run once more, and [`Phase::Backward`].
    ///
    /// # Errors
    /// As [`Self::backward`].
    ///
    /// # Panics
    /// As [`Self::backward`].
    pub fn backward_in_phases(
        &self,
        network: &Network,
        loss: &EmpSslLoss,
        patches: &Tensor,
        enter: &mut dyn FnMut(Phase),
    ) -> Result<LossTerms, TrainError> {
        self.backward_among(None, network, loss, patches, enter)
    }

    /// [`Self::backward_in_phases`] for one of several processes: the patches are those of its images, the terms those
    /// of all images, and the gradients, of which the parameters had none before, the sums over the ranks.
    ///
    /// # Errors
    /// As [`Self::backward`], and when a rank is lost.
    ///
    /// # Panics
    /// As [`Self::backward`].
    pub fn backward_among(
        &self,
        ranks: Option<&mut Ranks>,
        network: &Network,
        loss: &EmpSslLoss,
        patches: &Tensor,
        enter: &mut dyn FnMut(Phase),
    ) -> Result<LossTerms, TrainError> {
        let _tf32 = self.scope(true)?;
        let mut step = Step { plan: *self, network, loss, patches, ranks, enter };
        let terms = match self.memory {
            MemoryMode::Whole => step.whole(),
            MemoryMode::ByStage => step.by_stage(),
            MemoryMode::ByPatches(part) => step.by_patches(part as i64),
        }?;
        step.ranks.map_or(Ok(()), Ranks::finish_pass)?;
        Ok(terms)
    }

    /// TF32 allowed or not, where it is in question.
    fn scope(&self, allowed: bool) -> Result<Option<Tf32Scope>, ShimError> {
        self.tf32.then(|| Tf32Scope::new(allowed)).transpose()
    }

    /// How the network is run the first time in a step.
    fn first(&self) -> Mode {
        if self.norms == Norms::Batch { Mode::Train } else { Mode::Eval }
    }

    /// How the network is run the first time on a part of the step.
    fn first_of(&self, part: Part) -> Mode {
        if self.norms == Norms::Batch { Mode::Part(part) } else { Mode::Eval }
    }

    /// How the network is run again on what it has seen in this step.
    fn again(&self) -> Mode {
        if self.norms == Norms::Batch { Mode::Again } else { Mode::Eval }
    }
}

/// One step on its road.
struct Step<'a> {
    plan: StepPlan,
    network: &'a Network,
    loss: &'a EmpSslLoss,
    /// `[n, b, 3, s, s]`, bytes.
    patches: &'a Tensor,
    ranks: Option<&'a mut Ranks>,
    enter: &'a mut dyn FnMut(Phase),
}

impl Step<'_> {
    fn whole(&mut self) -> Result<LossTerms, TrainError> {
        (self.enter)(Phase::Forward);
        let z = self.network.forward(&self.input(0, self.n()), self.plan.first()).projections;
        let (terms, gradient) = self.objective(&z)?;
        (self.enter)(Phase::Backward);
        self.begin_last_pass();
        backward(&z, &gradient)?;
        Ok(terms)
    }

    fn by_stage(&mut self) -> Result<LossTerms, TrainError> {
        (self.enter)(Phase::Forward);
        let [below @ .., last] = self.network.stages();
        let mut x = self.input(0, self.n());
        let mut kept = Vec::new();
        for stage in below {
            let y = no_grad(|| stage.forward(&x, self.plan.first()));
            kept.push((stage, std::mem::replace(&mut x, y)));
        }
        // Nothing comes between the forward and the backward pass of the last stage, so it runs once.
        let x = x.set_requires_grad(true);
        let (terms, mut gradient) = {
            let z = last.forward(&x, self.plan.first());
            let (terms, gradient) = self.objective(&z)?;
            (self.enter)(Phase::Backward);
            // Each parameter belongs to one stage, so every gradient is the last of its parameter.
            self.begin_last_pass();
            backward(&z, &gradient)?;
            (terms, x.grad())
        };
        drop(x);
        while let Some((stage, x)) = kept.pop() {
            let x = x.set_requires_grad(!kept.is_empty()); // patches need no gradient
            (self.enter)(Phase::Again);
            let y = stage.forward(&x, self.plan.again());
            (self.enter)(Phase::Backward);
            backward(&y, &gradient)?;
            gradient = x.grad();
        }
        Ok(terms)
    }

    fn by_patches(&mut self, part: i64) -> Result<LossTerms, TrainError> {
        let (n, b) = (self.n(), self.b());
        (self.enter)(Phase::Forward);
        let z = self.projections(part);
        let (terms, gradient) = self.objective(&z)?;
        drop(z);
        for from in (0..n).step_by(part as usize) {
            (self.enter)(Phase::Again);
            let z = self.network.forward(&self.input(from, part), self.plan.again()).projections;
            (self.enter)(Phase::Backward);
            if from + part == n {
                self.begin_last_pass();
            }
            backward(&z, &gradient.narrow(0, from * b, part * b))?;
        }
        Ok(terms)
    }

    /// The projections of all patches, `[n * b, d]`, without graph, computed part by part.
    fn projections(&self, part: i64) -> Tensor {
        let (n, b) = (self.n(), self.b());
        let all =
            Tensor::empty([n * b, self.network.config().projection], (self.network.kind(), self.network.device()));
        no_grad(|| {
            for from in (0..n).step_by(part as usize) {
                let mode = self.plan.first_of(Part { from: from * b, to: (from + part) * b, of: n * b });
                let z = self.network.forward(&self.input(from, part), mode).projections;
                all.narrow(0, from * b, part * b).copy_(&z);
            }
        });
        all
    }

    /// The terms of the objective for all projections `[n * b, d]`, and its gradient with respect to them; b are the
    /// images of this process.
    fn objective(&mut self, z: &Tensor) -> Result<(LossTerms, Tensor), TrainError> {
        (self.enter)(Phase::Loss);
        let _exact = self.plan.scope(false)?;
        let own = z.detach().view([self.n(), self.b(), -1]);
        let Some(ranks) = &self.ranks else {
            let (terms, gradient) = self.loss.value_and_gradient(&own)?;
            return Ok((terms, gradient.flatten(0, 1)));
        };
        let (terms, gradient) = self.loss.value_and_gradient(&ranks.gather(&own)?)?;
        Ok((terms, ranks.own_slice(&gradient).flatten(0, 1)))
    }

    fn begin_last_pass(&mut self) {
        if let Some(ranks) = &mut self.ranks {
            ranks.begin_last_pass();
        }
    }

    /// What the network takes for `count` patches of every image from the patch `from` on, `[count * b, 3, s, s]`.
    fn input(&self, from: i64, count: i64) -> Tensor {
        network_input(&self.patches.narrow(0, from, count), self.network.kind())
    }

    fn n(&self) -> i64 {
        self.patches.size()[0]
    }

    fn b(&self) -> i64 {
        self.patches.size()[1]
    }
}

#[cfg(test)]
mod tests;
