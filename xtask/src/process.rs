//! Starting programs, and what an interrupt means while they run.

use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::failure::{Code, Failure, Outcome};

/// Interrupts seen since [`watch_interrupts`].
static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);

/// How often a running program is asked whether it has ended.
const POLL: Duration = Duration::from_millis(50);

/// From now on an interrupt no longer ends this program at once: the program it started, which shares the terminal and
/// so receives the interrupt as well, is given the time to save, and the task can say where the run is.
pub(crate) fn watch_interrupts() {
    // A handler that is already in place is this one.
    let _ = ctrlc::set_handler(|| {
        INTERRUPTS.fetch_add(1, Ordering::SeqCst);
    });
}

/// Interrupts so far.
pub(crate) fn interrupts() -> usize {
    INTERRUPTS.load(Ordering::SeqCst)
}

/// Prints the command and runs it on our terminal; anything but success is a failure with `code`.
pub(crate) fn run(command: &mut Command, code: Code) -> Outcome {
    eprintln!("$ {}", shown(command));
    let mut child = command.spawn().map_err(|error| not_started(command, &error))?;
    let told = "interrupted: waiting for the program to leave; interrupt again to stop it at once";
    let status = wait(&mut child, &interrupts, &mut |_| eprintln!("{told}"), &mut || ())?;
    if interrupts() > 0 {
        return Err(Failure::new(Code::Interrupted, "interrupted"));
    }
    let failed = || format!("`{}` failed ({status}); its own message is above", shown(command));
    if status.success() { Ok(()) } else { Err(Failure::new(code, failed())) }
}

/// Runs the command silently and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let output = command.output().map_err(|error| not_started(command, &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let message = format!("`{}` failed ({}): {}", shown(command), output.status, said.trim());
        return Err(Failure::new(Code::Child, message));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits for the program's end: `first` hears of the first interrupt, at the second the program is stopped. `watch` is called
/// with every look.
pub(crate) fn wait(
    child: &mut Child,
    interrupts: &dyn Fn() -> usize,
    first: &mut dyn FnMut(&Child),
    watch: &mut dyn FnMut(),
) -> Outcome<ExitStatus> {
    let mut told = false;
    loop {
        let ended = child.try_wait().map_err(|error| Failure::new(Code::Child, format!("cannot wait: {error}")))?;
        if let Some(status) = ended {
            return Ok(status);
        }
        let count = interrupts();
        if count > 0 && !told {
            first(child);
            told = true;
        }
        if count > 1 {
            // It may have ended just now; the next round tells.
            let _ = child.kill();
        }
        watch();
        thread::sleep(POLL);
    }
}

/// The failure of a command that does not begin.
pub(crate) fn not_started(command: &Command, error: &std::io::Error) -> Failure {
    let program = command.get_program().to_string_lossy();
    Failure::new(Code::Child, format!("cannot start `{program}`: {error}"))
}

/// The command as one would type it, with the program's folder left out.
pub(crate) fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Makes a program of a script for tests. A child process writes it: were the file ever open for writing here, a child
    /// that another test starts at that moment would hold it open, and the system refuses to start such a file.
    pub(crate) fn write_script(path: &std::path::Path, text: &str) {
        let status = Command::new("sh")
            .args(["-c", "printf %s \"$1\" > \"$2\" && chmod +x \"$2\"", "sh", text])
            .arg(path)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "cannot write {}", path.display());
    }

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", "print('a b')", ""]);
        assert_eq!(shown(&command), r"python3 -c 'print('\''a b'\'')' ''");
    }

    #[test]
    fn a_failing_program_is_named_with_its_status() {
        let failure = run(Command::new("sh").args(["-c", "exit 7"]), Code::Check).unwrap_err();
        assert_eq!(failure.code, Code::Check);
        assert!(failure.to_string().contains("exit status: 7"), "{failure}");
    }

    #[test]
    fn one_interrupt_lets_the_program_finish_and_two_stop_it() {
        let sleep = |seconds: &str| Command::new("sleep").arg(seconds).spawn().unwrap();
        let wait = |seconds: &str, n: usize| wait(&mut sleep(seconds), &|| n, &mut |_| (), &mut || ()).unwrap();
        assert!(wait("0.2", 1).success());
        let stopped = wait("60", 2);
        assert_eq!(stopped.code(), None, "it was not stopped by a signal");
    }

    #[test]
    fn a_missing_program_is_a_sentence() {
        let failure = output(&mut Command::new("no-such-program-here")).unwrap_err();
        assert!(failure.to_string().starts_with("cannot start `no-such-program-here`"), "{failure}");
    }

    #[test]
    fn output_returns_what_was_printed() {
        assert_eq!(output(Command::new("echo").arg("hello")).unwrap(), "hello\n");
    }
}
