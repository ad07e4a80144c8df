//! `cargo xtask table`: the README's table of what was measured and docs/protocol.md's of what was published, made from
//! the reports under docs/results/ and from the recipes, so that nobody types a number.

mod published;

use std::fs;
use std::iter;
use std::path::{Path, PathBuf};

use crate::failure::{Code, Context, Failure, Outcome};
use crate::report::model::{Bar, Encoder, Probe};
use crate::report::{Report, text};
use crate::sweep::measured::{KIND, Row, SCHEMA_VERSION, SweepReport, label_of};
use crate::sweep::words;
use crate::workspace::Workspace;

/// What stands between two lines of a file.
#[derive(Clone, Copy)]
struct Block {
    name: &'static str,
    file: &'static str,
}

/// What was measured.
const MEASURED: Block = Block { name: "results", file: "README.md" };
/// What was published.
const PUBLISHED: Block = Block { name: "published", file: "docs/protocol.md" };

impl Block {
    fn markers(self) -> [String; 2] {
        ["begin", "end"].map(|place| format!("<!-- {}: {place} -->", self.name))
    }

    /// The text with the table between the block's lines.
    fn put(self, text: &str, table: &str) -> Outcome<String> {
        let [begin, end] = self.markers();
        let parts = text.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
        let (before, after) =
            parts.ok_or_else(|| Failure::check(format!("{} lacks the lines `{begin}` and `{end}`", self.file)))?;
        Ok(format!("{before}{begin}\n{table}{end}{after}"))
    }

    /// Writes the table into its file, or with `check` fails where the file does not hold it already.
    fn update(self, workspace: &Workspace, table: &str, check: bool) -> Outcome {
        let path = workspace.join(self.file);
        let text = fs::read_to_string(&path).at(Code::Check, "read", &path)?;
        let wanted = self.put(&text, table)?;
        if wanted == text {
            println!("{} holds the table `{}`", self.file, self.name);
            return Ok(());
        }
        if check {
            let (file, name) = (self.file, self.name);
            let message = format!("the table `{name}` in {file} is not that of {RESULTS}/ and the recipes");
            return Err(Failure::check(format!("{message}: run `cargo xtask table`")));
        }
        fs::write(&path, wanted).at(Code::Check, "write", &path)?;
        println!("wrote the table `{}` into {}", self.name, self.file);
        Ok(())
    }
}

/// Where the reports are: a folder for each, with its report.json.
const RESULTS: &str = "docs/results";

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Fail where README.md and docs/protocol.md do not hold their tables already, and write nothing
    #[arg(long)]
    pub(crate) check: bool,
}

/// Runs the task.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Outcome {
    let reports = reports(workspace)?;
    let measured = |set: &str, recipe: &str| reports.iter().any(|(_, report)| report.is_of(set, recipe));
    MEASURED.update(workspace, &table(&reports), args.check)?;
    PUBLISHED.update(workspace, &published::table(workspace, &measured)?, args.check)
}

/// What lies in a folder of the results.
enum Committed {
    Run(Box<Report>),
    Sweep(SweepReport),
}

impl Committed {
    fn read(folder: &Path) -> Outcome<Self> {
        let path = folder.join("report.json");
        let text = fs::read_to_string(&path).at(Code::Check, "read", &path)?;
        let is_sweep = serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|report| report["kind"] == KIND);
        if !is_sweep {
            return Ok(Self::Run(Box::new(Report::read(folder)?)));
        }
        let wrong = |reason: String| Failure::check(format!("{} is no report of a sweep: {reason}", path.display()));
        let report: SweepReport = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        match report.schema_version {
            SCHEMA_VERSION => Ok(Self::Sweep(report)),
            other => Err(wrong(format!("schema_version is {other}, and this task reads {SCHEMA_VERSION}"))),
        }
    }

    /// Whether it measured this recipe as it is on this set, in any form of it.
    fn is_of(&self, set: &str, recipe: &str) -> bool {
        match self {
            Self::Run(report) => report.dataset == set && report.recipe == recipe,
            Self::Sweep(report) => {
                let is_plain = |row: &&Row| row.n > 0 && row.trained_on.is_none() && row.changes.is_empty();
                let mut plain = report.tables.iter().flat_map(|table| &table.rows).filter(is_plain);
                plain.any(|row| (row.set(), row.recipe.as_str()) == (set, recipe))
            }
        }
    }

    /// The lines of the README's table.
    fn rows(&self, name: &str) -> Vec<String> {
        match self {
            Self::Run(report) => vec![row(name, report)],
            Self::Sweep(report) => {
                let rows = report.tables.iter().flat_map(|table| &table.rows).filter(|row| row.n > 0);
                rows.map(|row| sweep_row(name, row)).collect()
            }
        }
    }
}

/// The committed reports with the names of their folders, sorted.
fn reports(workspace: &Workspace) -> Outcome<Vec<(String, Committed)>> {
    let root = workspace.join(RESULTS);
    let entries = fs::read_dir(&root).at(Code::Check, "read", &root)?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    let name = |folder: &PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    folders.iter().map(|folder| Ok((name(folder), Committed::read(folder)?))).collect()
}

fn table(reports: &[(String, Committed)]) -> String {
    let mut lines = vec![
        "| data | recipe | linear probe | weighted kNN | training | evaluation | peak memory | machine | status |"
            .to_owned(),
        "|---|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    lines.extend(reports.iter().flat_map(|(name, report)| report.rows(name)));
    lines.join("\n") + "\n"
}

fn row(name: &str, report: &Report) -> String {
    let peak = report.peak_bytes.map_or_else(String::new, text::peak);
    let cells = [
        label_of(report),
        format!("[{}]({RESULTS}/{name}/report.json)", report.recipe),
        scores(report, Probe::Linear),
        scores(report, Probe::Knn),
        text::duration(report.seconds.train),
        text::duration(report.seconds.evaluate),
        peak,
        format!("{}, {}", report.device_name, report.threads()),
        status(report),
    ];
    format!("| {} |", cells.join(" | "))
}

/// One seed is too few to settle anything; what the recipe asked for and did not get is said.
fn status(report: &Report) -> String {
    let missed = report.bars.iter().filter_map(Bar::missed).map(|missed| format!("; missed {missed}"));
    iter::once("n = 1, preliminary".to_owned()).chain(missed).collect()
}

/// A row of a sweep, whose published figures go along with the differences.
fn sweep_row(name: &str, row: &Row) -> String {
    let published: Vec<_> = row.published.iter().map(|beside| words::published(beside).0).collect();
    let published = if published.is_empty() { String::new() } else { format!("; published {}", published.join(", ")) };
    let scores = |figure: fn(&Row, Encoder) -> String| {
        let [trained, untrained, pixels] = Encoder::ALL.map(|encoder| figure(row, encoder));
        format!("**{trained}** (untrained {untrained}, pixels {pixels})")
    };
    let cells = [
        words::data(row),
        format!("[{}]({RESULTS}/{name}/report.json), {} epochs", words::recipe(row), words::epochs(row)),
        scores(words::linear) + &published,
        scores(words::knn),
        words::seconds(row.train_seconds.as_ref()),
        words::seconds(row.evaluate_seconds.as_ref()),
        words::memory(row),
        row.machine.clone().unwrap_or_default(),
        row.status(),
    ];
    format!("| {} |", cells.join(" | "))
}

/// Top-1 of the trained encoder, and what it has to beat.
fn scores(report: &Report, probe: Probe) -> String {
    let top1 = |encoder| report.row(encoder, probe).map_or("not measured".to_owned(), |row| text::percent(row.top1));
    let (trained, untrained, pixels) = (top1(Encoder::Trained), top1(Encoder::Untrained), top1(Encoder::Pixels));
    format!("**{trained}** (untrained {untrained}, pixels {pixels})")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn fixture() -> Report {
        Report::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/run")).unwrap()
    }

    #[test]
    fn the_table_replaces_what_stood_between_the_markers_and_settles() {
        let [begin, end] = MEASURED.markers();
        let readme = format!("# title\n\n{begin}\nold\n{end}\n\nrest\n");
        let table = table(&[("a".to_owned(), Committed::Run(Box::new(fixture())))]);
        let written = MEASURED.put(&readme, &table).unwrap();
        assert!(written.starts_with("# title\n\n") && written.ends_with("\n\nrest\n") && !written.contains("old"));
        assert_eq!(MEASURED.put(&written, &table).unwrap(), written);
        assert!(MEASURED.put("no markers", &table).unwrap_err().to_string().contains(&begin));
    }

    #[test]
    fn a_row_shows_what_was_measured_and_that_one_seed_is_few() {
        let report = fixture();
        let line = row("a", &report);
        let trained = report.row(Encoder::Trained, Probe::Linear).unwrap().top1;
        assert!(line.contains(&format!("**{}** (untrained ", text::percent(trained))), "{line}");
        assert!(line.contains("(docs/results/a/report.json)") && line.contains("n = 1, preliminary"), "{line}");
        let bar = |holds| Bar { what: "kNN".into(), measured: Some(6.29), at_least: Some(7.0), at_most: None, holds };
        let with = |holds| {
            let mut report = fixture();
            report.bars = vec![bar(holds)];
            status(&report)
        };
        assert_eq!(with(true), "n = 1, preliminary");
        assert_eq!(with(false), "n = 1, preliminary; missed kNN: 6.3, at least 7");
        assert_eq!(line.matches(" | ").count(), 8);
    }

    #[test]
    fn a_sweep_gives_a_row_for_each_state_that_was_measured() {
        let folder = tempfile::tempdir().unwrap();
        let spread =
            |values: &[f64], mean: f64, std: f64| serde_json::json!({"values": values, "mean": mean, "std": std});
        let row = |n: usize| {
            serde_json::json!({
                "dataset": "cifar10", "trained_on": null, "synthetic": false, "recipe": "one-epoch", "changes": [],
                "epochs": 1.0, "n_patches": 20, "test_patches": 128, "wanted": 3, "n": n,
                "scores": [{"encoder": "trained", "probe": "linear", "top1": spread(&[84.0, 85.0, 86.0], 85.0, 1.0)}],
                "published": [{"probe": "linear", "top1": 85.1, "source": "a paper", "note": null, "difference": -0.1}],
                "train_seconds": spread(&[60.0], 60.0, 0.0), "evaluate_seconds": null, "patches_per_s": null,
                "peak_host": null, "peak_device": null, "train_joules": null, "evaluate_joules": null,
                "machine": "a card, 8 threads"
            })
        };
        let report = serde_json::json!({
            "schema_version": 1, "kind": "sweep", "title": "t", "complete": true, "command": "c", "commit": null,
            "revision": "r", "machines": [], "cells": [],
            "tables": [{"name": "one-epoch", "title": "One epoch", "rows": [row(3), row(0)]}]
        });
        fs::write(folder.path().join("report.json"), report.to_string()).unwrap();
        let lines = Committed::read(folder.path()).unwrap().rows("a");
        assert_eq!(lines.len(), 1, "a row without scores is left out");
        let line = &lines[0];
        for text in ["**85.0 \u{b1} 1.0 %**", "published 85.1 % (\u{2212}0.1)", "| n = 3 |", "| 60 s |", "one-epoch]"] {
            assert!(line.contains(text), "`{text}` is missing from {line}");
        }
        assert_eq!(line.matches(" | ").count(), 8);
        let report_read = Committed::read(folder.path()).unwrap();
        assert!(report_read.is_of("cifar10", "one-epoch"));
        assert!(!report_read.is_of("cifar1", "one-epoch") && !report_read.is_of("cifar10", "quick"));
        let later = report.to_string().replace("\"schema_version\":1", "\"schema_version\":2");
        fs::write(folder.path().join("report.json"), later).unwrap();
        let failure = Committed::read(folder.path()).map(|_| ()).unwrap_err();
        assert!(failure.to_string().contains("schema_version is 2"), "{failure}");
    }

    #[test]
    fn both_files_are_checked_against_the_reports_and_the_recipes() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let results = workspace.join(RESULTS).join("a");
        fs::create_dir_all(&results).unwrap();
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/run/report.json"), results.join("report.json"))
            .unwrap();
        fs::create_dir_all(workspace.join("configs")).unwrap();
        for block in [MEASURED, PUBLISHED] {
            fs::write(workspace.join(block.file), block.markers().join("\n")).unwrap();
        }
        let check = Args { check: true };
        assert_eq!(run(&check, &workspace).unwrap_err().code, Code::Check);
        run(&Args::default(), &workspace).unwrap();
        run(&check, &workspace).unwrap();
        fs::write(workspace.join(PUBLISHED.file), PUBLISHED.markers().join("\n")).unwrap();
        assert!(run(&check, &workspace).unwrap_err().to_string().contains("docs/protocol.md"));
    }
}
