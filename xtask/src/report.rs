//! `cargo xtask report RUN`: turns what a run folder holds into a page to read.
//!
//! `report.json` says what was measured, `metrics.jsonl` how training went, `patches.png` what the network sees.
//! The page refers to nothing outside itself, so it can be sent to anyone.

mod base64;
pub(crate) mod chart;
mod cost;
pub(crate) mod html;
pub(crate) mod markdown;
pub(crate) mod model;
mod monitor;
mod terminal;
pub(crate) mod text;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use model::Report;
pub(crate) use terminal::terminal;

use crate::failure::{Code, Context, Outcome};
use model::{Row, Step};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the run, as training made it and `empssl eval` completed it
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Outcome {
    let report = render(&args.run)?;
    print!("{}", terminal(&report));
    println!("\nwrote {} and report.md", args.run.join("report.html").display());
    Ok(())
}

/// Writes RUN/report.md and RUN/report.html and returns what they show.
pub(crate) fn render(run: &Path) -> Outcome<Report> {
    let page = Page::read(run)?;
    for (name, text) in [("report.md", markdown::render(&page)), ("report.html", html::render(&page))] {
        let path = run.join(name);
        fs::write(&path, text).at(Code::Report, "write", &path)?;
    }
    Ok(page.report)
}

/// Everything a page shows.
pub(crate) struct Page {
    report: Report,
    steps: Option<Vec<Step>>,
    patches: Option<Vec<u8>>,
    /// Test images by their features, as SVG.
    scatter: Option<Vec<u8>>,
}

impl Page {
    fn read(run: &Path) -> Outcome<Self> {
        let report = Report::read(run)?;
        let file = |name: &str| fs::read(run.join(name)).ok();
        Ok(Self { report, steps: model::steps(run), patches: file("patches.png"), scatter: file("scatter.svg") })
    }

    /// The rows with those of one probe together, the trained encoder first.
    fn rows(&self) -> Vec<&Row> {
        let mut rows: Vec<_> = self.report.rows.iter().collect();
        rows.sort_by_key(|row| (row.probe, row.encoder));
        rows
    }

    /// What could not be shown, in sentences.
    fn gaps(&self) -> Vec<&'static str> {
        let no_steps = match &self.steps {
            None => Some("metrics.jsonl is missing, so there are no curves of the training."),
            Some(steps) if steps.len() < 2 => Some("metrics.jsonl holds fewer than two steps, so there are no curves."),
            Some(_) => None,
        };
        let no_patches = self.patches.is_none().then_some("patches.png is missing, so no patches are shown.");
        let curve = &self.report.probe_curve;
        let no_probe = curve.is_empty().then_some("The report holds no accuracy by epoch of the linear probe.");
        [no_steps, no_patches, no_probe].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests;
