//! The project's tasks, one file each: `cargo xtask TASK`.
//!
//! This crate starts processes. Of our crates it knows `empssl-report` alone, so that every task begins within seconds on a
//! bare machine.

// The macros of `print` stand for those of the standard library.
#![warn(clippy::print_stderr, clippy::print_stdout)]

#[macro_use]
mod print;

mod ci;
mod dist;
mod failure;
mod process;
mod report;
mod reproduce;
mod setup;
mod sweep;
mod table;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::{Failure, Outcome};
use crate::workspace::Workspace;

/// What every `--help` ends with.
const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    a check failed: a test, a lint, a bar of the report, the time limit
  2    wrong usage, such as an unknown recipe or a missing --data
  3    libtorch could not be provided
  4    a program we started failed (the build, training, evaluation)
  5    a report could not be read or written
  130  interrupted";

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Project tasks of empssl", after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Provide libtorch 2.11.0 in .libtorch, without root and without any variable set by hand
    ///
    /// A LIBTORCH you have set is checked and used as it is.
    /// Otherwise the wheels of PyTorch are installed into .libtorch with pip: a small set for the CPU (0.55 GB to
    /// download), or the full CUDA set where an NVIDIA driver is present.
    /// With --nccl, the object by which several GPUs train together is compiled there, too.
    Setup(setup::Args),
    /// Train, evaluate and report, from nothing to a page to read
    ///
    /// Without arguments: the synthetic set with the quick recipe, some minutes on two CPU cores.
    /// With a table, several seeds, sets or recipes: a sweep, whose plan is shown first. Cells that are done are skipped and
    /// those that were interrupted go on, so the same command may be given as often as it takes.
    Reproduce(Box<reproduce::Args>),
    /// Write report.md and report.html of a run again from what its folder holds
    Report(report::Args),
    /// Write the README's results table from the reports under docs/results/
    Table(table::Args),
    /// Run every test of the workspace
    Test(test::Args),
    /// Pack the programs and recipes into one archive for a machine without Rust and without a network
    ///
    /// Its launcher takes the libtorch of LIBTORCH, or of the torch package of the python3 that is there.
    Dist(dist::Args),
    /// Everything that must hold before a change is merged
    Ci(ci::Args),
}

fn main() -> ExitCode {
    let workspace = Workspace::locate();
    let command = Cli::command().bin_name(workspace.xtask());
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    match run(&cli.task, &workspace).and_then(|()| all_written()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code as u8)
        }
    }
}

/// Fails where standard output did not take everything.
fn all_written() -> Outcome {
    let failed = |error| Err(Failure::report(format!("cannot write to standard output: {error}")));
    empssl_report::print::failure().map_or(Ok(()), failed)
}

fn run(task: &Task, workspace: &Workspace) -> Outcome {
    match task {
        Task::Reproduce(args) => reproduce::run(args, workspace),
        Task::Report(args) => report::run(args),
        _ if workspace.bundle().is_some() => {
            let message =
                "this is a bundle of programs, which can `reproduce` and `report`; other tasks need the checkout";
            Err(Failure::usage(message))
        }
        Task::Setup(args) => setup::run(args, workspace),
        Task::Table(args) => table::run(args, workspace),
        Task::Test(args) => test::run(args, workspace),
        Task::Dist(args) => dist::run(args, workspace),
        Task::Ci(args) => ci::run(args, workspace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_every_task_and_every_exit_code() {
        let help = Cli::command().render_help().to_string();
        for word in ["setup", "reproduce", "report", "table", "test", "dist", "ci", "Exit codes", "130  interrupted"] {
            assert!(help.contains(word), "`{word}` is missing from:\n{help}");
        }
        use failure::Code::*;
        for code in [Check, Usage, Setup, Child, Report, Interrupted] {
            assert!(
                EXIT_CODES.contains(&format!("\n  {:<4} ", code as u8)),
                "exit code {} is undocumented",
                code as u8
            );
        }
    }
}
