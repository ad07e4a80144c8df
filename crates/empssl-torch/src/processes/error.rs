//! What can go wrong among processes, one sentence each.

use std::time::Duration;

use super::nccl::NcclProblem;
use crate::ffi::ShimError;

/// Why processes cannot compute together, or no longer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// A variable of the launcher is missing.
    #[error("{present} is set but {missing} is not; {launcher} sets {all} for every process that it starts")]
    Missing {
        /// The variable that is there.
        present: &'static str,
        /// The one that is not.
        missing: &'static str,
        /// Who should have set it.
        launcher: &'static str,
        /// All that belong together.
        all: &'static str,
    },
    /// A variable of the launcher cannot be right.
    #[error("{name} is `{found}`, expected {expected}")]
    Odd {
        /// The variable.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it should be, in words.
        expected: String,
    },
    /// The meeting point cannot be opened or reached.
    #[error("rank {rank} cannot {what} the meeting point {address}: {reason}")]
    NoMeeting {
        /// This rank.
        rank: usize,
        /// `open` or `reach`.
        what: &'static str,
        /// MASTER_ADDR:MASTER_PORT.
        address: String,
        /// libtorch's words.
        reason: String,
    },
    /// Others did not come.
    #[error("{} of {world} did not come to {address} within {}", ranks(missing), seconds(*waited))]
    Absent {
        /// The ranks that were waited for.
        missing: Vec<usize>,
        /// All ranks.
        world: usize,
        /// The meeting point.
        address: String,
        /// How long.
        waited: Duration,
    },
    /// The ranks would listen where others cannot reach them.
    #[error(
        "rank {loopback} listens at {at}, which only its own host reaches, and rank {other} is on another host; give \
         MASTER_ADDR as an address of the network, or name the interface in GLOO_SOCKET_IFNAME"
    )]
    Unreachable {
        /// The rank that cannot be reached.
        loopback: usize,
        /// Its address.
        at: String,
        /// A rank elsewhere.
        other: usize,
    },
    /// The ranks were started with different settings.
    #[error("rank {rank} began with another {what} than rank 0; start every rank alike, on the same files")]
    Unlike {
        /// The first rank that differs.
        rank: usize,
        /// What differs, in words.
        what: String,
    },
    /// A host has fewer GPUs than ranks.
    #[error(
        "{ranks} ranks on this host need a GPU each{}, and it has {count}; start no more ranks than GPUs, or use --device \
         cpu",
        from(*first)
    )]
    TooFewGpus {
        /// Ranks on this host.
        ranks: usize,
        /// The GPU of the first.
        first: usize,
        /// GPUs that libtorch sees.
        count: usize,
    },
    /// GPUs cannot be connected.
    #[error("several GPUs need NCCL, which cannot be used: {0}")]
    Nccl(#[from] NcclProblem),
    /// A rank has ended, or did not come to a collective within the time-out.
    #[error("a collective with the other ranks failed: {0}")]
    Collective(ShimError),
    /// libtorch refused a request before anything was sent.
    #[error(transparent)]
    Refused(#[from] ShimError),
}

fn from(first: usize) -> String {
    if first == 0 { String::new() } else { format!(", from cuda:{first} on") }
}

fn ranks(missing: &[usize]) -> String {
    let named: Vec<String> = missing.iter().take(8).map(usize::to_string).collect();
    let more = if missing.len() > 8 { format!(" and {} more", missing.len() - 8) } else { String::new() };
    format!("{} {}{more}", if missing.len() == 1 { "rank" } else { "ranks" }, named.join(", "))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
