//! The `empssl` program: what users type, and what they read back.
//!
//! - [`commands`]: one file per subcommand, none of which uses another;
//! - [`args`]: the command line; [`config`]: a recipe as typed, and the checked run it becomes;
//! - [`images`]: the images that a command works on; [`network`]: a run's network, its trainer and its encoder;
//! - [`run`]: the folder of a run and what is in it; [`report`]: `run.json` and `report.json`;
//! - [`monitor`]: how good the features are becoming; [`progress`]: what is shown of a training, and `metrics.jsonl`;
//! - [`mod@print`]: lines for the user; [`sheet`]: pictures with words on them; [`signals`]: what asks the program to stop;
//! - [`ranks`]: one of several processes that work together; [`machine`]: the device; [`host`]: this process;
//! - [`error`]: every failure and its exit code.
//!
//! **Invariant:** no tensor algebra here: if it multiplies matrices it is in the wrong room.

// The macros panic when their reader is gone; `print` does not.
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod args;
mod commands;
mod config;
mod error;
mod host;
mod images;
mod machine;
mod monitor;
mod network;
mod print;
mod progress;
mod ranks;
mod report;
mod run;
mod sheet;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use empssl_torch::catch;

use crate::args::{Args, Command};
use crate::error::CliError;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(answer) => return answered(&answer),
    };
    if args.command.computes() {
        host::let_threads_sleep();
    }
    // Whatever libtorch throws outside a step, memory that ran out above all, is an error like any other.
    let outcome = catch(|| dispatch(args)).map_err(CliError::from).flatten();
    match outcome.and_then(|()| print::all_written()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ranks::print(&error);
            ranks::end_at_once(error.exit_code());
            ExitCode::from(error.exit_code())
        }
    }
}

/// What the parser of the command line prints instead of a command: help and version, or what was not understood.
fn answered(answer: &clap::Error) -> ExitCode {
    match answer.print() {
        Err(error) if !answer.use_stderr() => {
            let error = CliError::Output(error.to_string());
            ranks::print(&error);
            ExitCode::from(error.exit_code())
        }
        _ => ExitCode::from(answer.exit_code() as u8),
    }
}

fn dispatch(args: Args) -> Result<(), CliError> {
    match args.command {
        Command::Train(args) => commands::train::run(*args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Import(args) => commands::import::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Recipe(args) => commands::recipe::run(&args),
        Command::Runs(args) => commands::runs::run(&args),
        Command::Embed(args) => commands::embed::run(&args),
        Command::Neighbours(args) => commands::neighbours::run(&args),
        Command::Data(args) => commands::data::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Completions(args) => commands::completions::run(&args),
    }
}
