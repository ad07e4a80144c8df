//! Training in several processes, each with its slice of every batch, to the result of one.
//!
//! ```text
//! rank r    patches of its images -> network -> its z ──┐ all z, [n, b, d] -> objective, dz -> its slice of dz
//!           its part of the gradient <- back <───────── │ ────────────────────────────────────┘
//!           sum over ranks ───> the gradient of one process ───> LARS, alike on every rank
//! ```
//!
//! The objective is that of the whole batch, since its coding rate is: the projections of all ranks are gathered, each
//! rank computes value and gradient of all of them, and sends its own slice down its own graph. BatchNorm looks at the
//! whole batch too, or at each rank's slice where a recipe says so. What differs from one process is the order of sums.

use std::sync::Arc;

use empssl_model::{Network, SharedNorm};
use empssl_torch::failure;
use empssl_torch::processes::{GradientBuckets, ProcessGroup};
use tch::{Device, Tensor, no_grad};

use crate::config::BatchNormOver;
use crate::error::TrainError;
use crate::policy::StepActions;

/// Which slice of every batch a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The slice, from 0.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
}

impl Share {
    /// The whole batch.
    pub const WHOLE: Self = Self { rank: 0, world: 1 };
}

/// The other processes of a run, for one of them.
#[derive(Debug)]
pub struct Ranks {
    group: ProcessGroup,
    buckets: GradientBuckets,
    norms: BatchNormOver,
}

impl Ranks {
    /// Lets `network`, which is on the CPU or on the group's device, share its batches with the group. Gradients are summed
    /// in buckets of about `bucket_bytes`, [`GradientBuckets::BYTES`] where nothing speaks for another size.
    ///
    /// # Errors
    /// When the network is elsewhere.
    pub fn new(
        group: ProcessGroup,
        network: &mut Network,
        norms: BatchNormOver,
        bucket_bytes: usize,
    ) -> Result<Self, TrainError> {
        let is_served = [Device::Cpu, group.device()].contains(&network.device());
        let found = || format!("{:?} in a group of {:?}", network.device(), group.device());
        TrainError::check(is_served, "device", "the one that the group was opened for, or the CPU", found())?;
        let shared: Option<Arc<dyn SharedNorm>> = match norms {
            BatchNormOver::Global => Some(Arc::new(GroupNorm(group.clone()))),
            BatchNormOver::PerRank => None,
        };
        network.set_shared_norm(shared);
        let parameters: Vec<&Tensor> = network.parameters().iter().map(|(_, parameter)| parameter).collect();
        let buckets = GradientBuckets::new(&group, &parameters, bucket_bytes)?;
        Ok(Self { group, buckets, norms })
    }

    /// The processes themselves.
    pub fn group(&self) -> &ProcessGroup {
        &self.group
    }

    /// This rank's slice of every batch.
    pub fn share(&self) -> Share {
        Share { rank: self.group.rank(), world: self.group.world() }
    }

    /// Gives every rank the tensors of rank 0, in place.
    pub(crate) fn broadcast(&self, tensors: &[(String, Tensor)]) -> Result<(), TrainError> {
        let given = tensors.iter().try_for_each(|(_, tensor)| self.group.broadcast(tensor, 0));
        given.map_err(TrainError::from)
    }

    /// Projections of all images, `[n, b, d]`, from those of this rank's, `[n, b / world, d]`.
    pub(crate) fn gather(&self, own: &Tensor) -> Result<Tensor, TrainError> {
        let all = self.group.gather(own)?; // [world, n, b / world, d]
        Ok(all.transpose(0, 1).flatten(1, 2))
    }

    /// This rank's slice, `[n, b / world, d]`, of what belongs to all images, `[n, b, d]`.
    pub(crate) fn own_slice(&self, all: &Tensor) -> Tensor {
        let images = all.size()[1] / self.group.world() as i64;
        all.narrow(1, self.group.rank() as i64 * images, images)
    }

    /// The backward pass that begins is the last of the step.
    pub(crate) fn begin_last_pass(&mut self) {
        self.buckets.arm();
    }

    /// Every gradient is the sum over the ranks when this returns.
    pub(crate) fn finish_pass(&mut self) -> Result<(), TrainError> {
        Ok(self.buckets.finish()?)
    }

    /// The actions of this rank after a step, with the stop and the checkpoint of every rank: if one does, all do.
    pub(crate) fn all_reduce_actions(&self, own: StepActions) -> Result<StepActions, TrainError> {
        let flags = Tensor::from_slice(&[i64::from(own.stop), i64::from(own.checkpoint)]);
        self.group.largest(&flags)?;
        Ok(StepActions { stop: flags.int64_value(&[0]) > 0, checkpoint: flags.int64_value(&[1]) > 0, ..own })
    }

    /// Makes the network what a checkpoint may hold.
    pub(crate) fn settle(&self, network: &Network) -> Result<(), TrainError> {
        if self.norms == BatchNormOver::PerRank { self.average_statistics(network) } else { Ok(()) }
    }

    /// Where every rank has running statistics of its own, all take their mean. Since they move by fixed shares, it is
    /// what they would be had each batch moved them towards the mean of the ranks' statistics.
    fn average_statistics(&self, network: &Network) -> Result<(), TrainError> {
        let state = network.state_dict();
        let running = state.iter().filter(|(name, _)| name.contains(".running_"));
        let running: Vec<&Tensor> = running.map(|(_, tensor)| tensor).collect();
        no_grad(|| {
            let flat: Vec<Tensor> = running.iter().map(|tensor| tensor.flatten(0, -1)).collect();
            let flat = Tensor::cat(&flat, 0);
            self.group.sum(&flat)?;
            let (mean, mut from) = (flat / self.group.world() as f64, 0);
            for tensor in running {
                let numbers = tensor.numel() as i64;
                tensor.shallow_clone().copy_(&mean.narrow(0, from, numbers).view_as(tensor));
                from += numbers;
            }
            Ok(())
        })
    }
}

/// BatchNorm over the batches of all ranks.
#[derive(Debug)]
struct GroupNorm(ProcessGroup);

impl SharedNorm for GroupNorm {
    fn normalise(
        &self,
        x: &Tensor,
        gain_and_bias: [&Tensor; 2],
        running: Option<([&Tensor; 2], f64)>,
        eps: f64,
    ) -> Tensor {
        let normalised = self.0.batch_norm(x, gain_and_bias, running, eps);
        normalised.unwrap_or_else(|error| failure::throw(error))
    }
}
