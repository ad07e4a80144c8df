//! `cargo xtask test`: the README's test command.

use std::process::Command;

use crate::failure::{Code, Outcome};
use crate::workspace::{self, Workspace};
use crate::{process, setup};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on to `cargo test --workspace`, after `--`
    #[arg(last = true, value_name = "ARGS")]
    rest: Vec<String>,
}

/// Runs the task.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Outcome {
    setup::ensure(workspace)?;
    let mut cargo = Command::new(workspace::cargo());
    cargo.args(["test", "--workspace"]).args(&args.rest).current_dir(workspace.root());
    process::run(&mut cargo, Code::Check)
}
