//! `empssl completions`

use std::io;

use clap::CommandFactory;

use crate::args::{Args, CompletionsArgs};
use crate::error::CliError;

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    clap_complete::generate(args.shell, &mut Args::command(), "empssl", &mut io::stdout());
    Ok(())
}
