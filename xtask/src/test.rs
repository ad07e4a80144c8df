//! `cargo xtask test`: the one command that runs every test.

use std::process::Command;

use crate::failure::{Code, Outcome};
use crate::workspace::{self, Workspace};
use crate::{process, setup};

/// Runs that the long form of the kill test kills.
const KILLS: u32 = 20;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Kill twenty trainings at random moments, inside checkpoint writes too, and compare what their resumed runs end
    /// in with an undisturbed one, byte for byte; the suite itself kills three. EMPSSL_KILL_SEED repeats a choice
    #[arg(long)]
    kill: bool,
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
    match args.kill {
        true => {
            cargo.args(["test", "--workspace", "--test", "it", "kill::"]).args(&args.rest);
            cargo.args(["--", "--nocapture"]).env("EMPSSL_KILLS", KILLS.to_string());
        }
        false => drop(cargo.args(["test", "--workspace"]).args(&args.rest)),
    }
    cargo.current_dir(workspace.root());
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_cargo_as_they_are() {
        assert_eq!(shown(&["golden", "--", "--nocapture"]), "cargo test --workspace golden -- --nocapture");
    }

    #[test]
    fn the_long_form_of_the_kill_test_is_that_test_alone() {
        let kill = "cargo test --workspace --test it kill::";
        assert_eq!(shown(&["--kill"]), format!("{kill} -- --nocapture"));
        assert_eq!(shown(&["--kill", "--release"]), format!("{kill} --release -- --nocapture"));
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// The command that a command line of `cargo xtask test` becomes.
    fn shown(line: &[&str]) -> String {
        let Line { args } = clap::Parser::parse_from([&["test"], line].concat());
        process::shown(&command(&args, &Workspace::locate()))
    }
}
