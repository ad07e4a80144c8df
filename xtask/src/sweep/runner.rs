//! Running cells: each slot takes the next cell that nobody has taken and does whatever is still missing in its folder, one
//! program after the other. Where the driver of a GPU tells its power, the energy of each program is measured besides.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use empssl_report::metrics::Progress;
use empssl_report::report::{Encoder, Probe, RunReport};
use empssl_report::sweep::Status;
use empssl_report::words;

use super::cell::{Joules, State, Step};
use super::plan::Cell;
use super::slots::Slot;
use crate::failure::{Code, Context, Failure, Outcome};
use crate::reproduce::args::Args;
use crate::reproduce::program::Program;
use crate::{process, report, workspace};

/// The driver's tool.
const NVIDIA_SMI: &str = "nvidia-smi";

/// How often the progress of a long training is printed.
const PRINT_EVERY: Duration = Duration::from_secs(60);

/// How `empssl` ends when it was asked to stop.
const STOPPED: i32 = 130;

/// What cells share.
pub(crate) struct Runner<'a> {
    pub(crate) program: &'a Program,
    pub(crate) args: &'a Args,
    pub(crate) interrupts: &'a (dyn Fn() -> usize + Sync),
}

impl Runner<'_> {
    /// Runs cells until none is left or an interrupt came; `ended` hears of each. One cell's failure stops no other.
    pub(crate) fn run_all(&self, cells: &[Cell], slots: &[Slot], ended: &(dyn Fn() + Sync)) {
        let (next, talking) = (AtomicUsize::new(0), Mutex::new(()));
        let work = |slot: &Slot| {
            while (self.interrupts)() == 0 {
                let Some(cell) = cells.get(next.fetch_add(1, Ordering::SeqCst)) else { return };
                if let Err(failure) = self.run(cell, slot) {
                    eprintln!("{}: FAILED: {failure}", cell.name);
                }
                let _one_at_a_time = talking.lock();
                ended();
            }
        };
        thread::scope(|scope| {
            for slot in slots {
                scope.spawn(|| work(slot));
            }
        });
    }

    /// Does what is missing of a cell, and returns how far it came. Only what concerns the cell's own files fails.
    fn run(&self, cell: &Cell, slot: &Slot) -> Outcome<Status> {
        let held = cell.lock(|| {
            eprintln!("{}: waiting for a program that an earlier sweep left running there", cell.name);
        })?;
        let mut state = cell.state();
        if cell.is_done() || (state.status == Status::Failed && !self.args.sweep.retry) {
            return Ok(state.status);
        }
        (state.status, state.error) = (Status::Begun, None);
        cell.write_state(&state)?;
        (state.status, state.error) = match self.steps(cell, slot, &held, &mut state) {
            Ok(status) => (status, None),
            Err(failure) => (Status::Failed, Some(failure.to_string())),
        };
        cell.write_state(&state)?;
        if let Some(error) = &state.error {
            let log = workspace::from_here(&cell.join("log.txt"));
            eprintln!("{}: FAILED: {error} ({})", cell.name, log.display());
        }
        Ok(state.status)
    }

    /// Takes one step after the other until none is left; what fails is the cell's failure.
    fn steps(&self, cell: &Cell, slot: &Slot, held: &File, state: &mut State) -> Outcome<Status> {
        while let Some(step) = cell.next_step() {
            if (self.interrupts)() > 0 {
                return Ok(Status::Interrupted);
            }
            match step {
                Step::Train => state.starts += 1,
                Step::Resume => state.resumes += 1,
                Step::Score(_) | Step::Transfer(_) => {}
            }
            cell.write_state(state)?;
            match self.step(cell, slot, held, &step, &mut state.joules)? {
                End::Done if cell.next_step().as_ref() == Some(&step) => {
                    return Err(Failure::new(Code::Child, format!("{} left nothing behind", name(&step))));
                }
                End::Done => self.print_step(cell, &step),
                End::Stopped => return Ok(Status::Interrupted),
                End::Failed(why) => return Err(Failure::new(Code::Child, format!("{}: {why}", name(&step)))),
            }
        }
        report::render(&cell.folder)?;
        if !self.args.sweep.keep_features {
            self.drop_features(cell);
        }
        Ok(Status::Done)
    }

    /// Removes what can be computed again: gigabytes for each cell.
    fn drop_features(&self, cell: &Cell) {
        let mut command = self.program.command();
        command.args(["runs", "--clean"]).arg(workspace::from_here(&cell.folder));
        if let Err(failure) = process::output(&mut command) {
            eprintln!("warning: {}: its features stay on the disk: {failure}", cell.name);
        }
    }

    fn step(&self, cell: &Cell, slot: &Slot, held: &File, step: &Step, joules: &mut Joules) -> Outcome<End> {
        // A training is as many processes as its slot has room for, an evaluation is one.
        let slot = &if step.is_training() { slot.clone() } else { slot.first() };
        let mut command = self.command(cell, slot, step)?;
        let log = cell.join("log.txt");
        let meter = slot.gpu.as_deref().and_then(|gpu| Meter::start(NVIDIA_SMI, gpu));
        let mut printed = Instant::now();
        let mut watch = || {
            if printed.elapsed() >= PRINT_EVERY {
                printed = Instant::now();
                self.print_progress(cell, step);
            }
        };
        let end = run(&mut command, &log, held, &self.interrupts, &mut watch);
        let spent = meter.and_then(Meter::stop);
        let sum = if step.is_training() { &mut joules.train } else { &mut joules.evaluate };
        *sum = spent.map(|spent| sum.unwrap_or(0.0) + spent).or(*sum);
        end
    }

    fn command(&self, cell: &Cell, slot: &Slot, step: &Step) -> Outcome<Command> {
        let mut command = self.program.command();
        let folder = workspace::from_here(&cell.folder);
        match step {
            Step::Train => {
                // What a training that was killed at its very beginning left is no run yet.
                command.arg("train").arg("--force").arg("--recipe").arg(workspace::from_here(&cell.recipe));
                cell.set.add_to(&mut command);
                command.args(["--seed", &cell.seed.to_string()]);
                command.args(cell.changes.iter().flat_map(|change| ["--set", change]));
                command.arg("--out").arg(&folder);
            }
            Step::Resume => {
                command.arg("train").arg("--resume").arg(&folder);
                cell.set.add_place(&mut command);
            }
            Step::Score(state) => {
                command.arg("eval").arg(&folder);
                cell.set.add_place(&mut command);
                if let Some(epochs) = state {
                    command.args(["--snapshot", &epochs.to_string()]);
                }
            }
            // Scores of the end on another set's images, under that set's own labels.
            Step::Transfer(target) => {
                let of = cell.join("transfer");
                fs::create_dir_all(&of).at(Code::Child, "create the folder", &of)?;
                command.args(["eval", "--checkpoint"]).arg(&folder);
                target.set.add_to(&mut command);
                command.arg("--out").arg(workspace::from_here(&cell.transfer_path(target)));
            }
        }
        if self.args.deterministic {
            command.arg("--deterministic");
        }
        slot.add_to(&mut command);
        Ok(command)
    }

    fn print_step(&self, cell: &Cell, step: &Step) {
        let text = match step {
            Step::Train | Step::Resume => {
                let (step, seconds) = cell.progress().map_or((0, 0.0), |(last, _)| (last.step, last.seconds));
                format!("trained {step} steps in {}", words::duration(seconds))
            }
            Step::Score(state) => scored(cell.report(*state)),
            Step::Transfer(target) => format!("on {}: {}", target.set.name, scored(cell.transfer_report(target))),
        };
        eprintln!("{}: {text}", cell.name);
    }

    fn print_progress(&self, cell: &Cell, step: &Step) {
        if let (true, Some((Progress { step: done, seconds }, of))) = (step.is_training(), cell.progress()) {
            let left = words::duration(seconds / done.max(1) as f64 * of.saturating_sub(done) as f64);
            eprintln!("{}: step {done} of {of}, about {left} of training left", cell.name);
        }
    }
}

fn scored(report: Option<RunReport>) -> String {
    let Some(report) = report else { return "no scores".to_owned() };
    let top1 = |probe| report.row(Encoder::Trained, probe).map_or("-".to_owned(), |row| words::percent(row.top1));
    let seconds = words::duration(report.seconds.evaluate);
    format!(
        "after {} epochs linear {}, kNN {}; evaluated in {seconds}",
        words::number(report.model.epochs),
        top1(Probe::Linear),
        top1(Probe::Knn)
    )
}

/// What a step is called where it failed.
fn name(step: &Step) -> String {
    match step {
        Step::Train => "training".to_owned(),
        Step::Resume => "going on with the training".to_owned(),
        Step::Score(None) => "evaluation".to_owned(),
        Step::Score(Some(epochs)) => format!("evaluation of the state after {epochs} epochs"),
        Step::Transfer(target) => format!("evaluation on {}", target.set.name),
    }
}

/// How a program ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Done,
    /// It was asked to stop, and did.
    Stopped,
    Failed(String),
}

/// Runs a program until it ends. It has a process group of its own, so that Ctrl-C in a terminal reaches this program
/// alone, which passes the first one on and stops the program at once at the second. `held` goes along as the standard
/// input, and with it the lock on that file. `watch` is called with every look.
fn run(
    command: &mut Command,
    log: &Path,
    held: &File,
    interrupts: &dyn Fn() -> usize,
    watch: &mut dyn FnMut(),
) -> Outcome<End> {
    let mut output = File::options().create(true).append(true).open(log).at(Code::Child, "write", log)?;
    writeln!(output, "$ {}", process::shown(command)).at(Code::Child, "write", log)?;
    let from = fs::metadata(log).map_or(0, |found| found.len());
    let duplicate = |file: &File| file.try_clone().at(Code::Child, "use", log);
    command.stdin(duplicate(held)?).stdout(duplicate(&output)?).stderr(output).process_group(0);
    let mut child = command.spawn().map_err(|error| process::not_started(command, &error))?;
    let mut was_asked = false;
    let mut first = |child: &Child| {
        interrupt(child);
        was_asked = true;
    };
    let status = process::wait(&mut child, interrupts, &mut first, watch)?;
    Ok(end(status, was_asked, || last_words(log, from)))
}

/// Asks the program to stop, by the signal that is heard even where a shell let its jobs in the background ignore
/// Ctrl-C. Where that is impossible the program ends by itself later, or at the second
/// interrupt.
fn interrupt(child: &Child) {
    let _ = process::output(Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &child.id().to_string()]));
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

/// Between two readings of a GPU's power.
const READ_EVERY: Duration = Duration::from_millis(500);

/// The time of a reading, and watts.
type Reading = (Instant, f64);

/// Reads the power of GPUs until it is asked for the sum.
pub(crate) struct Meter {
    n_gpus: usize,
    tool: Child,
    reader: JoinHandle<Vec<Reading>>,
}

impl Meter {
    /// Begins to read the power of a GPU, or of several with commas between them; nothing where the tool is not there.
    pub(crate) fn start(tool: &str, gpu: &str) -> Option<Self> {
        let mut command = Command::new(tool);
        command.args(["--query-gpu=power.draw", "--format=csv,noheader,nounits"]);
        command.arg(format!("--id={gpu}")).arg(format!("--loop-ms={}", READ_EVERY.as_millis()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut tool = command.spawn().ok()?;
        let lines = BufReader::new(tool.stdout.take()?).lines();
        let readings = lines.map_while(Result::ok).filter_map(|line| Some((Instant::now(), watts(&line)?)));
        let reader = thread::spawn(move || readings.collect());
        Some(Self { n_gpus: gpu.split(',').count(), tool, reader })
    }

    /// Joules from the first reading to the last; nothing from fewer than two of each GPU.
    pub(crate) fn stop(mut self) -> Option<f64> {
        // It may have ended by itself, which leaves nothing to do.
        let _ = self.tool.kill();
        let _ = self.tool.wait();
        joules(&self.reader.join().ok()?, self.n_gpus)
    }
}

/// One line of the tool; a GPU that does not tell prints words.
fn watts(line: &str) -> Option<f64> {
    line.trim().parse().ok().filter(|watts: &f64| watts.is_finite())
}

/// The power between two readings of a GPU is taken to be their mean; the tool tells of one GPU after the other.
fn joules(readings: &[Reading], n_gpus: usize) -> Option<f64> {
    let between = |[(from, before), (to, after)]: [&Reading; 2]| (*to - *from).as_secs_f64() * (before + after) / 2.0;
    let earlier_and_later = readings.iter().zip(readings.iter().skip(n_gpus));
    (readings.len() >= 2 * n_gpus).then(|| earlier_and_later.map(|(a, b)| between([a, b])).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script in a folder of its own, where it may leave files, and returns the lines of the log but for the command.
    fn run_script(script: &str, interrupts: impl Fn(&Path) -> usize) -> (End, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.txt");
        fs::write(&log, "error: of another program\n").unwrap();
        let held = File::create(folder.path().join("lock")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(folder.path());
        let end = run(&mut command, &log, &held, &|| interrupts(folder.path()), &mut || ()).unwrap();
        let log = fs::read_to_string(&log).unwrap();
        (end, log.lines().filter(|line| !line.starts_with("$ ")).map(str::to_owned).collect())
    }

    #[test]
    fn the_last_error_of_this_program_is_why_it_failed() {
        let quiet = |_: &Path| 0;
        assert_eq!(run_script("echo hello", quiet).0, End::Done);
        let (end, log) = run_script("echo a; echo 'error: no images' >&2; echo b; exit 3", quiet);
        assert_eq!(end, End::Failed("no images".to_owned()));
        assert_eq!(log, ["error: of another program", "a", "error: no images", "b"]);
        assert_eq!(run_script("exit 7", quiet).0, End::Failed("it ended with code 7".to_owned()));
        assert_eq!(run_script("exit 130", quiet).0, End::Stopped);
        assert!(matches!(run_script("kill -9 $$", quiet).0, End::Failed(why) if why.contains("signal 9")));
    }

    #[test]
    fn an_interrupt_is_passed_on_once_and_a_second_kills() {
        let ready = |folder: &Path| usize::from(folder.join("ready").exists());
        let once = "trap 'echo caught; exit 130' TERM; : > ready; while :; do sleep 0.05; done";
        let (end, log) = run_script(once, ready);
        assert_eq!(end, End::Stopped);
        assert_eq!(log.iter().filter(|line| *line == "caught").count(), 1);
        let asked = AtomicUsize::new(0);
        let deaf = "trap '' TERM; : > ready; while :; do sleep 0.05; done";
        let rising = |folder: &Path| ready(folder) * (1 + asked.fetch_add(1, Ordering::SeqCst) / 5);
        assert_eq!(run_script(deaf, rising).0, End::Stopped);
    }

    #[test]
    fn power_is_summed_over_time() {
        let start = Instant::now();
        let at = |seconds: u64, watts: f64| (start + Duration::from_secs(seconds), watts);
        let one = [at(0, 100.0), at(2, 300.0), at(3, 300.0)];
        assert_eq!(joules(&one, 1), Some(400.0 + 300.0));
        assert_eq!((joules(&one[..1], 1), joules(&one, 2)), (None, None));
        let two = [at(0, 100.0), at(0, 10.0), at(2, 300.0), at(2, 10.0), at(3, 300.0), at(3, 30.0)];
        assert_eq!(joules(&two, 2), Some(400.0 + 300.0 + 20.0 + 20.0));
        assert_eq!([" 71.25", "[N/A]", "nan"].map(watts), [Some(71.25), None, None]);
    }

    #[test]
    fn a_tool_that_tells_is_read_and_one_that_is_missing_or_silent_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, body: &str| {
            let path = folder.path().join(name);
            process::tests::write_script(&path, &format!("#!/bin/sh\n{body}\n"));
            path.display().to_string()
        };
        let telling = write("telling", "[ \"$3\" = --id=1 ] && while echo 50.0; do sleep 0.02; done");
        let meter = Meter::start(&telling, "1").unwrap();
        thread::sleep(Duration::from_millis(300));
        let joules = meter.stop().unwrap();
        assert!((2.0..50.0).contains(&joules), "50 W for less than a third of a second: {joules} J");
        assert_eq!(Meter::start(&write("silent", "echo '[N/A]'"), "0").unwrap().stop(), None);
        assert!(Meter::start("no-such-tool-here", "0").is_none());
    }
}
