//! What processes do together.

use std::sync::Arc;
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use super::error::GroupError;
use super::guard::Guard;
use super::launch::Launch;
use super::meeting::{Meeting, Peer};
use super::nccl;
use super::orders::Orders;
use super::watch::{Fault, Pace, State, Watch};
use crate::device;
use crate::ffi::{DeviceType, RawEngine, RawGroup, RawStore, RawWork, ShimError};

/// The processes of a run, as one of them sees them; clones are the same group.
#[derive(Debug, Clone)]
pub struct ProcessGroup(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rank: usize,
    world: usize,
    local_world: usize,
    device: Device,
    raw: Arc<RawGroup>,
    /// Of the device, where it is a GPU.
    guard: Option<Guard>,
    watch: Watch,
    /// Host and process of every rank, for people.
    peers: Vec<Peer>,
    /// Where rank 0 keeps the store, it lives as long as the group.
    store: Arc<RawStore>,
    orders: Orders,
}

/// What a process has said to the others.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Collectives it took part in.
    pub calls: u64,
    /// Bytes that it put into them; what travels follows from the algorithm.
    pub bytes: u64,
    /// Nanoseconds that the host waited for them; what a GPU waits is not counted.
    pub nanoseconds: u64,
}

impl Traffic {
    /// What was said after `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            calls: self.calls - before.calls,
            bytes: self.bytes - before.bytes,
            nanoseconds: self.nanoseconds - before.nanoseconds,
        }
    }
}

impl ProcessGroup {
    /// The shortest time-out: below it, a busy machine would be taken for a dead one.
    pub const LEAST_TIMEOUT: Duration = Duration::from_secs(2);

    /// Waits for all processes of a launch, and connects with them by Gloo, for tensors of the CPU.
    ///
    /// Whatever one of them waits for, now or later, ends within `timeout`, which is at least [`Self::LEAST_TIMEOUT`]:
    /// the others come, or [`GroupError::Absent`] or [`GroupError::Lost`] names those who did not.
    ///
    /// # Errors
    /// When the meeting point cannot be opened or reached, or a rank does not come.
    pub fn join(launch: &Launch, timeout: Duration) -> Result<Self, GroupError> {
        Self::join_on(launch, Device::Cpu, timeout)
    }

    /// [`Self::join`] of processes that compute on `device`: where that is a GPU, [`Launch::gpu`] says which, tensors of
    /// it travel by NCCL, those of the CPU by Gloo still, and the GPU waits for its collectives, not the host.
    ///
    /// # Errors
    /// As [`Self::join`]; [`GroupError::Nccl`] when NCCL cannot be used, before anybody is waited for; when two ranks
    /// have one GPU, or some compute on a CPU and others on a GPU.
    pub fn join_on(launch: &Launch, device: Device, timeout: Duration) -> Result<Self, GroupError> {
        let timeout = timeout.max(Self::LEAST_TIMEOUT);
        let nccl = match device {
            Device::Cuda(index) => {
                let nccl = nccl::open()?;
                device::make_current(index)?;
                Some((nccl, index))
            }
            _ => None,
        };
        let meeting = Meeting::new(launch, timeout);
        let store = Arc::new(meeting.store(launch.rank == 0 && !launch.launcher_keeps_store)?);
        let listen = meeting.listen()?;
        let peers = meeting.peers(&store, &listen, device)?;
        let pace = Pace::within(timeout);
        let (place, prefix) = ((launch.rank, launch.world), meeting.prefix());
        // What a collective may wait for leaves time to find out why.
        let patience = timeout - pace.patience;
        let failed = |error| meeting.failed("connect with the others through", &error);
        let host = RawEngine::gloo(&store, &format!("{prefix}gloo"), &listen, place, patience).map_err(failed)?;
        let by_nccl = nccl.map(|(nccl, index)| nccl.connect(&store, &format!("{prefix}nccl"), place, index, patience));
        let by_nccl =
            by_nccl.transpose().map_err(|error| meeting.failed("connect its GPU with the others' through", &error))?;
        let raw = RawGroup::new(&host, by_nccl.as_ref().map(|engine| (engine, DeviceType::Cuda)));
        let raw = Arc::new(raw.map_err(failed)?);
        let guard = by_nccl.map(|_| Guard::begin(Arc::clone(&raw), patience));
        let orders = Orders::new(&prefix, timeout, pace);
        let watch = Watch::begin(meeting.store(false)?, prefix, launch.rank, launch.world, pace);
        let Launch { rank, world, local_world, .. } = *launch;
        Ok(Self(Arc::new(Inner { rank, world, local_world, device, raw, guard, watch, peers, store, orders })))
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

    /// Begins to sum a tensor over the ranks, in place. It must not be touched until the sum is waited for.
    ///
    /// # Errors
    /// When libtorch refuses the tensor: it must be contiguous, and on the CPU or the group's device.
    pub fn begin_sum(&self, tensor: Tensor) -> Result<Pending, GroupError> {
        self.begin(tensor, |raw, tensor| raw.all_reduce(tensor, false))
    }

    /// Sums a tensor over the ranks, in place.
    ///
    /// # Errors
    /// As [`Self::begin_sum`] and [`Pending::wait`].
    pub fn sum(&self, tensor: &Tensor) -> Result<(), GroupError> {
        self.begin_sum(tensor.shallow_clone())?.wait().map(drop)
    }

    /// The largest value over the ranks, element by element, in place.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn largest(&self, tensor: &Tensor) -> Result<(), GroupError> {
        self.begin(tensor.shallow_clone(), |raw, tensor| raw.all_reduce(tensor, true))?.wait().map(drop)
    }

    /// Begins to gather the tensors of all ranks, which are of one shape: `[...]` to `[world, ...]`, in their order.
    ///
    /// # Errors
    /// As [`Self::begin_sum`].
    pub fn begin_gather(&self, tensor: &Tensor) -> Result<Pending, GroupError> {
        let own = tensor.detach().contiguous();
        let all = self.room_for_all(&own);
        // Gloo cuts its output along the first dimension, where a tensor of no dimension has none.
        let flat = all.view([-1]);
        self.begin(all, |raw, _| raw.all_gather(&flat, &own.view([-1])))
    }

    /// Gathers the tensors of all ranks, `[...]` to `[world, ...]`.
    ///
    /// # Errors
    /// As [`Self::begin_sum`] and [`Pending::wait`].
    pub fn gather(&self, tensor: &Tensor) -> Result<Tensor, GroupError> {
        self.begin_gather(tensor)?.wait()
    }

    /// Gives every rank the tensor of rank `root`, in place.
    ///
    /// # Errors
    /// As [`Self::begin_sum`] and [`Pending::wait`]; a `root` that is no rank.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), GroupError> {
        self.demand_rank(root)?;
        self.begin(tensor.shallow_clone(), |raw, tensor| raw.broadcast(tensor, root))?.wait().map(drop)
    }

    /// Begins to gather the tensors of all ranks, which are of one shape, on rank `root` alone: there `[...]` becomes
    /// `[world, ...]`, in the order of the ranks; elsewhere waiting gives the rank's own tensor back.
    ///
    /// # Errors
    /// As [`Self::begin_sum`]; a `root` that is no rank.
    pub fn begin_gather_at(&self, tensor: &Tensor, root: usize) -> Result<Pending, GroupError> {
        self.demand_rank(root)?;
        let own = tensor.detach().contiguous();
        let all = if self.rank() == root { self.room_for_all(&own) } else { own.shallow_clone() };
        self.begin(all, |raw, all| raw.gather(all, &own, root))
    }

    fn demand_rank(&self, root: usize) -> Result<(), GroupError> {
        if root < self.world() {
            return Ok(());
        }
        Err(GroupError::Misplaced(format!("there is no rank {root} among {} ranks", self.world())))
    }

    /// `[world, ...]` for tensors like this one.
    fn room_for_all(&self, own: &Tensor) -> Tensor {
        let sizes: Vec<i64> = std::iter::once(self.world() as i64).chain(own.size()).collect();
        Tensor::empty(sizes, (own.kind(), own.device()))
    }

    /// Waits until every rank has come as far.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn barrier(&self) -> Result<(), GroupError> {
        self.sum(&Tensor::zeros([1], (Kind::Int64, Device::Cpu)))
    }

    /// Makes sure that all ranks have the same numbers under the same names, in which they say what they are about to
    /// do.
    ///
    /// # Errors
    /// [`GroupError::Unlike`] on every rank, with the first rank that differs from rank 0; as [`Pending::wait`].
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
    /// When libtorch refuses, or a rank is lost: [`Self::explain`] tells.
    pub fn batch_norm(
        &self,
        x: &Tensor,
        weight_and_bias: [&Tensor; 2],
        running: Option<([&Tensor; 2], f64)>,
        eps: f64,
    ) -> Result<Tensor, ShimError> {
        self.0.raw.batch_norm(x, weight_and_bias, running, eps)
    }

    /// Waits on the host until this rank's GPU has finished every collective that it was asked for; nothing to wait for on
    /// the CPU. What was computed until then is worth saving.
    ///
    /// # Errors
    /// [`GroupError::Lost`] when one of them failed or did not end within the time-out.
    pub fn settle(&self) -> Result<(), GroupError> {
        loop {
            let progress = self.0.raw.progress();
            // Asked after the progress: what is broken off counts as finished, too.
            if self.is_broken() || progress.is_err() {
                return Err(
                    self.lost(&progress.map_or_else(|error| error.0, |_| "a collective of its GPU failed".to_owned()))
                );
            }
            if progress.is_ok_and(|progress| progress.finished == progress.asked) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The step that this rank is in, which others are told when it is missing.
    pub fn set_step(&self, step: u64) {
        self.0.watch.set_step(step);
    }

    /// What this rank has said to the others so far.
    pub fn traffic(&self) -> Traffic {
        self.0.raw.traffic()
    }

    /// Whether a collective has failed; no other will succeed.
    pub fn is_broken(&self) -> bool {
        self.0.raw.is_broken()
    }

    /// Why a collective failed, by libtorch's `text` and by the signs of life of all ranks; `None` when none did.
    ///
    /// This waits for those signs, a fifth of the time-out at most, and tells the others.
    pub fn explain(&self, text: &str) -> Option<GroupError> {
        self.is_broken().then(|| self.lost(text))
    }

    fn lost(&self, text: &str) -> GroupError {
        self.lost_by(None, text)
    }

    /// As [`Self::lost`], by a fault that was seen already.
    pub(super) fn lost_by(&self, fault: Option<Fault>, text: &str) -> GroupError {
        let watch = &self.0.watch;
        watch.tell(State::Lost);
        let fault = fault.or_else(|| watch.fault());
        if self.rank() == 0 {
            watch.linger();
        }
        let said = text.trim_end_matches('.');
        match fault {
            Some(fault) => {
                let Peer { host, process, .. } = &self.0.peers[fault.rank];
                let reason = format!(" (process {process} on {host}){}; rank {}: {said}", fault.what, self.rank());
                GroupError::Lost { rank: Some(fault.rank), reason }
            }
            None if self.world() == 1 => {
                GroupError::Lost { rank: None, reason: format!("rank 0 failed by itself: {said}") }
            }
            None => {
                let reason = format!("rank {} lost touch with the others, all of which live: {said}", self.rank());
                GroupError::Lost { rank: None, reason }
            }
        }
    }

    /// Tells the others that this rank fails, and why, before it does.
    pub fn fail(&self, why: &str) {
        self.0.watch.tell(State::Failed(why.to_owned()));
        if self.rank() == 0 {
            self.0.watch.linger();
        }
    }

    /// Ends the work together: every rank waits for all, and rank 0, which keeps the meeting point, goes last.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn leave(self) -> Result<(), GroupError> {
        self.settle()?;
        self.barrier()?;
        self.0.watch.tell(State::Left);
        if self.rank() == 0 {
            self.0.watch.wait_for_others();
        }
        Ok(())
    }

    fn begin(
        &self,
        tensor: Tensor,
        ask: impl FnOnce(&RawGroup, &Tensor) -> Result<RawWork, ShimError>,
    ) -> Result<Pending, GroupError> {
        let work = ask(&self.0.raw, &tensor).map_err(|error| match self.is_broken() {
            true => self.lost(&error.0),
            false => GroupError::Refused(error),
        })?;
        Ok(Pending { group: self.clone(), work, tensor })
    }

    pub(super) fn raw(&self) -> &RawGroup {
        &self.0.raw
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.0.watch
    }

    pub(super) fn store(&self) -> &Arc<RawStore> {
        &self.0.store
    }

    pub(super) fn orders(&self) -> &Orders {
        &self.0.orders
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.end();
        }
        self.watch.end();
    }
}

/// A collective that goes on while the process does something else.
#[derive(Debug)]
#[must_use = "the tensor is not what was asked for before `wait`"]
pub struct Pending {
    group: ProcessGroup,
    work: RawWork,
    tensor: Tensor,
}

impl Pending {
    /// Whether waiting would not take any time.
    pub fn is_complete(&self) -> bool {
        self.work.is_complete()
    }

    /// Waits, and returns the tensor that was asked for. One on a GPU is returned at once: what is computed with it there
    /// waits, not the host.
    ///
    /// # Errors
    /// [`GroupError::Lost`] when a rank failed, ended or did not come within the time-out.
    pub fn wait(self) -> Result<Tensor, GroupError> {
        match self.group.0.raw.wait(&self.work) {
            Ok(()) => Ok(self.tensor),
            Err(error) => Err(self.group.lost(&error.0)),
        }
    }
}
