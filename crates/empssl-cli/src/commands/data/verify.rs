//! `empssl data verify`

use empssl_data::verify::{Report, Verdict, verify};

use super::watch::Watch;
use crate::error::CliError;
use crate::images::ImageSource;
use crate::print::output;

pub(super) fn run(source: &ImageSource) -> Result<(), CliError> {
    let mut watch = Watch::new()?;
    let report = verify(&source.options(), &mut |progress| watch.see(progress))?;
    drop(watch);
    print(&report);
    match report.faults().count() {
        0 => Ok(()),
        faults => Err(CliError::Faults { name: source.name.clone(), faults, checks: report.checks.len() }),
    }
}

fn print(report: &Report) {
    for check in &report.checks {
        let (mark, words) = match &check.verdict {
            Verdict::Good(words) => ("ok  ", words),
            Verdict::Note(words) => ("note", words),
            Verdict::Bad(words) => ("BAD ", words),
        };
        output(format_args!("{mark}  {}: {words}", check.what));
    }
}
