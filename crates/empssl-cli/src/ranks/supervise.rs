//! The process that starts the others on one machine: it passes signals on, and ends all when one fails.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use empssl_torch::processes::{Launch, free_port};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::SIGCHLD;

use crate::error::CliError;
use crate::print;
use crate::signals::Stop;

/// Set for processes whose standard input is a pipe from this one.
pub(super) const HOLDS_STDIN: &str = "EMPSSL_PARENT_PIPE";

/// The exit code of a process that was asked to stop, and did.
const STOPPED: i32 = 130;

/// Starts `nproc` processes with this one's arguments and waits for them.
pub(super) fn run(nproc: usize) -> Result<(), CliError> {
    let cannot = |what: &str, error: std::io::Error| CliError::Ranks(format!("cannot {what}: {error}"));
    let mut signals = Stop::signals()?;
    signals.add_signal(SIGCHLD).map_err(|error| cannot("watch the processes that it starts", error))?;
    let port = free_port().map_err(|error| cannot("find a free port on 127.0.0.1", error))?;
    let mut ranks = Ranks { running: Vec::new(), failures: Vec::new(), is_stopped: false };
    for rank in 0..nproc {
        let started = Rank::start(&Launch::local(rank, nproc, port));
        ranks.running.push(started.map_err(|error| cannot(&format!("start rank {rank}"), error))?);
    }
    while !ranks.running.is_empty() {
        // One signal may stand for several processes that ended, and one that ended before is not missed.
        for signal in signals.wait() {
            if signal != SIGCHLD {
                ranks.interrupt();
            }
        }
        ranks.collect();
    }
    ranks.outcome()
}

/// A process that this one has started.
struct Rank {
    rank: usize,
    child: Child,
    /// Passes its messages on and keeps the last; rank 0 has the terminal to itself, for its progress bar.
    messages: Option<JoinHandle<String>>,
}

impl Rank {
    fn start(launch: &Launch) -> std::io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments(std::env::args_os().skip(1))).envs(launch.variables()).env(HOLDS_STDIN, "1");
        // A group of its own keeps the terminal's Ctrl-C away from it: it would come twice. The pipe is never written to.
        command.process_group(0).stdin(Stdio::piped());
        if launch.rank > 0 {
            command.stderr(Stdio::piped());
        }
        let mut child = command.spawn()?;
        let messages = child.stderr.take().map(|stderr| std::thread::spawn(|| pass_on(stderr)));
        Ok(Self { rank: launch.rank, child, messages })
    }

    /// How it ended, when it has.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn last_message(&mut self) -> Option<String> {
        let last = self.messages.take().and_then(|messages| messages.join().ok());
        last.filter(|last| !last.is_empty())
    }
}

/// Passes every line on, and gives the last that is not empty.
fn pass_on(stderr: ChildStderr) -> String {
    let mut last = String::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        print::line(&line);
        if !line.trim().is_empty() {
            last = line.trim().to_owned();
        }
    }
    last
}

/// A rank that ended before its time.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    rank: usize,
    status: ExitStatus,
    last_message: Option<String>,
}

struct Ranks {
    running: Vec<Rank>,
    failures: Vec<Failure>,
    /// Whether one was asked to stop, and did.
    is_stopped: bool,
}

impl Ranks {
    /// Asks all to stop; they agree on the step.
    fn interrupt(&self) {
        for Rank { child, .. } in &self.running {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // One that has ended in this moment needs no signal.
                let _ = kill_process(pid, Signal::INT);
            }
        }
    }

    /// Takes note of those that ended, and ends the others when one of them has failed.
    fn collect(&mut self) {
        let is_first = self.failures.is_empty();
        let mut failures = Vec::new();
        let mut ended = Vec::new();
        self.running.retain_mut(|rank| match rank.ended() {
            None => true,
            Some(status) => {
                ended.push((rank.rank, status, rank.last_message()));
                false
            }
        });
        for (rank, status, last_message) in ended {
            self.is_stopped |= status.code() == Some(STOPPED);
            if !status.success() && status.code() != Some(STOPPED) {
                failures.push(Failure { rank, status, last_message });
            }
        }
        if is_first && !failures.is_empty() {
            self.kill();
            self.failures = failures;
        }
    }

    fn kill(&mut self) {
        for Rank { child, .. } in &mut self.running {
            let _ = child.kill();
        }
    }

    fn outcome(&mut self) -> Result<(), CliError> {
        // Of those that ended together, one that was ended from outside comes first, and last those that say no more than
        // that another one is lost.
        self.failures.sort_by_key(|failure| (failure.status.code().is_some(), failure.status.code() == Some(1)));
        match self.failures.first() {
            None if self.is_stopped => Err(CliError::RanksStopped),
            None => Ok(()),
            Some(first) => {
                let how: Vec<String> = self.failures.iter().map(Failure::sentence).collect();
                let code = first.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
                Err(CliError::RankFailed { how: how.join("; "), code })
            }
        }
    }
}

/// No rank outlives the process that started it by an error.
impl Drop for Ranks {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Failure {
    fn sentence(&self) -> String {
        let how = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended for no known reason".to_owned(),
        };
        let Self { rank, last_message, .. } = self;
        match last_message {
            Some(message) => format!("rank {rank}: {how}, and its last line is `{message}`"),
            None if *rank == 0 && self.status.code().is_some() => format!("rank 0: {how}; its own words are above"),
            None => format!("rank {rank}: {how}"),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranks_get_every_argument_but_their_number() {
        let given = ["train", "--nproc", "4", "--seed", "1", "--nproc=2", "--set", "a=--nproc"].map(OsString::from);
        assert_eq!(arguments(given.into_iter()), ["train", "--seed", "1", "--set", "a=--nproc"].map(OsString::from));
    }

    fn failure(rank: usize, raw: i32, last: Option<&str>) -> Failure {
        Failure { rank, status: ExitStatus::from_raw(raw), last_message: last.map(str::to_owned) }
    }

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(failure(2, 9, None).sentence(), "rank 2: was ended by signal 9");
        let aborted = failure(1, 6, Some("what(): Watchdog caught a time-out"));
        assert_eq!(
            aborted.sentence(),
            "rank 1: was ended by signal 6, and its last line is `what(): Watchdog caught a time-out`"
        );
        assert_eq!(failure(0, 3 << 8, None).sentence(), "rank 0: ended with exit code 3; its own words are above");
    }

    #[test]
    fn of_several_that_ended_together_the_cause_comes_first() {
        let outcome = |failures| Ranks { running: Vec::new(), failures, is_stopped: false }.outcome();
        outcome(Vec::new()).unwrap();
        let lost = || failure(0, 1 << 8, None);
        for (cause, code) in [(failure(1, 9, None), 1), (failure(1, 3 << 8, None), 3)] {
            let sentence = cause.sentence();
            let error = outcome(vec![lost(), cause]).unwrap_err();
            assert_eq!(error.exit_code(), code);
            assert!(error.to_string().starts_with(&sentence), "{error}");
        }
        let stopped = Ranks { running: Vec::new(), failures: Vec::new(), is_stopped: true }.outcome().unwrap_err();
        assert_eq!(stopped.exit_code(), 130);
    }
}
