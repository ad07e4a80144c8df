//! How processes meet: the table of texts that one of them keeps, and what each says of itself there.

use std::time::{Duration, Instant};

use tch::Device;

use super::error::GroupError;
use super::launch::Launch;
use crate::device;
use crate::ffi::{Listen, RawStore, ShimError};

/// Who a rank is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) host: String,
    pub(super) process: String,
    /// Where it listens; the name of an interface where one was chosen.
    listens: String,
    /// The place of its GPU on its host, or [`ON_CPU`].
    gpu: String,
}

/// What stands for the GPU of a process that computes on the CPU.
const ON_CPU: &str = "cpu";

/// The way of a process to the others.
pub(super) struct Meeting<'a> {
    launch: &'a Launch,
    timeout: Duration,
    until: Instant,
}

impl<'a> Meeting<'a> {
    pub(super) fn new(launch: &'a Launch, timeout: Duration) -> Self {
        Self { launch, timeout, until: Instant::now() + timeout }
    }

    pub(super) fn prefix(&self) -> String {
        format!("empssl/{}/", self.launch.restarts)
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    pub(super) fn store(&self, serves: bool) -> Result<RawStore, GroupError> {
        let what = if serves { "open" } else { "reach" };
        let opened = RawStore::open(&self.launch.address, self.launch.port, serves, self.left());
        opened.map_err(|error| self.failed(what, &error))
    }

    pub(super) fn failed(&self, what: &'static str, error: &ShimError) -> GroupError {
        let (rank, address) = (self.launch.rank, self.launch.meeting_point());
        GroupError::NoMeeting { rank, what, address, reason: error.0.clone() }
    }

    pub(super) fn listen(&self) -> Result<Listen, GroupError> {
        let interface = std::env::var("GLOO_SOCKET_IFNAME").ok();
        self.launch.listen(interface).map_err(|reason| self.failed("reach", &ShimError(reason)))
    }

    /// Everybody says who they are, waits for all others, and sees whether they can compute together.
    pub(super) fn peers(&self, store: &RawStore, listen: &Listen, device: Device) -> Result<Vec<Peer>, GroupError> {
        let world = self.launch.world;
        let key = |rank: usize| format!("{}rank/{rank}", self.prefix());
        let own = Peer::own(listen, device).to_string();
        store.set(&key(self.launch.rank), &own).map_err(|error| self.failed("reach", &error))?;
        let found = |rank: usize, time| store.get(&key(rank), time).ok().and_then(|text| Peer::parse(&text));
        let mut peers: Vec<Option<Peer>> = (0..world).map(|rank| found(rank, self.left())).collect();
        for (rank, peer) in peers.iter_mut().enumerate().filter(|(_, peer)| peer.is_none()) {
            *peer = found(rank, Duration::from_millis(20));
        }
        let missing: Vec<usize> = (0..world).filter(|&rank| peers[rank].is_none()).collect();
        if !missing.is_empty() {
            return Err(GroupError::Absent {
                missing,
                world,
                address: self.launch.meeting_point(),
                waited: self.timeout,
            });
        }
        let peers: Vec<Peer> = peers.into_iter().flatten().collect();
        check_reachable(&peers)?;
        check_devices(&peers)?;
        Ok(peers)
    }
}

impl Peer {
    fn own(listen: &Listen, device: Device) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let (Listen::Address(listens) | Listen::Interface(listens)) = listen;
        let host = host.split_whitespace().next().unwrap_or("unknown").to_owned();
        let gpu = match device {
            Device::Cuda(index) => device::place(index).unwrap_or_else(|| format!("cuda:{index}")),
            _ => ON_CPU.to_owned(),
        };
        Self { host, process: std::process::id().to_string(), listens: listens.clone(), gpu }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ').map(str::to_owned);
        Some(Self { host: words.next()?, process: words.next()?, listens: words.next()?, gpu: words.next()? })
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {}", self.host, self.process, self.listens, self.gpu)
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

/// Refuses GPUs beside CPUs, and two ranks on one GPU.
fn check_devices(peers: &[Peer]) -> Result<(), GroupError> {
    let is_on_gpu = |peer: &Peer| peer.gpu != ON_CPU;
    if let Some(rank) = peers.iter().position(|peer| is_on_gpu(peer) != is_on_gpu(&peers[0])) {
        return Err(GroupError::Unlike { rank, what: "kind of device (CPU or GPU)".to_owned() });
    }
    for (rank, peer) in peers.iter().enumerate().filter(|(_, peer)| is_on_gpu(peer)) {
        if let Some(first) = peers[..rank].iter().position(|other| (&other.host, &other.gpu) == (&peer.host, &peer.gpu))
        {
            return Err(GroupError::OneGpu { ranks: [first, rank], gpu: peer.gpu.clone(), host: peer.host.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::ProcessGroup;

    #[test]
    fn a_rank_on_the_loopback_device_cannot_be_reached_from_another_host() {
        let peer = |text: &str| Peer::parse(text).unwrap();
        let [here, there, network] = ["a 1 127.0.1.1 cpu", "b 2 10.0.0.2 cpu", "a 3 10.0.0.1 cpu"].map(peer);
        check_reachable(&[here.clone(), here.clone()]).unwrap();
        check_reachable(&[network.clone(), there.clone()]).unwrap();
        let error = check_reachable(&[network, here, there]).unwrap_err().to_string();
        assert!(error.starts_with("rank 1 listens at 127.0.1.1") && error.contains("rank 2 is on another"), "{error}");
    }

    #[test]
    fn a_gpu_computes_for_one_rank_and_not_beside_a_cpu() {
        let peers = |gpus: [&str; 3]| {
            let hosts = ["a", "a", "b"];
            let texts = hosts.iter().zip(gpus).map(|(host, gpu)| format!("{host} 1 10.0.0.1 {gpu}"));
            texts.map(|text| Peer::parse(&text).unwrap()).collect::<Vec<_>>()
        };
        check_devices(&peers(["cpu", "cpu", "cpu"])).unwrap();
        check_devices(&peers(["0000:01:00.0", "0000:02:00.0", "0000:01:00.0"])).unwrap();
        let error = check_devices(&peers(["0000:01:00.0", "0000:01:00.0", "0000:01:00.0"])).unwrap_err().to_string();
        let expected = "ranks 0 and 1 have one GPU, 0000:01:00.0 on a; start no more ranks on a host than it has GPUs, or \
                        use --device cpu";
        assert_eq!(error, expected);
        let error = check_devices(&peers(["0000:01:00.0", "cpu", "0000:01:00.0"])).unwrap_err().to_string();
        assert!(error.starts_with("rank 1 began with another kind of device (CPU or GPU) than rank 0"), "{error}");
        let own = Peer::own(&Listen::Address("10.0.0.1".to_owned()), Device::Cpu);
        assert_eq!((Peer::parse(&own.to_string()), own.gpu.as_str()), (Some(own.clone()), "cpu"));
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
