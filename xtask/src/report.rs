//! `cargo xtask report RUN`: turns what a run folder holds into a page to read.
//!
//! The page refers to nothing outside itself, so it can be sent to anyone.

use std::fs;
use std::path::{Path, PathBuf};

use empssl_report::page::Page;
use empssl_report::report::RunReport;
use empssl_report::run_page::RunFiles;
use empssl_report::{ReadError, html, markdown, terminal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Code, Context, Failure, Outcome};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the run, as training made it and `empssl eval` completed it
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Outcome {
    show(&args.run).map(drop)
}

/// Writes RUN/report.md and RUN/report.html, prints what is not folded, and returns what was read.
pub(crate) fn show(run: &Path) -> Outcome<RunReport> {
    let files = RunFiles::read(run)?;
    write_and_show(&files.page(), run)?;
    Ok(files.report)
}

/// Writes RUN/report.md and RUN/report.html.
pub(crate) fn render(run: &Path) -> Outcome {
    write(&RunFiles::read(run)?.page(), run)
}

/// Writes a page into a folder and prints it.
pub(crate) fn write_and_show(page: &Page, folder: &Path) -> Outcome {
    write(page, folder)?;
    let shown = crate::workspace::from_here(folder);
    println!("{}", terminal::render(page));
    println!("report: {}\n        {}", shown.join("report.html").display(), shown.join("report.md").display());
    Ok(())
}

/// Writes a page as report.md and report.html.
pub(crate) fn write(page: &Page, folder: &Path) -> Outcome {
    write_file(&folder.join("report.md"), &markdown::render(page))?;
    write_file(&folder.join("report.html"), &html::render(page))
}

/// Writes a file that is there whole or not at all.
pub(crate) fn write_file(path: &Path, text: &str) -> Outcome {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path)).at(Code::Report, "write", path)
}

/// The same of a value as JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::report(error.to_string()))?;
    write_file(path, &(text + "\n"))
}

/// A file of JSON; nothing where it is not there or holds something else.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::report(error.to_string())
    }
}
