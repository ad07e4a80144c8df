//! Which process of a run this is, as its launcher says.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs, UdpSocket};
use std::str::FromStr;

use super::error::GroupError;
use crate::ffi::Listen;

/// The place of a process among those that were started together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Which one this is, from 0.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
    /// Which one of those on this host.
    pub local_rank: usize,
    /// How many are on this host.
    pub local_world: usize,
    /// The host of the meeting point.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Whether the launcher keeps the meeting point; otherwise rank 0 does.
    pub launcher_keeps_store: bool,
    /// How often the launcher has started these processes again.
    pub restarts: u64,
}

const TORCHRUN: &str = "RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT";
const SLURM: &str = "SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID and SLURM_STEP_NODELIST";

impl Launch {
    /// Reads the variables of `torchrun` (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`), or else
    /// those that `srun` sets for the tasks of a step; `None` for a process that was started alone.
    ///
    /// `MASTER_ADDR` and `MASTER_PORT` hold under `srun` too; without them the first host of the step is the meeting
    /// point, at a port made from the job's number.
    ///
    /// # Errors
    /// [`GroupError::Missing`] and [`GroupError::Odd`], which name the variable.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, GroupError> {
        let variables = Variables { get: &get };
        if get("RANK").is_some() || get("WORLD_SIZE").is_some() {
            return variables.torchrun().map(Some);
        }
        match variables.number_or("SLURM_STEP_NUM_TASKS", 1)? {
            1 => Ok(None),
            world => variables.slurm(world).map(Some),
        }
    }

    /// Process `rank` of `world` on this host alone, which meet at a port of the loopback device.
    pub fn local(rank: usize, world: usize, port: u16) -> Self {
        let address = Ipv4Addr::LOCALHOST.to_string();
        let (local_rank, local_world) = (rank, world);
        Self { rank, world, local_rank, local_world, address, port, launcher_keeps_store: false, restarts: 0 }
    }

    /// What [`Self::from_environment`] reads, for a process to be started.
    pub fn variables(&self) -> [(&'static str, String); 6] {
        [
            ("RANK", self.rank.to_string()),
            ("WORLD_SIZE", self.world.to_string()),
            ("LOCAL_RANK", self.local_rank.to_string()),
            ("LOCAL_WORLD_SIZE", self.local_world.to_string()),
            ("MASTER_ADDR", self.address.clone()),
            ("MASTER_PORT", self.port.to_string()),
        ]
    }

    /// The GPU of this process among `count` that it sees: the first process of a host takes `first`, the others those
    /// after it. A process that sees one GPU alone takes that one, since launchers may show each process its own; whether
    /// it has it to itself is seen when the processes meet.
    ///
    /// # Errors
    /// [`GroupError::TooFewGpus`].
    pub fn gpu(&self, first: usize, count: usize) -> Result<usize, GroupError> {
        match first + self.local_rank {
            index if index < count => Ok(index),
            _ if count == 1 && first == 0 => Ok(0),
            _ => Err(GroupError::TooFewGpus { ranks: self.local_world, first, count }),
        }
    }

    /// Whether so many processes of this host find a GPU each among `count`, from `first` on.
    ///
    /// # Errors
    /// [`GroupError::TooFewGpus`].
    pub fn demand_gpus(ranks: usize, first: usize, count: usize) -> Result<(), GroupError> {
        if first + ranks <= count { Ok(()) } else { Err(GroupError::TooFewGpus { ranks, first, count }) }
    }

    /// The meeting point, to be read by people.
    pub(super) fn meeting_point(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// Where this process listens for the others: on the interface that `GLOO_SOCKET_IFNAME` names, as in PyTorch, or
    /// else at the address from which this host reaches the meeting point, which every other host reaches as well.
    pub(super) fn listen(&self, interface: Option<String>) -> Result<Listen, String> {
        if let Some(interface) = interface.filter(|name| !name.is_empty()) {
            return Ok(Listen::Interface(interface));
        }
        let own = |target: std::net::SocketAddr| {
            let any: IpAddr = if target.is_ipv4() { [0u8; 4].into() } else { [0u16; 8].into() };
            // Connecting a datagram socket sends nothing: it asks the system for the route.
            let socket = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(target).map(|()| socket));
            socket.and_then(|socket| socket.local_addr())
        };
        let targets = (self.address.as_str(), self.port).to_socket_addrs().map_err(|error| error.to_string())?;
        let (v4, v6): (Vec<_>, Vec<_>) = targets.partition(std::net::SocketAddr::is_ipv4);
        let mut reached = v4.into_iter().chain(v6).map(own);
        match reached.find_map(Result::ok) {
            Some(address) => Ok(Listen::Address(address.ip().to_string())),
            None => Err("this host knows no way there".to_owned()),
        }
    }
}

struct Variables<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
}

impl Variables<'_> {
    fn torchrun(&self) -> Result<Launch, GroupError> {
        let present = if (self.get)("RANK").is_some() { "RANK" } else { "WORLD_SIZE" };
        let demand = |name| self.demand(name, present, "torchrun", TORCHRUN);
        let world =
            self.parse("WORLD_SIZE", demand("WORLD_SIZE")?, "a number of processes, at least 1", |&n| n >= 1)?;
        let below = |limit: usize, of: &str| format!("a number below {limit}, which is {of}");
        let rank = self.parse("RANK", demand("RANK")?, &below(world, "WORLD_SIZE"), |&rank| rank < world)?;
        let local_world = self.number_or("LOCAL_WORLD_SIZE", 1)?.clamp(1, world);
        let local_rank = demand("LOCAL_RANK")?;
        let local_rank = self.parse("LOCAL_RANK", local_rank, &below(world, "WORLD_SIZE"), |&rank| rank < world)?;
        Ok(Launch {
            rank,
            world,
            local_rank,
            local_world: local_world.max(local_rank + 1),
            address: demand("MASTER_ADDR")?,
            port: self.port(demand("MASTER_PORT")?)?,
            launcher_keeps_store: (self.get)("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True"),
            restarts: self.number_or("TORCHELASTIC_RESTART_COUNT", 0)? as u64,
        })
    }

    fn slurm(&self, world: usize) -> Result<Launch, GroupError> {
        let demand = |name| self.demand(name, "SLURM_STEP_NUM_TASKS", "srun", SLURM);
        let below = format!("a number below {world}, which is SLURM_STEP_NUM_TASKS");
        let rank = self.parse("SLURM_PROCID", demand("SLURM_PROCID")?, &below, |&rank| rank < world)?;
        let local_rank = self.parse("SLURM_LOCALID", demand("SLURM_LOCALID")?, &below, |&rank| rank < world)?;
        let nodes = demand("SLURM_STEP_NODELIST")?;
        let address = match (self.get)("MASTER_ADDR") {
            Some(address) => address,
            None => first_host(&nodes).ok_or_else(|| odd("SLURM_STEP_NODELIST", &nodes, "a list of hosts"))?,
        };
        let port = match (self.get)("MASTER_PORT") {
            Some(port) => self.port(port)?,
            // Two jobs on one host meet at different ports.
            None => 20_000 + (self.number_or("SLURM_JOB_ID", 0)? % 10_000) as u16,
        };
        let local_world = (self.get)("SLURM_STEP_TASKS_PER_NODE").and_then(|text| most_tasks(&text)).unwrap_or(1);
        Ok(Launch {
            rank,
            world,
            local_rank,
            local_world: local_world.max(local_rank + 1),
            address,
            port,
            launcher_keeps_store: false,
            restarts: 0,
        })
    }

    fn demand(
        &self,
        missing: &'static str,
        present: &'static str,
        launcher: &'static str,
        all: &'static str,
    ) -> Result<String, GroupError> {
        let found = (self.get)(missing).filter(|value| !value.is_empty());
        found.ok_or(GroupError::Missing { present, missing, launcher, all })
    }

    fn number_or(&self, name: &'static str, default: usize) -> Result<usize, GroupError> {
        (self.get)(name).map_or(Ok(default), |found| self.parse(name, found, "a whole number", |_| true))
    }

    fn port(&self, found: String) -> Result<u16, GroupError> {
        self.parse("MASTER_PORT", found, "a port from 1 to 65535", |&port| port > 0)
    }

    fn parse<T: FromStr>(
        &self,
        name: &'static str,
        found: String,
        expected: &str,
        holds: impl Fn(&T) -> bool,
    ) -> Result<T, GroupError> {
        let parsed = found.trim().parse().ok().filter(|value| holds(value));
        parsed.ok_or_else(|| odd(name, &found, expected))
    }
}

fn odd(name: &'static str, found: &str, expected: &str) -> GroupError {
    GroupError::Odd { name, found: found.to_owned(), expected: expected.to_owned() }
}

/// The first of SLURM's hosts, which are written as `a1,b[03-07,9]`.
fn first_host(nodes: &str) -> Option<String> {
    let end = nodes.find([',', '[']).unwrap_or(nodes.len());
    let (stem, rest) = nodes.split_at(end);
    let host = match rest.strip_prefix('[') {
        Some(numbers) => {
            let (numbers, tail) = numbers.split_once(']')?;
            let first = numbers.split([',', '-']).next()?;
            let tail = tail.split(',').next().unwrap_or_default();
            format!("{stem}{first}{tail}")
        }
        None => stem.to_owned(),
    };
    (!host.trim().is_empty()).then(|| host.trim().to_owned())
}

/// The largest of SLURM's tasks a node, which are written as `2(x3),1`.
fn most_tasks(text: &str) -> Option<usize> {
    text.split(',').filter_map(|part| part.split('(').next()?.trim().parse().ok()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Launch>, GroupError> {
        let variables: Vec<_> = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Launch::from_environment(move |name| variables.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
    }

    const TORCH: [(&str, &str); 5] =
        [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "node1"), ("MASTER_PORT", "29500")];

    #[test]
    fn torchruns_variables_are_read_and_written() {
        let launch = read(&[&TORCH[..], &[("LOCAL_WORLD_SIZE", "2")]].concat()).unwrap().unwrap();
        assert_eq!((launch.rank, launch.world, launch.local_rank, launch.local_world), (3, 4, 1, 2));
        assert_eq!((launch.meeting_point(), launch.launcher_keeps_store), ("node1:29500".to_owned(), false));
        let written = launch.variables();
        let written: Vec<_> = written.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(read(&written).unwrap().unwrap(), launch);
        let elastic = [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RESTART_COUNT", "2")];
        let launch = read(&[&TORCH[..], &elastic].concat()).unwrap().unwrap();
        assert_eq!((launch.launcher_keeps_store, launch.restarts), (true, 2));
        assert_eq!(read(&[("MASTER_ADDR", "node1"), ("PATH", "/bin")]).unwrap(), None);
    }

    #[test]
    fn a_missing_or_odd_variable_is_named() {
        for missing in TORCH.map(|(name, _)| name) {
            let rest: Vec<_> = TORCH.into_iter().filter(|(name, _)| *name != missing).collect();
            let error = read(&rest).unwrap_err().to_string();
            assert!(error.contains(&format!("but {missing} is not; torchrun sets RANK")), "{error}");
        }
        for (name, value, expected) in [
            ("RANK", "4", "a number below 4, which is WORLD_SIZE"),
            ("RANK", "-1", "a number below 4"),
            ("WORLD_SIZE", "0", "at least 1"),
            ("WORLD_SIZE", "four", "at least 1"),
            ("LOCAL_RANK", "9", "below 4"),
            ("MASTER_PORT", "0", "a port from 1 to 65535"),
            ("MASTER_PORT", "65536", "a port"),
        ] {
            let spoilt = TORCH.map(|(n, v)| if n == name { (n, value) } else { (n, v) });
            let error = read(&spoilt).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{name} is `{value}`, expected ")) && error.contains(expected),
                "{error}"
            );
        }
    }

    const SRUN: [(&str, &str); 6] = [
        ("SLURM_STEP_NUM_TASKS", "5"),
        ("SLURM_PROCID", "4"),
        ("SLURM_LOCALID", "0"),
        ("SLURM_STEP_NODELIST", "gpu[007-008,12]-ib,login"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(x2),1"),
        ("SLURM_JOB_ID", "123456"),
    ];

    #[test]
    fn sruns_variables_are_read_and_torchruns_come_first() {
        let launch = read(&SRUN).unwrap().unwrap();
        assert_eq!((launch.rank, launch.world, launch.local_rank, launch.local_world), (4, 5, 0, 2));
        assert_eq!(launch.meeting_point(), "gpu007-ib:23456");
        let chosen = [&SRUN[..], &[("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "7")]].concat();
        assert_eq!(read(&chosen).unwrap().unwrap().meeting_point(), "10.0.0.1:7");
        assert_eq!(read(&[&SRUN[..], &TORCH].concat()).unwrap().unwrap().world, 4);
        // A batch script, or a step of one task, is a process alone.
        assert_eq!(read(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]).unwrap(), None);
        assert_eq!(read(&[("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_PROCID", "0")]).unwrap(), None);
        let error = read(&SRUN[..2]).unwrap_err().to_string();
        assert!(error.contains("SLURM_LOCALID is not; srun sets"), "{error}");
        assert_eq!(first_host("a1,b2").as_deref(), Some("a1"));
        assert_eq!(first_host("n[3"), None);
    }

    #[test]
    fn every_process_of_a_host_has_a_gpu() {
        let of = |local_rank| Launch::local(local_rank, 4, 1);
        assert_eq!((0..4).map(|rank| of(rank).gpu(0, 4)).collect::<Result<Vec<_>, _>>().unwrap(), [0, 1, 2, 3]);
        assert_eq!(of(1).gpu(2, 4), Ok(3));
        assert_eq!(of(3).gpu(0, 1), Ok(0), "as srun shows each task its own");
        let error = of(3).gpu(0, 2).unwrap_err().to_string();
        let expected =
            "4 ranks on this host need a GPU each, and it has 2; start no more ranks than GPUs, or use --device cpu";
        assert_eq!(error, expected);
        Launch::demand_gpus(2, 1, 3).unwrap();
        let error = Launch::demand_gpus(2, 1, 2).unwrap_err().to_string();
        assert!(error.starts_with("2 ranks on this host need a GPU each, from cuda:1 on, and it has 2; "), "{error}");
        assert!(Launch::demand_gpus(2, 0, 1).is_err());
    }

    #[test]
    fn a_process_listens_where_it_reaches_the_meeting_point_from() {
        let launch = Launch::local(0, 2, 9);
        assert_eq!(launch.listen(None), Ok(Listen::Address("127.0.0.1".to_owned())));
        assert_eq!(launch.listen(Some("ib0".to_owned())), Ok(Listen::Interface("ib0".to_owned())));
        let nowhere = Launch { address: "no host of this name.invalid".to_owned(), ..launch };
        assert!(nowhere.listen(None).is_err());
    }
}
