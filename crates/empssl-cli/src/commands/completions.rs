//! `empssl completions`

use clap::CommandFactory;

use crate::args::{Args, CompletionsArgs};
use crate::commands::say;
use crate::error::CliError;

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "empssl", &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
