//! What runs and sweeps leave to be read, and its pages.
//!
//! `run.json`, `report.json` of a run and of a sweep, and what `empssl recipe --json` prints, are the types of [`run`],
//! [`report`], [`sweep`] and [`outline`], shared by who writes and who reads them. A [`page::Page`] of sections is rendered as HTML, as Markdown and
//! for the terminal. Nothing here knows how a number came about.

pub mod chart;
pub mod html;
pub mod markdown;
pub mod metrics;
pub mod outline;
pub mod page;
pub mod print;
pub mod report;
pub mod run;
pub mod run_page;
pub mod sweep;
pub mod sweep_page;
pub mod table;
pub mod terminal;
pub mod words;

use std::path::PathBuf;

use report::SCHEMA_VERSION;

/// Why a file cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The run was not evaluated.
    #[error("{run} holds no report.json: `empssl eval {run}` writes it", run = .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("cannot read {path}: {error}", path = .0.display(), error = .1)]
    File(PathBuf, std::io::Error),
    /// It holds something else.
    #[error("{path} is no report: {error}", path = .0.display(), error = .1)]
    Json(PathBuf, serde_json::Error),
    /// Another version of this program wrote it.
    #[error("{path} has schema_version {found}, but this task reads {SCHEMA_VERSION}: evaluate the run again",
        path = .0.display(), found = .1)]
    Version(PathBuf, u32),
}
