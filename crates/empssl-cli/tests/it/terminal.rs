//! A reader who leaves: standard error that is gone changes nothing, standard output that is gone is an error at the end.
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::{PipeWriter, Read, pipe};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::chain::{json, steps};
use crate::refusals::tree;
use crate::{command, recipe, refuses, succeeds, train, training};

/// A pipe that nobody reads any more, as after `| head -1` or a `| tee` that died.
fn unread() -> PipeWriter {
    pipe().unwrap().1
}

/// The exit code of a command whose messages nobody reads.
fn code(folder: &Path, arguments: &[&str]) -> Option<i32> {
    command(folder, arguments).stderr(unread()).output().unwrap().status.code()
}

/// A training of many steps into `run` whose messages go to `stderr`.
fn endless(folder: &Path, stderr: impl Into<Stdio>, more: &[&str]) -> Child {
    let recipe = recipe("synthetic/smoke.toml");
    let mut arguments = training(&recipe, &["training.length={steps=100000}", "training.batch_size=8"]);
    arguments.extend(["--log-every", "1", "--out", "run"]);
    arguments.extend(more);
    command(folder, &arguments).stderr(stderr).spawn().unwrap()
}

/// Waits until so many steps were logged, then stops the training, which must save.
fn stop(folder: &Path, mut child: Child, logged: usize) {
    let metrics = folder.join("run/metrics.jsonl");
    while !fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= logged) {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    crate::signal(child.id(), "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let run = json(&folder.join("run/run.json"));
    assert!(run["training"]["steps"].as_u64().unwrap() >= logged as u64);
    assert!(folder.join("run/checkpoint.safetensors").is_file());
}

#[test]
fn nobody_need_read_the_messages_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 5);
    let recipe = recipe("synthetic/smoke.toml");
    let changes = ["training.length={steps=4}", "training.batch_size=8", "evaluation.probe.epochs=2"];
    let probe = ["evaluation.probe.batch_size=4", "evaluation.knn.k=[3]"];
    let arguments = training(&recipe, &[&changes[..], &probe].concat());
    let arguments = [&arguments[..], &["--dataset", "folder", "--data", "tree", "--log-every", "1"]].concat();
    for (out, more) in [("run", &[][..]), ("two", &["--nproc", "2"])] {
        assert_eq!(code(folder.path(), &[&arguments[..], &["--out", out], more].concat()), Some(0), "{out}");
        let run = folder.path().join(out);
        assert_eq!(steps(&run), [1, 2, 3, 4]);
        assert_eq!(json(&run.join("run.json"))["training"]["finished"], true);
        assert!(run.join("checkpoint.safetensors").is_file());
    }
    assert_eq!(code(folder.path(), &["eval", "run", "--device", "cpu", "--threads", "1"]), Some(0));
    assert!(folder.path().join("run/report.json").is_file());
    let embed = ["embed", "tree/test/cat", "--checkpoint", "run", "--device", "cpu", "--out", "a.csv"];
    assert_eq!(code(folder.path(), &embed), Some(0));
    assert!(folder.path().join("a.csv").is_file());
}

#[test]
fn errors_keep_their_codes_when_nobody_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(code(folder.path(), &["train", "--resume", "nowhere"]), Some(6));
    assert_eq!(code(folder.path(), &["train", "--recipe"]), Some(2));
    let recipe = recipe("synthetic/smoke.toml");
    let arguments = training(&recipe, &["optimizer.momentum=1.5"]);
    assert_eq!(code(folder.path(), &arguments), Some(4));
    assert_eq!(code(folder.path(), &[&arguments[..], &["--nproc", "2"]].concat()), Some(4));
}

#[test]
fn ctrl_c_saves_when_nobody_reads_the_messages() {
    for more in [&[][..], &["--nproc", "2"]] {
        let folder = tempfile::tempdir().unwrap();
        let child = endless(folder.path(), unread(), more);
        stop(folder.path(), child, 2);
    }
}

#[test]
fn a_terminal_that_is_closed_does_not_end_the_bar_or_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let path = ptsname(&terminal, Vec::new()).unwrap();
    let shown = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
    let child = endless(folder.path(), shown, &[]);
    // The bar is there.
    let (mut terminal, mut seen) = (File::from(terminal), Vec::new());
    while !String::from_utf8_lossy(&seen).contains("100000 steps") {
        let mut some = [0; 256];
        let n = terminal.read(&mut some).unwrap();
        seen.extend(&some[..n]);
    }
    drop(terminal);
    let logged = fs::read_to_string(folder.path().join("run/metrics.jsonl")).map_or(0, |text| text.lines().count());
    stop(folder.path(), child, logged + 20);
}

#[test]
fn output_that_nobody_takes_is_an_error_and_what_was_saved_stays() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 5);
    let probe = ["--set", "evaluation.probe.batch_size=4", "--set", "evaluation.knn.k=[3]"];
    succeeds(train(folder.path(), &[&["--dataset", "folder", "--data", "tree", "--out", "run"], &probe[..]].concat()));
    let recipe = recipe("synthetic/smoke.toml");
    let recipe = recipe.to_str().unwrap();
    let commands: [&[&str]; 9] = [
        &["recipe", recipe],
        &["recipe", recipe, "--json"],
        &["eval", "run", "--device", "cpu", "--threads", "1"],
        &["embed", "tree/test/cat", "--checkpoint", "run", "--device", "cpu", "--out", "a.npy"],
        &["export", "run", "--out", "w.safetensors"],
        &["runs", "."],
        &["completions", "bash"],
        &["train", "--help"],
        &["--version"],
    ];
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for arguments in commands {
        let to = |stdout: Stdio| refuses(&run(folder.path(), arguments, stdout), 6);
        for (sentence, reason) in [(to(full().into()), "No space left"), (to(unread().into()), "Broken pipe")] {
            assert!(sentence.starts_with("error: cannot write to standard output: "), "{arguments:?}: {sentence}");
            assert!(sentence.contains(reason), "{arguments:?}: {sentence}");
        }
    }
    for name in ["run/report.json", "run/scatter.svg", "a.npy", "a.paths.txt", "w.safetensors"] {
        assert!(folder.path().join(name).is_file(), "{name}");
    }
}

fn run(folder: &Path, arguments: &[&str], stdout: Stdio) -> std::process::Output {
    let mut command: Command = command(folder, arguments);
    command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
}
