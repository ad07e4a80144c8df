//! One program of a cell: what it says goes to the cell's log, and an interrupt is passed on to it once.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::Duration;

use crate::failure::{Code, Context, Failure, Outcome};
use crate::process;

/// How often a running program is asked whether it has ended.
const POLL: Duration = Duration::from_millis(50);

/// How `empssl` ends when it was asked to stop.
const STOPPED: i32 = 130;

/// How a program ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// It was asked to stop, and did.
    Stopped,
    Failed(String),
}

/// Runs a program until it ends. It has a process group of its own, so that Ctrl-C in a terminal reaches this program
/// alone, which passes the first one on and stops the program at once at the second. `held` goes along as the standard
/// input, and with it the lock on that file. `watch` is called with every look.
pub(crate) fn run(
    command: &mut Command,
    log: &Path,
    held: &File,
    interrupts: &dyn Fn() -> usize,
    watch: &mut dyn FnMut(),
) -> Outcome<End> {
    let output = File::options().create(true).append(true).open(log).at(Code::Child, "write", log)?;
    let from = fs::metadata(log).map_or(0, |found| found.len());
    let duplicate = |file: &File| file.try_clone().at(Code::Child, "use", log);
    command.stdin(duplicate(held)?).stdout(duplicate(&output)?).stderr(output).process_group(0);
    let mut child = command.spawn().map_err(|error| {
        Failure::new(Code::Child, format!("cannot start `{}`: {error}", command.get_program().to_string_lossy()))
    })?;
    let (status, was_asked) = wait(&mut child, interrupts, watch)?;
    Ok(end(status, was_asked, || last_words(log, from)))
}

fn wait(child: &mut Child, interrupts: &dyn Fn() -> usize, watch: &mut dyn FnMut()) -> Outcome<(ExitStatus, bool)> {
    let mut passed_on = false;
    loop {
        let ended = child.try_wait().map_err(|error| Failure::new(Code::Child, format!("cannot wait: {error}")))?;
        if let Some(status) = ended {
            return Ok((status, passed_on));
        }
        let count = interrupts();
        if count > 0 && !passed_on {
            interrupt(child);
            passed_on = true;
        }
        if count > 1 {
            // It may have ended just now; the next round tells.
            let _ = child.kill();
        }
        watch();
        thread::sleep(POLL);
    }
}

/// Sends the program what Ctrl-C sends. Where that is impossible the program ends by itself later, or at the second
/// interrupt.
fn interrupt(child: &Child) {
    let _ = process::output(Command::new("sh").args(["-c", "kill -INT \"$1\"", "sh", &child.id().to_string()]));
}

fn end(status: ExitStatus, was_asked: bool, last_words: impl FnOnce() -> Option<String>) -> End {
    match (status.code(), status.signal()) {
        (Some(0), _) => End::Done,
        (Some(STOPPED), _) => End::Stopped,
        _ if was_asked => End::Stopped,
        (Some(code), _) => End::Failed(last_words().unwrap_or_else(|| format!("it ended with code {code}"))),
        (None, signal) => {
            let signal = signal.map_or("a signal".to_owned(), |number| format!("signal {number}"));
            End::Failed(format!("it was killed by {signal}, as the system does when memory runs out"))
        }
    }
}

/// The last error that the program wrote, of what it added to the log.
fn last_words(log: &Path, from: u64) -> Option<String> {
    let bytes = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(bytes.get(from as usize..)?).into_owned();
    let mut lines = text.lines().rev().filter(|line| !line.trim().is_empty());
    let error = lines.clone().find_map(|line| line.strip_prefix("error: "));
    error.or_else(|| lines.next()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Runs a script in a folder of its own, where it may leave files.
    fn run_script(script: &str, interrupts: impl Fn(&Path) -> usize) -> (End, String) {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.txt");
        fs::write(&log, "error: of another program\n").unwrap();
        let held = File::create(folder.path().join("lock")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(folder.path());
        let end = run(&mut command, &log, &held, &|| interrupts(folder.path()), &mut || ()).unwrap();
        (end, fs::read_to_string(&log).unwrap())
    }

    #[test]
    fn the_last_error_of_this_program_is_why_it_failed() {
        let quiet = |_: &Path| 0;
        assert_eq!(run_script("echo hello", quiet).0, End::Done);
        let (end, log) = run_script("echo a; echo 'error: no images' >&2; echo b; exit 3", quiet);
        assert_eq!(end, End::Failed("no images".to_owned()));
        assert_eq!(log, "error: of another program\na\nerror: no images\nb\n");
        assert_eq!(run_script("exit 7", quiet).0, End::Failed("it ended with code 7".to_owned()));
        assert_eq!(run_script("exit 130", quiet).0, End::Stopped);
        assert!(matches!(run_script("kill -9 $$", quiet).0, End::Failed(why) if why.contains("signal 9")));
    }

    #[test]
    fn an_interrupt_is_passed_on_once_and_a_second_kills() {
        let ready = |folder: &Path| usize::from(folder.join("ready").exists());
        let once = "trap 'echo caught; exit 130' INT; : > ready; while :; do sleep 0.05; done";
        let (end, log) = run_script(once, ready);
        assert_eq!(end, End::Stopped);
        assert_eq!(log.matches("caught").count(), 1);
        let asked = AtomicUsize::new(0);
        let deaf = "trap '' INT; : > ready; while :; do sleep 0.05; done";
        let rising = |folder: &Path| ready(folder) * (1 + asked.fetch_add(1, Ordering::SeqCst) / 5);
        assert_eq!(run_script(deaf, rising).0, End::Stopped);
    }
}
