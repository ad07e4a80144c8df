//! `empssl data verify`

use std::path::Path;

use empssl_data::verify::{Report, Verdict, verify};
use empssl_data::{OnBadImage, OpenOptions};

use super::watch::Watch;
use crate::commands::say;
use crate::error::CliError;

pub(super) fn run(name: &str, data: Option<&Path>, partial: bool) -> Result<(), CliError> {
    let root = data.map(Path::to_path_buf);
    let options = OpenOptions { name: name.to_owned(), root, partial, on_bad_image: OnBadImage::Skip };
    let mut watch = Watch::new()?;
    let report = verify(&options, &mut |progress| watch.see(progress))?;
    drop(watch);
    print(&report);
    match report.faults().count() {
        0 => Ok(()),
        faults => Err(CliError::Faults { name: name.to_owned(), faults, checks: report.checks.len() }),
    }
}

fn print(report: &Report) {
    for check in &report.checks {
        let (mark, words) = match &check.verdict {
            Verdict::Good(words) => ("ok  ", words),
            Verdict::Note(words) => ("note", words),
            Verdict::Bad(words) => ("BAD ", words),
        };
        say(format_args!("{mark}  {}: {words}", check.what));
    }
}
