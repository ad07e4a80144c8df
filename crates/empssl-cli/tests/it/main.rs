//! The program as users see it, from outside.
//!
//! - `chain`: train, resume, evaluate, export on generated images, in seconds;
//! - `bench`: where the time of a step goes;
//! - `data`: fetching, checking and showing data sets;
//! - `recipes`: the shipped recipes, and what `empssl recipe` says of them;
//! - `features`: what is kept of an evaluation, and the list of runs;
//! - `resume`: what stops a run, what it goes on from, and what it refuses; `kill`: runs killed at any moment;
//! - `ranks`: several processes that train as one, and what ends them;
//! - `resident`: what a long run takes of memory and processors;
//! - `help`: the texts of `--help`, as snapshots;
//! - `monitor`: kNN while a run goes on; `embed`: features of any images, and neighbours;
//! - `refusals`: every bad input, with its sentence and exit code; `terminal`: readers who leave;
//! - `transfer`: a run scored on other images;
//! - `weights`: weights from elsewhere and for elsewhere;
//! - `shared`: the same program on genuine images, where they are at hand.

mod bench;
mod chain;
mod data;
mod embed;
mod features;
mod help;
mod kill;
mod monitor;
mod ranks;
mod recipes;
mod refusals;
mod resident;
mod resume;
mod shared;
mod terminal;
mod transfer;
mod weights;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A recipe of the repository.
fn recipe(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name)
}

/// `empssl` with arguments, in `folder`.
fn empssl(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("the program starts")
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_empssl"));
    command.current_dir(folder).args(arguments).env_remove("EMPSSL_COMMIT");
    command
}

/// Sends a signal, `INT` for Ctrl-C.
#[track_caller]
fn signal(process: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().unwrap().success());
}

/// So many small images, `images/N.png`.
fn draw_images(folder: &Path, n: u32) {
    let images = folder.join("images");
    std::fs::create_dir_all(&images).unwrap();
    for index in 0..n {
        let image = image::RgbImage::from_fn(32, 32, |x, y| {
            image::Rgb([(x * 8 + index) as u8, (y * (index % 7 + 1)) as u8, (index * 5) as u8])
        });
        image.save(images.join(format!("{index}.png"))).unwrap();
    }
}

/// Arguments of a training by the smoke recipe, with changes.
fn training<'a>(recipe: &'a Path, changes: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["train", "--device", "cpu", "--threads", "1", "--workers", "1", "--recipe", recipe.to_str().unwrap()];
    fixed.into_iter().chain(changes.iter().flat_map(|change| ["--set", change])).collect()
}

/// `empssl train` with the smoke recipe made smaller still, and more arguments.
fn train(folder: &Path, more: &[&str]) -> Output {
    let recipe = recipe("synthetic/smoke.toml");
    let changes = ["training.length={steps=4}", "training.batch_size=8", "evaluation.probe.epochs=2"];
    let mut arguments = training(&recipe, &changes);
    // The checks would take longer than the steps.
    if !more.iter().any(|word| word.ends_with("monitor") || *word == "--monitor-every") {
        arguments.push("--no-monitor");
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
