//! `empssl completions`

use clap::CommandFactory;

use crate::args::{Args, CompletionsArgs};
use crate::error::CliError;
use crate::print::output;

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "empssl", &mut script);
    output(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
