//! What processes do together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use super::error::GroupError;
use super::launch::Launch;
use super::orders::Orders;
use super::watch::{Fault, Pace, State, Watch};
use crate::ffi::{Listen, RawGroup, RawStore, RawWork, ShimError};

/// The processes of a run, as one of them sees them; clones are the same group.
#[derive(Debug, Clone)]
pub struct ProcessGroup(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rank: usize,
    world: usize,
    local_world: usize,
    raw: RawGroup,
    watch: Watch,
    /// Host and process of every rank, for people.
    peers: Vec<Peer>,
    /// Where rank 0 keeps the store, it lives as long as the group.
    store: RawStore,
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
    /// Nanoseconds that it waited for them.
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

/// Who a rank is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Peer {
    host: String,
    process: String,
    /// Where it listens; the name of an interface where one was chosen.
    listens: String,
}

impl ProcessGroup {
    /// The shortest time-out: below it, a busy machine would be taken for a dead one.
    pub const LEAST_TIMEOUT: Duration = Duration::from_secs(2);

    /// Waits for all processes of a launch, and connects with them by Gloo.
    ///
    /// Whatever one of them waits for, now or later, ends within `timeout`, which is at least [`Self::LEAST_TIMEOUT`]:
    /// the others come, or [`GroupError::Absent`] or [`GroupError::Lost`] names those who did not.
    ///
    /// # Errors
    /// When the meeting point cannot be opened or reached, or a rank does not come.
    pub fn join(launch: &Launch, timeout: Duration) -> Result<Self, GroupError> {
        let timeout = timeout.max(Self::LEAST_TIMEOUT);
        let meeting = Meeting { launch, until: Instant::now() + timeout, timeout };
        let store = meeting.store(launch.rank == 0 && !launch.launcher_keeps_store)?;
        let listen = meeting.listen()?;
        let peers = meeting.peers(&store, &listen)?;
        check_reachable(&peers)?;
        let pace = Pace::within(timeout);
        let (rank, world, prefix) = (launch.rank, launch.world, meeting.prefix());
        // What a collective may wait for leaves time to find out why.
        let patience = timeout - pace.patience;
        let raw = RawGroup::open_gloo(&store, &format!("{prefix}gloo"), &listen, (rank, world), patience);
        let raw = raw.map_err(|error| meeting.failed("connect with the others through", &error))?;
        let orders = Orders::new(&prefix, timeout, pace);
        let watch = Watch::begin(meeting.store(false)?, prefix, rank, world, pace);
        let local_world = launch.local_world;
        Ok(Self(Arc::new(Inner { rank, world, local_world, raw, watch, peers, store, orders })))
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

    /// Begins to sum a tensor over the ranks, in place. It must not be touched until the sum is waited for.
    ///
    /// # Errors
    /// When libtorch refuses the tensor: it must be contiguous and on the CPU.
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
        Err(GroupError::Refused(ShimError(format!("there is no rank {root} among {} ranks", self.world()))))
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

    pub(super) fn store(&self) -> &RawStore {
        &self.0.store
    }

    pub(super) fn orders(&self) -> &Orders {
        &self.0.orders
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
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

    /// Waits, and returns the tensor that was asked for.
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

/// The way of a process to the others.
struct Meeting<'a> {
    launch: &'a Launch,
    timeout: Duration,
    until: Instant,
}

impl Meeting<'_> {
    fn prefix(&self) -> String {
        format!("empssl/{}/", self.launch.restarts)
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    fn store(&self, serves: bool) -> Result<RawStore, GroupError> {
        let what = if serves { "open" } else { "reach" };
        let opened = RawStore::open(&self.launch.address, self.launch.port, serves, self.left());
        opened.map_err(|error| self.failed(what, &error))
    }

    fn failed(&self, what: &'static str, error: &ShimError) -> GroupError {
        let (rank, address) = (self.launch.rank, self.launch.meeting_point());
        GroupError::NoMeeting { rank, what, address, reason: error.0.clone() }
    }

    fn listen(&self) -> Result<Listen, GroupError> {
        let interface = std::env::var("GLOO_SOCKET_IFNAME").ok();
        self.launch.listen(interface).map_err(|reason| self.failed("reach", &ShimError(reason)))
    }

    /// Everybody says who they are, and waits for all others.
    fn peers(&self, store: &RawStore, listen: &Listen) -> Result<Vec<Peer>, GroupError> {
        let world = self.launch.world;
        let key = |rank: usize| format!("{}rank/{rank}", self.prefix());
        let own = Peer::own(listen).to_string();
        store.set(&key(self.launch.rank), &own).map_err(|error| self.failed("reach", &error))?;
        let found = |rank: usize, time| store.get(&key(rank), time).ok().and_then(|text| Peer::parse(&text));
        let mut peers: Vec<Option<Peer>> = (0..world).map(|rank| found(rank, self.left())).collect();
        for (rank, peer) in peers.iter_mut().enumerate().filter(|(_, peer)| peer.is_none()) {
            *peer = found(rank, Duration::from_millis(20));
        }
        let missing: Vec<usize> = (0..world).filter(|&rank| peers[rank].is_none()).collect();
        if missing.is_empty() {
            return Ok(peers.into_iter().flatten().collect());
        }
        Err(GroupError::Absent { missing, world, address: self.launch.meeting_point(), waited: self.timeout })
    }
}

impl Peer {
    fn own(listen: &Listen) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let (Listen::Address(listens) | Listen::Interface(listens)) = listen;
        let host = host.split_whitespace().next().unwrap_or("unknown").to_owned();
        Self { host, process: std::process::id().to_string(), listens: listens.clone() }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ').map(str::to_owned);
        Some(Self { host: words.next()?, process: words.next()?, listens: words.next()? })
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.host, self.process, self.listens)
    }
}

/// Refuses ranks on the loopback device beside ranks on another host.
fn check_reachable(peers: &[Peer]) -> Result<(), GroupError> {
    let is_local = |peer: &Peer| peer.listens.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    let Some(loopback) = peers.iter().position(is_local) else { return Ok(()) };
    match peers.iter().position(|peer| peer.host != peers[loopback].host) {
        None => Ok(()),
        Some(other) => Err(GroupError::Unreachable { loopback, at: peers[loopback].listens.clone(), other }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_on_the_loopback_device_cannot_be_reached_from_another_host() {
        let peer = |text: &str| Peer::parse(text).unwrap();
        let [here, there, network] = ["a 1 127.0.1.1", "b 2 10.0.0.2", "a 3 10.0.0.1"].map(peer);
        check_reachable(&[here.clone(), here.clone()]).unwrap();
        check_reachable(&[network.clone(), there.clone()]).unwrap();
        let error = check_reachable(&[network, here, there]).unwrap_err().to_string();
        assert!(error.starts_with("rank 1 listens at 127.0.1.1") && error.contains("rank 2 is on another"), "{error}");
    }

    #[test]
    fn who_did_not_come_is_named() {
        let launch = Launch { world: 3, ..Launch::local(0, 3, crate::processes::free_port().unwrap()) };
        let error = ProcessGroup::join(&launch, Duration::ZERO).unwrap_err().to_string();
        let expected = format!("ranks 1, 2 of 3 did not come to 127.0.0.1:{} within 2.0 s", launch.port);
        assert_eq!(error, expected);
        let late = Launch::local(1, 2, launch.port);
        let error = ProcessGroup::join(&late, Duration::ZERO).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("rank 1 cannot reach the meeting point 127.0.0.1:{}", launch.port)),
            "{error}"
        );
    }
}
