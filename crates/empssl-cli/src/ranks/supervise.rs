//! The process that starts the others on one machine: it passes signals on, and ends all when one fails.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use empssl_torch::processes::{Launch, free_port};
use rustix::process::{Pid, Signal, kill_process};

use crate::error::CliError;
use crate::signals::Stop;

/// Set for processes whose standard input is a pipe from this one.
pub(super) const HOLDS_STDIN: &str = "EMPSSL_PARENT_PIPE";
const POLL: Duration = Duration::from_millis(20);

/// Starts `nproc` processes with this one's arguments and waits for them.
pub(super) fn run(nproc: usize, timeout: Duration) -> Result<(), CliError> {
    let cannot = |what: &str, error: std::io::Error| CliError::Ranks(format!("cannot {what}: {error}"));
    let mut signals = Stop::signals()?;
    let port = free_port().map_err(|error| cannot("find a free port on 127.0.0.1", error))?;
    let mut ranks = Ranks { children: Vec::new(), first_failure: None };
    for rank in 0..nproc {
        let child = start(&Launch::local(rank, nproc, port));
        ranks.children.push(Some(child.map_err(|error| cannot(&format!("start rank {rank}"), error))?));
    }
    // Those that live find out by themselves who is at fault, and say so.
    let patience = (timeout / 5 + Duration::from_secs(5)).min(Duration::from_secs(30));
    while ranks.are_running() {
        signals.pending().for_each(|_| ranks.interrupt());
        ranks.collect();
        if ranks.first_failure.as_ref().is_some_and(|failure| failure.at.elapsed() > patience) {
            ranks.kill();
        }
        std::thread::sleep(POLL);
    }
    match ranks.first_failure.take() {
        None => Ok(()),
        Some(failure) if failure.status.code() == Some(130) => Err(CliError::RanksStopped),
        Some(Failure { rank, status, .. }) => Err(CliError::RankFailed {
            rank,
            how: how(status),
            code: status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        }),
    }
}

struct Failure {
    rank: usize,
    status: ExitStatus,
    at: Instant,
}

struct Ranks {
    /// `None` for those that ended.
    children: Vec<Option<Child>>,
    first_failure: Option<Failure>,
}

impl Ranks {
    fn are_running(&self) -> bool {
        self.children.iter().any(Option::is_some)
    }

    /// Takes note of those that ended.
    fn collect(&mut self) {
        for (rank, slot) in self.children.iter_mut().enumerate() {
            let Some(Ok(Some(status))) = slot.as_mut().map(Child::try_wait) else { continue };
            *slot = None;
            if !status.success() && self.first_failure.is_none() {
                self.first_failure = Some(Failure { rank, status, at: Instant::now() });
            }
        }
    }

    /// Asks all to stop; they agree on the step.
    fn interrupt(&self) {
        for child in self.children.iter().flatten() {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // One that has ended in this moment needs no signal.
                let _ = kill_process(pid, Signal::INT);
            }
        }
    }

    fn kill(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
        }
    }
}

/// No rank outlives the process that started it by an error.
impl Drop for Ranks {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(launch: &Launch) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments(std::env::args_os().skip(1))).envs(launch.variables()).env(HOLDS_STDIN, "1");
    // A group of its own keeps the terminal's Ctrl-C away from it: it would come twice. The pipe is never written to.
    command.process_group(0).stdin(Stdio::piped()).spawn()
}

/// The arguments without `--nproc N`.
fn arguments(mut given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    while let Some(word) = given.next() {
        if word == "--nproc" {
            let _ = given.next();
        } else if !word.to_string_lossy().starts_with("--nproc=") {
            kept.push(word);
        }
    }
    kept
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}; its own words are above"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended for no known reason".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranks_get_every_argument_but_their_number() {
        let given = ["train", "--nproc", "4", "--seed", "1", "--nproc=2", "--set", "a=--nproc"].map(OsString::from);
        assert_eq!(arguments(given.into_iter()), ["train", "--seed", "1", "--set", "a=--nproc"].map(OsString::from));
    }

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(how(ExitStatus::from_raw(9)), "was ended by signal 9");
        assert_eq!(how(ExitStatus::from_raw(3 << 8)), "ended with exit code 3; its own words are above");
    }
}
