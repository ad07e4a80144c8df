//! How processes meet: through a table of texts that one of them keeps.

use std::time::{Duration, Instant};

use tch::Device;

use super::error::GroupError;
use super::launch::Launch;
use crate::ffi::{Listen, RawStore, ShimError};

/// The way of a process to the others.
pub(super) struct Rendezvous<'a> {
    launch: &'a Launch,
    timeout: Duration,
    until: Instant,
}

/// What a rank says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Peer {
    host: String,
    /// Where it listens; the name of an interface where one was chosen.
    listens: String,
    /// `cpu` or `gpu`.
    device: String,
}

impl<'a> Rendezvous<'a> {
    pub(super) fn new(launch: &'a Launch, timeout: Duration) -> Self {
        Self { launch, timeout, until: Instant::now() + timeout }
    }

    /// The key of something in the store that belongs to this start of the processes.
    pub(super) fn key(&self, name: &str) -> String {
        format!("empssl/{}/{name}", self.launch.restarts)
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(20))
    }

    /// Opens the store, or reaches that of another process.
    pub(super) fn store(&self) -> Result<RawStore, GroupError> {
        let serves = self.launch.rank == 0 && !self.launch.launcher_keeps_store;
        let opened = RawStore::open(&self.launch.address, self.launch.port, serves, self.left());
        opened.map_err(|error| self.failed(if serves { "open" } else { "reach" }, &error))
    }

    pub(super) fn failed(&self, what: &'static str, error: &ShimError) -> GroupError {
        let (rank, address) = (self.launch.rank, self.launch.meeting_point());
        GroupError::NoMeeting { rank, what, address, reason: error.0.clone() }
    }

    /// Where this process listens for the others.
    pub(super) fn listen(&self) -> Result<Listen, GroupError> {
        let interface = std::env::var("GLOO_SOCKET_IFNAME").ok();
        self.launch.listen(interface).map_err(|reason| self.failed("reach", &ShimError(reason)))
    }

    /// Waits until all have come, and sees whether they can compute together.
    pub(super) fn meet(&self, store: &RawStore, listen: &Listen, device: Device) -> Result<(), GroupError> {
        let world = self.launch.world;
        let key = |rank: usize| self.key(&format!("rank/{rank}"));
        let own = Peer::own(listen, device).to_string();
        store.set(&key(self.launch.rank), &own).map_err(|error| self.failed("reach", &error))?;
        let found = |rank| store.get(&key(rank), self.left()).ok().and_then(|text| Peer::parse(&text));
        let peers: Vec<Option<Peer>> = (0..world).map(found).collect();
        let missing: Vec<usize> = (0..world).filter(|&rank| peers[rank].is_none()).collect();
        if missing.is_empty() {
            return check(&peers.into_iter().flatten().collect::<Vec<_>>());
        }
        Err(GroupError::Absent { missing, world, address: self.launch.meeting_point(), waited: self.timeout })
    }
}

impl Peer {
    fn own(listen: &Listen, device: Device) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.split_whitespace().next().unwrap_or("unknown").to_owned();
        let (Listen::Address(listens) | Listen::Interface(listens)) = listen;
        let device = if device.is_cuda() { "gpu" } else { "cpu" };
        Self { host, listens: listens.clone(), device: device.to_owned() }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ').map(str::to_owned);
        Some(Self { host: words.next()?, listens: words.next()?, device: words.next()? })
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.host, self.listens, self.device)
    }
}

/// Refuses GPUs beside CPUs, and ranks on the loopback device beside ranks on another host.
fn check(peers: &[Peer]) -> Result<(), GroupError> {
    if let Some(rank) = peers.iter().position(|peer| peer.device != peers[0].device) {
        return Err(GroupError::Unlike { rank, what: "kind of device (CPU or GPU)".to_owned() });
    }
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
    use crate::processes::ProcessGroup;

    fn checked(peers: &[&str]) -> Result<(), GroupError> {
        check(&peers.iter().map(|text| Peer::parse(text).unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn a_rank_on_the_loopback_device_cannot_be_reached_from_another_host() {
        let [here, there, network] = ["a 127.0.1.1 cpu", "b 10.0.0.2 cpu", "a 10.0.0.1 cpu"];
        checked(&[here, here]).unwrap();
        checked(&[network, there]).unwrap();
        let error = checked(&[network, here, there]).unwrap_err().to_string();
        assert!(error.starts_with("rank 1 listens at 127.0.1.1") && error.contains("rank 2 is on another"), "{error}");
    }

    #[test]
    fn a_gpu_computes_beside_gpus_alone() {
        let [cpu, gpu] = ["a 10.0.0.1 cpu", "b 10.0.0.2 gpu"];
        checked(&[gpu, gpu]).unwrap();
        let error = checked(&[gpu, cpu, gpu]).unwrap_err().to_string();
        assert!(error.starts_with("rank 1 began with another kind of device (CPU or GPU) than rank 0"), "{error}");
        let own = Peer::own(&Listen::Address("10.0.0.1".to_owned()), Device::Cpu);
        assert_eq!((own.device.as_str(), Peer::parse(&own.to_string())), ("cpu", Some(own.clone())));
    }

    #[test]
    fn who_did_not_come_is_named() {
        let launch = Launch { world: 3, ..Launch::local(0, 3, crate::processes::free_port().unwrap()) };
        let error = ProcessGroup::join(&launch, Duration::from_millis(500)).unwrap_err().to_string();
        let expected = format!("ranks 1, 2 of 3 did not come to 127.0.0.1:{} within 0.5 s", launch.port);
        assert_eq!(error, expected);
        let late = Launch::local(1, 2, launch.port);
        let error = ProcessGroup::join(&late, Duration::from_millis(500)).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("rank 1 cannot reach the meeting point 127.0.0.1:{}", launch.port)),
            "{error}"
        );
    }
}
