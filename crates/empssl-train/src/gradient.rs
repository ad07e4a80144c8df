//! The gradient of one step, in three memory modes that keep more or less of it.
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
//! The running statistics move once a step in every mode: while the projections are computed, never when something is
//! run again. By patches they move towards the mean of the parts' statistics; the running variance is hence that within
//! a part, which is what the network was trained on.

use empssl_loss::{EmpSslLoss, LossTerms};
use empssl_model::{Mode, Network, Part, network_input};
use empssl_torch::ShimError;
use empssl_torch::autograd::backward;
use empssl_torch::precision::Tf32Scope;
use tch::{Tensor, no_grad};
use tracing::info_span;

use crate::config::MemoryMode;
use crate::error::TrainError;
use crate::ranks::Ranks;

/// Which statistics BatchNorm normalises by in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchNormStats {
    /// The batch's, as in all training here; the running ones move.
    Batch,
    /// The running ones, which stay: the network is a fixed function of each patch, and all modes have one gradient.
    Running,
}

/// How the gradient of a step is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepPlan {
    /// What is kept.
    pub memory: MemoryMode,
    /// What is normalised by.
    pub norms: BatchNormStats,
    /// Whether the network, and it alone, may use TF32; where this is false the process's switches stay as they are.
    pub tf32: bool,
}

impl StepPlan {
    /// Adds the gradient of the objective with respect to every parameter to what the parameters have, for patches
    /// `[n, b, 3, s, s]` in bytes on the network's device.
    ///
    /// Where the batch is shared with other `ranks`, the patches are those of this process's images, the terms those of
    /// all images, and the gradients, of which the parameters had none before, the sums over the ranks.
    ///
    /// # Errors
    /// When the objective refuses its projections, libtorch fails, or a rank is lost.
    ///
    /// # Panics
    /// When libtorch fails in a forward pass; [`empssl_torch::catch`] makes an error of it.
    pub fn backward(
        &self,
        network: &Network,
        loss: &EmpSslLoss,
        patches: &Tensor,
        ranks: Option<&mut Ranks>,
    ) -> Result<LossTerms, TrainError> {
        let _tf32 = self.scope(true)?;
        let mut step = Step { plan: *self, network, loss, patches, ranks };
        let terms = match self.memory {
            MemoryMode::Whole => step.whole(),
            MemoryMode::ByStage => step.by_stage(),
            MemoryMode::ByPatches(part) => step.by_patches(part as i64),
        }?;
        if let Some(ranks) = step.ranks {
            info_span!("backward").in_scope(|| ranks.finish_pass())?;
        }
        Ok(terms)
    }

    /// TF32 allowed or not, where it is in question.
    fn scope(&self, allowed: bool) -> Result<Option<Tf32Scope>, ShimError> {
        self.tf32.then(|| Tf32Scope::new(allowed)).transpose()
    }

    /// How BatchNorm behaves where it would in training as `trained`.
    fn mode(&self, trained: Mode) -> Mode {
        if self.norms == BatchNormStats::Batch { trained } else { Mode::Eval }
    }
}

/// One step in its memory mode.
struct Step<'a> {
    plan: StepPlan,
    network: &'a Network,
    loss: &'a EmpSslLoss,
    /// `[n, b, 3, s, s]`, bytes.
    patches: &'a Tensor,
    ranks: Option<&'a mut Ranks>,
}

impl Step<'_> {
    fn whole(&mut self) -> Result<LossTerms, TrainError> {
        let forward = || self.network.forward(&self.input(0, self.n()), self.plan.mode(Mode::Train)).projections;
        let z = info_span!("forward").in_scope(forward);
        let (terms, gradient) = self.objective(&z)?;
        self.last_backward(&z, &gradient)?;
        Ok(terms)
    }

    fn by_stage(&mut self) -> Result<LossTerms, TrainError> {
        let forward = info_span!("forward").entered();
        let [below @ .., last] = self.network.stages();
        let mut x = self.input(0, self.n());
        let mut kept = Vec::new();
        for stage in below {
            let y = no_grad(|| stage.forward(&x, self.plan.mode(Mode::Train)));
            kept.push((stage, std::mem::replace(&mut x, y)));
        }
        // Nothing comes between the forward and the backward pass of the last stage, so it runs once.
        let x = x.set_requires_grad(true);
        let z = last.forward(&x, self.plan.mode(Mode::Train));
        drop(forward);
        let (terms, gradient) = self.objective(&z)?;
        // Each parameter belongs to one stage, so every gradient is the last of its parameter.
        self.last_backward(&z, &gradient)?;
        drop((z, gradient));
        let mut gradient = x.grad();
        drop(x);
        while let Some((stage, x)) = kept.pop() {
            let x = x.set_requires_grad(!kept.is_empty()); // patches need no gradient
            let y = info_span!("recompute").in_scope(|| stage.forward(&x, self.plan.mode(Mode::Again)));
            info_span!("backward").in_scope(|| backward(&y, &gradient))?;
            gradient = x.grad();
        }
        Ok(terms)
    }

    fn by_patches(&mut self, part: i64) -> Result<LossTerms, TrainError> {
        let (n, b) = (self.n(), self.b());
        let z = info_span!("forward").in_scope(|| self.projections(part));
        let (terms, gradient) = self.objective(&z)?;
        drop(z);
        for from in (0..n).step_by(part as usize) {
            let forward = || self.network.forward(&self.input(from, part), self.plan.mode(Mode::Again)).projections;
            let z = info_span!("recompute").in_scope(forward);
            let gradient = gradient.narrow(0, from * b, part * b);
            if from + part == n {
                self.last_backward(&z, &gradient)?;
            } else {
                info_span!("backward").in_scope(|| backward(&z, &gradient))?;
            }
        }
        Ok(terms)
    }

    /// The last backward pass of the step, during which the ranks begin to sum the gradients that are complete.
    fn last_backward(&mut self, z: &Tensor, gradient: &Tensor) -> Result<(), TrainError> {
        let _span = info_span!("backward").entered();
        if let Some(ranks) = &mut self.ranks {
            ranks.begin_last_pass();
        }
        Ok(backward(z, gradient)?)
    }

    /// The projections of all patches, `[n * b, d]`, without graph, computed part by part.
    fn projections(&self, part: i64) -> Tensor {
        let (n, b) = (self.n(), self.b());
        let all =
            Tensor::empty([n * b, self.network.config().projection], (self.network.kind(), self.network.device()));
        no_grad(|| {
            for from in (0..n).step_by(part as usize) {
                let mode = self.plan.mode(Mode::Part(Part { from: from * b, to: (from + part) * b, of: n * b }));
                let z = self.network.forward(&self.input(from, part), mode).projections;
                all.narrow(0, from * b, part * b).copy_(&z);
            }
        });
        all
    }

    /// The terms of the objective for all projections `[n * b, d]`, and its gradient with respect to them; b are the
    /// images of this process.
    fn objective(&self, z: &Tensor) -> Result<(LossTerms, Tensor), TrainError> {
        let _span = info_span!("loss").entered();
        let _exact = self.plan.scope(false)?;
        let own = z.detach().view([self.n(), self.b(), -1]);
        let Some(ranks) = &self.ranks else {
            let (terms, gradient) = self.loss.value_and_gradient(&own)?;
            return Ok((terms, gradient.flatten(0, 1)));
        };
        let (terms, gradient) = self.loss.value_and_gradient(&ranks.gather(&own)?)?;
        Ok((terms, ranks.own_slice(&gradient).flatten(0, 1)))
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
