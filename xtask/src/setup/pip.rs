//! Running pip, and saying in one sentence why it failed.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome};

/// The wheels are only unpacked, never imported, so any Python can fetch those of this one version.
const WHEELS_FOR_PYTHON: &str = "3.12";

/// How often a line says that pip is still at work, where there is no terminal for its progress bar.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A Python with pip.
#[derive(Debug)]
pub(crate) struct Pip {
    python: OsString,
}

impl Pip {
    /// Finds out whether `python` runs and has pip.
    pub(crate) fn find(python: &OsStr) -> Outcome<Self> {
        let version = Command::new(python).args(["-m", "pip", "--version"]).output();
        match version {
            Err(_) => Err(Failure::setup(
                "python3 was not found, and setup needs it with pip to fetch libtorch: install Python 3 (on Debian and \
                 Ubuntu: `apt-get install python3-pip`), or set LIBTORCH to a folder with libtorch 2.11.0",
            )),
            Ok(output) if !output.status.success() => Err(Failure::setup(
                "python3 has no pip, and setup needs it to fetch libtorch: install it (on Debian and Ubuntu: `apt-get \
                 install python3-pip`; elsewhere: `python3 -m ensurepip`), or set LIBTORCH to a folder with libtorch 2.11.0",
            )),
            Ok(_) => Ok(Self { python: python.to_os_string() }),
        }
    }

    /// Installs exactly these wheels, and nothing they ask for, into `target`. pip's own files go to `temporary`, so that
    /// everything lies on the disk that was checked. The user's pip settings (`PIP_*`, pip.conf) hold, save those that
    /// would contradict a target folder.
    pub(crate) fn install(&self, wheels: &[&str], target: &Path, temporary: &Path) -> Outcome {
        let mut command = Command::new(&self.python);
        command.args(["-m", "pip", "install", "--no-deps", "--no-compile", "--only-binary=:all:"]);
        command.args(["--python-version", WHEELS_FOR_PYTHON, "--target"]).arg(target).args(wheels);
        command.env("TMPDIR", temporary).env("PIP_USER", "0").env("PIP_REQUIRE_VIRTUALENV", "0");
        for quiet in ["PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_WARN_SCRIPT_LOCATION", "PIP_NO_INPUT"] {
            command.env(quiet, "1");
        }
        command.env("PIP_ROOT_USER_ACTION", "ignore");
        let (succeeded, said) = run_and_listen(&mut command)?;
        if succeeded { Ok(()) } else { Err(Failure::setup(why(&said))) }
    }
}

/// Runs pip with its progress on our terminal and passes on what it says on stderr, keeping it.
fn run_and_listen(command: &mut Command) -> Outcome<(bool, String)> {
    let cannot = |error: std::io::Error| Failure::setup(format!("cannot run pip: {error}"));
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(cannot)?;
    let heartbeat = (!std::io::stdout().is_terminal()).then(Heartbeat::start);
    let said = child.stderr.take().map(pass_on).unwrap_or_default();
    let status = child.wait().map_err(cannot)?;
    drop(heartbeat);
    Ok((status.success(), said))
}

fn pass_on(stderr: impl Read) -> String {
    let mut said = String::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        eprintln!("{line}");
        said.push_str(&line);
        said.push('\n');
    }
    said
}

/// Says now and then that work goes on, until dropped.
struct Heartbeat {
    _alive: mpsc::Sender<()>,
}

impl Heartbeat {
    fn start() -> Self {
        let (alive, gone) = mpsc::channel::<()>();
        let start = Instant::now();
        thread::spawn(move || {
            while gone.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("pip is at work, {} s so far", start.elapsed().as_secs());
            }
        });
        Self { _alive: alive }
    }
}

/// One sentence for what pip said.
fn why(said: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["No space left on device"]) {
        return "the disk filled up while pip was at work: free some space and run `cargo xtask setup` again"
            .to_owned();
    }
    if has(&["Failed to establish a new connection", "name resolution", "Connection refused", "ConnectionError"])
        || has(&["Network is unreachable", "ConnectTimeoutError", "ReadTimeoutError", "ProxyError"])
    {
        return "pip could not reach the package index: connect this machine to the network, or point PIP_INDEX_URL at a \
                mirror you can reach, and run `cargo xtask setup` again"
            .to_owned();
    }
    if has(&["No matching distribution found", "no such option"]) {
        return format!(
            "pip found no wheel that fits ({}): it may be too old, so try `python3 -m pip install --upgrade pip`; the \
             package index must offer torch 2.11.0 for this machine, which needs glibc 2.28 or newer",
            last_error(said)
        );
    }
    format!("pip could not install the wheels ({}): mend that and run `cargo xtask setup` again", last_error(said))
}

fn last_error(said: &str) -> &str {
    let lines = || said.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    lines().find_map(|line| line.strip_prefix("ERROR: ")).or_else(|| lines().next()).unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pip_says_becomes_one_sentence() {
        let offline = "WARNING: Retrying after connection broken by 'NewConnectionError(... Failed to establish a new \
                       connection: [Errno -3] Temporary failure in name resolution')'\nERROR: No matching distribution \
                       found for torch==2.11.0\n";
        assert!(why(offline).contains("could not reach the package index"));
        assert!(why("ERROR: [Errno 28] No space left on device\n").contains("disk filled up"));
        let old = why("ERROR: Could not find a version\nERROR: No matching distribution found for torch==2.11.0\n");
        assert!(old.contains("(No matching distribution found for torch==2.11.0)"), "{old}");
        assert!(why("boom\n\n").contains("(boom)"));
        assert!(why("").contains("it said nothing"));
    }

    #[test]
    fn no_message_breaks_its_line() {
        for said in ["", "No space left on device", "ConnectionError", "no such option", "ERROR: a\nb"] {
            assert!(!why(said).contains('\n') && !why(said).contains("  "), "{}", why(said));
        }
    }
}
