//! The program as users see it, from outside.
//!
//! - `chain`: train, resume, evaluate, export on generated images, in seconds;
//! - `data`: fetching, checking, packing and showing data sets;
//! - `help`: the texts of `--help`, as snapshots;
//! - `refusals`: every bad input, with its sentence and exit code;
//! - `shared`: the same program on genuine images, where they are at hand.

mod chain;
mod data;
mod help;
mod refusals;
mod shared;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A recipe of the repository.
fn recipe(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name)
}

/// `empssl` with arguments, in `folder`.
fn empssl(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_empssl"));
    command.current_dir(folder).args(arguments).env_remove("EMPSSL_COMMIT");
    command.output().expect("the program starts")
}

/// `empssl train` with the smoke recipe made smaller still, and more arguments.
fn train(folder: &Path, more: &[&str]) -> Output {
    let recipe = recipe("synthetic/smoke.toml");
    let mut arguments =
        vec!["train", "--device", "cpu", "--threads", "1", "--workers", "1", "--recipe", recipe.to_str().unwrap()];
    for change in ["training.length={steps=4}", "training.batch_size=8", "evaluation.probe.epochs=2"] {
        arguments.extend(["--set", change]);
    }
    arguments.extend(more);
    empssl(folder, &arguments)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The program did what it was asked.
#[track_caller]
fn succeeds(output: Output) -> Output {
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

/// The program refused with this exit code and one sentence, which is returned.
#[track_caller]
fn refuses(output: &Output, code: i32) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert!(!text.contains("panicked"), "{text}");
    errors[0].to_owned()
}
