//! `cargo xtask test`: the one command that runs every test.

use std::process::Command;

use crate::failure::{Code, Outcome};
use crate::workspace::{self, Workspace};
use crate::{process, setup};

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Passed on to `cargo test --workspace`: names of tests, --release, or `-- --nocapture`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    rest: Vec<String>,
}

/// Runs the task.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Outcome {
    setup::ensure(workspace)?;
    process::run(&mut command(args, workspace), Code::Check)
}

fn command(args: &Args, workspace: &Workspace) -> Command {
    let mut cargo = Command::new(workspace::cargo());
    cargo.args(["test", "--workspace"]).args(&args.rest).current_dir(workspace.root());
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_cargo_as_they_are() {
        let args = Args { rest: ["golden", "--", "--nocapture"].map(str::to_owned).to_vec() };
        let shown = process::shown(&command(&args, &Workspace::locate()));
        assert_eq!(shown, "cargo test --workspace golden -- --nocapture");
    }
}
