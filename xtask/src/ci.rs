//! `cargo xtask ci`: everything that must hold before a change is merged, cheapest first; the first failure stops it.

mod consumer;
mod edges;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::failure::{Code, Failure, Outcome};
use crate::reproduce;
use crate::reproduce::program::Profile;
use crate::workspace::{self, Workspace};
use crate::{dist, process, setup, table, test};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these steps, in their usual order
    #[arg(value_name = "STEP", value_parser = STEPS.map(|(name, _)| name))]
    only: Vec<String>,
}

/// One thing that must hold.
type Step = (&'static str, fn(&Workspace) -> Outcome);

const STEPS: [Step; 11] = [
    ("fmt", |workspace| cargo(workspace, &["fmt", "--all", "--check"])),
    ("edges", edges::run),
    // With the object that the bundle packs and a test looks into.
    ("setup", |workspace| setup::nccl_object(workspace).map(drop)),
    ("clippy", |workspace| cargo(workspace, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
    ("test", |workspace| test::run(&test::Args::default(), workspace)),
    // By the program that the tests have built.
    ("table", |workspace| table::run(&table::Args { check: true }, workspace)),
    ("doc", |workspace| process::run(&mut doc(workspace), Code::Check)),
    ("doc-only", doc_without_libtorch),
    ("consumer", consumer::run),
    ("smoke", smoke),
    ("dist", dist::check),
];

/// Runs the task.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Outcome {
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let steps: Vec<_> = STEPS.into_iter().filter(|(name, _)| wanted(name)).collect();
    run_steps(&steps, workspace)
}

fn run_steps(steps: &[Step], workspace: &Workspace) -> Outcome {
    let mut done: Vec<(&str, Duration)> = Vec::new();
    for (name, step) in steps {
        eprintln!("\n== {name} ({} of {})", done.len() + 1, steps.len());
        let start = Instant::now();
        let outcome = step(workspace);
        eprintln!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
        if let Err(failure) = outcome {
            eprint!("{}", summary(&done));
            return Err(Failure::new(failure.code, format!("ci stopped at `{name}`: {failure}")));
        }
        done.push((name, start.elapsed()));
    }
    eprint!("{}", summary(&done));
    println!("ci: {} of {} steps run, all hold", steps.len(), STEPS.len());
    Ok(())
}

/// What held, with its seconds.
fn summary(done: &[(&str, Duration)]) -> String {
    let lines = done.iter().map(|(name, took)| format!("  held  {:>7.1} s  {name}\n", took.as_secs_f64()));
    let total: Duration = done.iter().map(|(_, took)| *took).sum();
    format!("\n{}        {:>7.1} s  in all\n", lines.collect::<String>(), total.as_secs_f64())
}

fn cargo(workspace: &Workspace, args: &[&str]) -> Outcome {
    let mut command = Command::new(workspace::cargo());
    process::run(command.args(args).current_dir(workspace.root()), Code::Check)
}

fn doc(workspace: &Workspace) -> Command {
    let mut command = Command::new(workspace::cargo());
    command.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").current_dir(workspace.root());
    command
}

/// The documentation must build where no libtorch is: the feature keeps torch-sys from looking for one.
fn doc_without_libtorch(workspace: &Workspace) -> Outcome {
    let mut command = doc(workspace);
    process::run(command.args(["--features", "doc-only"]).env("LIBTORCH", "/nonexistent"), Code::Check)
}

/// Training, evaluation and report on a few synthetic images, with the programs the tests have built.
fn smoke(workspace: &Workspace) -> Outcome {
    let out = workspace.target().join("ci-smoke");
    let _ = fs::remove_dir_all(&out);
    reproduce::chain(&reproduce::Args::synthetic("smoke", out), workspace, Profile::Dev)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_stops_and_is_named() {
        let steps: [Step; 3] = [
            ("first", |_| Ok(())),
            ("second", |_| Err(Failure::check("it broke"))),
            ("third", |_| panic!("ran after a failure")),
        ];
        let failure = run_steps(&steps, &Workspace::locate()).unwrap_err();
        assert_eq!((failure.code, failure.to_string().as_str()), (Code::Check, "ci stopped at `second`: it broke"));
        run_steps(&steps[..1], &Workspace::locate()).unwrap();
    }

    #[test]
    fn no_file_of_rust_is_longer_than_600_lines() {
        let workspace = Workspace::locate();
        let listed = process::output(Command::new("git").args(["ls-files", "*.rs"]).current_dir(workspace.root()));
        let files = listed.unwrap_or_default(); // A copy without git has nothing to list.
        let lines = |name: &str| fs::read_to_string(workspace.join(name)).map_or(0, |text| text.lines().count());
        let long: Vec<_> = files.lines().filter(|name| lines(name) > 600).collect();
        assert!(long.is_empty(), "longer than 600 lines: {long:?}");
    }

    #[test]
    fn the_summary_adds_up() {
        let text = summary(&[("a", Duration::from_millis(1500)), ("b", Duration::from_millis(500))]);
        assert_eq!(text, "\n  held      1.5 s  a\n  held      0.5 s  b\n            2.0 s  in all\n");
    }
}
