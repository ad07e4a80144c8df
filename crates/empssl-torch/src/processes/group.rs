//! What processes do together, and gradients that are summed while the backward pass goes on.

use std::sync::Arc;
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use super::error::GroupError;
use super::launch::Launch;
use super::nccl;
use super::rendezvous::Rendezvous;
use crate::device;
use crate::ffi::{RawBuckets, RawGroup, RawStore, ShimError, Traffic};

/// The processes of a run, as one of them sees them; clones are the same group.
#[derive(Debug, Clone)]
pub struct ProcessGroup(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rank: usize,
    world: usize,
    local_world: usize,
    device: Device,
    raw: RawGroup,
    /// Where rank 0 keeps the store, it lives as long as the group.
    _store: RawStore,
}

impl ProcessGroup {
    /// Waits for all processes of a launch, and connects with them by Gloo, for tensors of the CPU.
    ///
    /// The others come within `timeout`, or it is an error; and every collective later fails by itself when a rank has
    /// ended, or does not come to it within `timeout`.
    ///
    /// # Errors
    /// When the meeting point cannot be opened or reached, or a rank does not come.
    pub fn join(launch: &Launch, timeout: Duration) -> Result<Self, GroupError> {
        Self::join_on(launch, Device::Cpu, timeout)
    }

    /// [`Self::join`] of processes that compute on `device`: where that is a GPU, [`Launch::gpu`] says which, tensors of
    /// it travel by NCCL, those of the CPU by Gloo still, and the GPU waits for its collectives, not the host. When one
    /// of those fails or takes longer than `timeout`, c10d's watchdog ends the process.
    ///
    /// # Errors
    /// As [`Self::join`]; [`GroupError::Nccl`] when NCCL cannot be used, before anybody is waited for; when two ranks
    /// have one GPU, or some compute on a CPU and others on a GPU.
    pub fn join_on(launch: &Launch, device: Device, timeout: Duration) -> Result<Self, GroupError> {
        let nccl = match device {
            Device::Cuda(index) => {
                let nccl = nccl::open()?;
                device::make_current(index)?;
                Some((nccl, index))
            }
            _ => None,
        };
        let rendezvous = Rendezvous::new(launch, timeout);
        let store = rendezvous.store()?;
        let listen = rendezvous.listen()?;
        rendezvous.meet(&store, &listen, device)?;
        let Launch { rank, world, local_world, .. } = *launch;
        let raw = RawGroup::gloo(&store, &rendezvous.key("gloo"), &listen, (rank, world), timeout);
        let mut raw = raw.map_err(|error| rendezvous.failed("connect with the others through", &error))?;
        if let Some((nccl, index)) = nccl {
            let key = rendezvous.key("nccl");
            let connected = nccl.connect(&mut raw, &store, &key, (rank, world), index, timeout);
            connected.map_err(|error| rendezvous.failed("connect its GPU with the others' through", &error))?;
        }
        Ok(Self(Arc::new(Inner { rank, world, local_world, device, raw, _store: store })))
    }

    /// Which process this is, from 0.
    pub fn rank(&self) -> usize {
        self.0.rank
    }

    /// How many there are.
    pub fn world(&self) -> usize {
        self.0.world
    }

    /// How many of them share this host.
    pub fn local_world(&self) -> usize {
        self.0.local_world
    }

    /// Where this rank computes: the group's tensors are on this device or on the CPU.
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// What tensors travel by, for people.
    pub fn engines(&self) -> &'static str {
        if self.0.device == Device::Cpu { "Gloo" } else { "NCCL, and Gloo between the hosts" }
    }

    /// Sums a tensor over the ranks, in place. One on a GPU is returned at once, and what is computed with it there
    /// waits; so it is for every collective.
    ///
    /// # Errors
    /// [`GroupError::Collective`] when a rank has ended or did not come within the time-out, or libtorch refuses the
    /// tensor: it must be contiguous, and on the CPU or the group's device.
    pub fn sum(&self, tensor: &Tensor) -> Result<(), GroupError> {
        self.0.raw.all_reduce(tensor, false).map_err(GroupError::Collective)
    }

    /// The largest value over the ranks, element by element, in place.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn largest(&self, tensor: &Tensor) -> Result<(), GroupError> {
        self.0.raw.all_reduce(tensor, true).map_err(GroupError::Collective)
    }

    /// Gathers the tensors of all ranks, which are of one shape: `[...]` to `[world, ...]`, in their order.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn gather(&self, tensor: &Tensor) -> Result<Tensor, GroupError> {
        let own = tensor.detach().contiguous();
        let sizes: Vec<i64> = std::iter::once(self.world() as i64).chain(own.size()).collect();
        let all = Tensor::empty(sizes, (own.kind(), own.device()));
        // Gloo cuts its output along the first dimension, where a tensor of no dimension has none.
        self.0.raw.all_gather(&all.view([-1]), &own.view([-1])).map_err(GroupError::Collective)?;
        Ok(all)
    }

    /// Gives every rank the tensor of rank `root`, in place.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), GroupError> {
        self.0.raw.broadcast(tensor, root).map_err(GroupError::Collective)
    }

    /// Waits until every rank has come as far.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn barrier(&self) -> Result<(), GroupError> {
        self.sum(&Tensor::zeros([1], (Kind::Int64, Device::Cpu)))
    }

    /// Makes sure that all ranks have the same numbers under the same names, in which they say what they are about to
    /// do.
    ///
    /// # Errors
    /// [`GroupError::Unlike`] on every rank, with the first rank that differs from rank 0; as [`Self::sum`].
    pub fn demand_alike(&self, facts: &[(&str, u64)]) -> Result<(), GroupError> {
        let own: Vec<i64> = facts.iter().map(|(_, number)| *number as i64).collect();
        let all = self.gather(&Tensor::from_slice(&own))?;
        let differs = all.ne_tensor(&all.get(0)).nonzero();
        if differs.numel() == 0 {
            return Ok(());
        }
        let (rank, fact) = (differs.int64_value(&[0, 0]), differs.int64_value(&[0, 1]));
        Err(GroupError::Unlike { rank: rank as usize, what: facts[fact as usize].0.to_owned() })
    }

    /// Batch normalisation as if the parts `x` of all ranks were one batch, with its derivative: of `[N, channels, ...]`
    /// over everything but the second dimension. `running` are mean and variance that move by their share, the variance
    /// being the unbiased one, as in PyTorch.
    ///
    /// # Errors
    /// When libtorch refuses, or a rank has ended or did not come.
    pub fn batch_norm(
        &self,
        x: &Tensor,
        weight_and_bias: [&Tensor; 2],
        running: Option<([&Tensor; 2], f64)>,
        eps: f64,
    ) -> Result<Tensor, ShimError> {
        self.0.raw.batch_norm(x, weight_and_bias, running, eps)
    }

    /// What this rank has said to the others so far.
    pub fn traffic(&self) -> Traffic {
        self.0.raw.traffic()
    }

    /// Ends the work together: every rank waits for all, so that nobody is still waiting for one that has ended.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn leave(self) -> Result<(), GroupError> {
        self.barrier()
    }
}

/// The gradients of a network's parameters, in flat buckets that travel one by one.
///
/// The backward pass gives the gradients of the last layers first. As soon as a bucket's last gradient has arrived it
/// is sent, and travels while the pass goes on with the layers before. Buckets are sent in one order on every rank.
#[derive(Debug)]
pub struct GradientBuckets {
    raw: RawBuckets,
}

impl GradientBuckets {
    /// Numbers of a bucket, in bytes, where nothing speaks for another size: PyTorch's.
    pub const BYTES: usize = 25 << 20;

    /// Watches over `parameters`, leaves that require gradients, in the order of the forward pass and alike on every
    /// rank.
    ///
    /// # Errors
    /// [`GroupError::Refused`] when one is no such leaf.
    pub fn new(group: &ProcessGroup, parameters: &[&Tensor], bytes: usize) -> Result<Self, GroupError> {
        Ok(Self { raw: RawBuckets::new(&group.0.raw, parameters, bytes)? })
    }

    /// To be called before the last backward pass of a step: from now on each gradient that arrives is sent.
    pub fn arm(&mut self) {
        self.raw.arm();
    }

    /// Sends what is left, waits, and puts the sums in the gradients' places.
    ///
    /// # Errors
    /// [`GroupError::Collective`] when a rank has ended or did not come within the time-out.
    pub fn finish(&mut self) -> Result<(), GroupError> {
        self.raw.finish().map_err(GroupError::Collective)
    }
}
