//! `cargo xtask table`: the README's table of what was measured and docs/protocol.md's of what was published, made from
//! the reports under docs/results/ and from the recipes, so that nobody types a number.

use std::fs;
use std::path::{Path, PathBuf};

use empssl_report::markdown;
use empssl_report::report::{Published, RunReport, SCHEMA_VERSION};
use empssl_report::run_page::missed;
use empssl_report::sweep::{KIND, SweepReport, SweepRow};
use empssl_report::sweep_page::summary;
use empssl_report::words;
use serde::Deserialize;

use crate::failure::{Code, Context, Failure, Outcome};
use crate::process;
use crate::reproduce::program::{Profile, Program};
use crate::reproduce::stems;
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

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fail where README.md and docs/protocol.md do not hold their tables already, and write nothing
    #[arg(long)]
    pub(crate) check: bool,
}

/// Runs the task.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Outcome {
    update(args, &Program::provide(Profile::Dev, workspace)?, workspace)
}

fn update(args: &Args, program: &Program, workspace: &Workspace) -> Outcome {
    let reports = reports(workspace)?;
    let measured = |set: &str, recipe: &str| reports.iter().any(|report| report.is_of(set, recipe));
    MEASURED.update(workspace, &table(&reports), args.check)?;
    PUBLISHED.update(workspace, &published(workspace, program, &measured)?, args.check)
}

/// A report under docs/results/: its rows, each with the claims that it missed.
struct Committed {
    name: String,
    rows: Vec<(SweepRow, Vec<String>)>,
}

impl Committed {
    fn read(folder: &Path) -> Outcome<Self> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = folder.join("report.json");
        let text = fs::read_to_string(&path).at(Code::Check, "read", &path)?;
        let is_sweep = serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|report| report["kind"] == KIND);
        if !is_sweep {
            let report = RunReport::read(folder)?;
            return Ok(Self { name, rows: vec![(SweepRow::of_run(&report), missed(&report).collect())] });
        }
        let wrong = |reason: String| Failure::check(format!("{} is no report of a sweep: {reason}", path.display()));
        let report: SweepReport = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if report.schema_version != SCHEMA_VERSION {
            let found = report.schema_version;
            return Err(wrong(format!("schema_version is {found}, and this task reads {SCHEMA_VERSION}")));
        }
        let rows = report.tables.into_iter().flat_map(|table| table.rows).filter(|row| row.n > 0);
        Ok(Self { name, rows: rows.map(|row| (row, Vec::new())).collect() })
    }

    /// Whether it measured this recipe as it is on this set, in any form of it.
    fn is_of(&self, set: &str, recipe: &str) -> bool {
        let is_plain = |row: &SweepRow| row.trained_on.is_none() && row.changes.is_empty();
        self.rows.iter().any(|(row, _)| is_plain(row) && (row.set(), row.recipe.as_str()) == (set, recipe))
    }
}

/// The committed reports, sorted by the names of their folders.
fn reports(workspace: &Workspace) -> Outcome<Vec<Committed>> {
    let root = workspace.join(RESULTS);
    let entries = fs::read_dir(&root).at(Code::Check, "read", &root)?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders.iter().map(|folder| Committed::read(folder)).collect()
}

/// A row for each state that was measured.
fn table(reports: &[Committed]) -> String {
    let rows = reports.iter().flat_map(|report| {
        let to = format!("{RESULTS}/{}/report.json", report.name);
        report.rows.iter().map(move |(row, missed)| (row, to.clone(), missed.as_slice()))
    });
    markdown::table(&summary(rows))
}

/// What of a recipe matters here.
#[derive(Deserialize)]
struct Recipe {
    dataset: String,
    #[serde(default)]
    published: Vec<Published>,
}

/// A line for each recipe that stands for published figures; `measured` says whether a report of this set and recipe is
/// committed. The program resolves each recipe.
fn published(workspace: &Workspace, program: &Program, measured: &dyn Fn(&str, &str) -> bool) -> Outcome<String> {
    let mut lines =
        vec!["| data | recipe | published linear probe | measured here |".to_owned(), "|---|---|---|---|".to_owned()];
    for path in recipes(&workspace.join("configs")) {
        let text = process::output(program.command().arg("recipe").arg(&path))?;
        let wrong = |error: toml::de::Error| Failure::check(format!("{}: {}", path.display(), error.message()));
        let recipe: Recipe = toml::from_str(&text).map_err(wrong)?;
        if recipe.published.is_empty() {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let status = if measured(&recipe.dataset, &name) { "see the README" } else { "not yet: it needs a GPU" };
        let link = format!("[{name}](../configs/{}/{name}.toml)", recipe.dataset);
        lines.push(format!("| {} | {link} | {} | {status} |", recipe.dataset, figures(&recipe.published)));
    }
    Ok(lines.join("\n") + "\n")
}

/// Every recipe of every set, sorted.
fn recipes(configs: &Path) -> Vec<PathBuf> {
    let of_set = |set: String| {
        let folder = configs.join(set);
        stems(&folder, Path::is_file).into_iter().map(move |recipe| folder.join(recipe + ".toml"))
    };
    stems(configs, Path::is_dir).into_iter().flat_map(of_set).filter(|path| path.is_file()).collect()
}

/// The figures by the epochs that they were published for; several of the same epochs are of several sources.
fn figures(published: &[Published]) -> String {
    let mut states: Vec<(f64, Vec<String>)> = Vec::new();
    for figure in published {
        let percent = words::percent(figure.top1);
        match states.iter_mut().find(|(epochs, _)| *epochs == figure.epochs) {
            Some((_, known)) if known.contains(&percent) => {}
            Some((_, known)) => known.push(percent),
            None => states.push((figure.epochs, vec![percent])),
        }
    }
    let state =
        |(epochs, figures): &(f64, Vec<String>)| format!("{} after {}", figures.join(" or "), words::epochs(*epochs));
    states.iter().map(state).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use empssl_report::report::Bar;

    use super::*;

    /// A program for tests that takes recipes as they are.
    fn as_they_are(folder: &Path) -> Program {
        let path = folder.join("empssl");
        process::tests::write_script(&path, "#!/bin/sh\ncat \"$2\"\n");
        Program { path, commit: None, revision: String::new() }
    }

    fn fixture() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/empssl-report/fixtures/run")
    }

    /// The only row of a report that is changed so.
    fn line(change: impl FnOnce(&mut RunReport)) -> String {
        let mut report = RunReport::read(&fixture()).unwrap();
        change(&mut report);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("report.json"), serde_json::to_string(&report).unwrap()).unwrap();
        table(&[Committed::read(folder.path()).unwrap()]).lines().nth(2).unwrap().to_owned()
    }

    #[test]
    fn the_table_replaces_what_stood_between_the_markers_and_settles() {
        let [begin, end] = MEASURED.markers();
        let readme = format!("# title\n\n{begin}\nold\n{end}\n\nrest\n");
        let table = table(&[Committed::read(&fixture()).unwrap()]);
        let written = MEASURED.put(&readme, &table).unwrap();
        assert!(written.starts_with("# title\n\n") && written.ends_with("\n\nrest\n") && !written.contains("old"));
        assert_eq!(MEASURED.put(&written, &table).unwrap(), written);
        assert!(MEASURED.put("no markers", &table).unwrap_err().to_string().contains(&begin));
    }

    #[test]
    fn a_row_shows_what_was_measured_and_that_one_seed_is_few() {
        let shown = line(|_| ());
        assert!(shown.contains("| **51.3 %** (untrained 33.0 %, pixels 27.9 %) |"), "{shown}");
        assert!(shown.contains("/report.json)") && shown.contains("[quick, 6.2 epochs]("), "{shown}");
        let with = |bar: f64| line(|report| report.bars = vec![Bar::at_least("kNN", Some(6.29), bar)]);
        assert!(with(6.0).ends_with("| n = 1, preliminary |"), "{}", with(6.0));
        assert!(with(7.0).ends_with("| n = 1, preliminary; missed kNN: 6.3, at least 7 |"), "{}", with(7.0));
    }

    #[test]
    fn a_row_on_a_part_of_a_split_says_how_many_of_how_many_images() {
        let label = |change: fn(&mut RunReport)| line(change).split(" | ").next().unwrap().to_owned();
        let whole = "| cifar10 (JPEG copy)";
        assert_eq!(label(|_| ()), format!("{whole}, 8,068 of 50,000 training and 2,000 of 10,000 test images"));
        let whole_training = |report: &mut RunReport| report.partial_counts.as_mut().unwrap().train.expected = 8068;
        assert_eq!(label(whole_training), format!("{whole}, 2,000 of 10,000 test images"));
        assert_eq!(label(|report| report.partial_counts = None), whole);
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
        let shown = table(&[Committed::read(folder.path()).unwrap()]);
        assert_eq!(shown.lines().count(), 3, "a row without scores is left out");
        for text in
            ["**85.0 \u{b1} 1.0 %**", "| 85.1 % (\u{2212}0.1) |", "| n = 3 |", "| 60 s |", "[one-epoch, 1 epoch]"]
        {
            assert!(shown.contains(text), "`{text}` is missing from {shown}");
        }
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
        fs::copy(fixture().join("report.json"), results.join("report.json")).unwrap();
        fs::create_dir_all(workspace.join("configs")).unwrap();
        for block in [MEASURED, PUBLISHED] {
            fs::write(workspace.join(block.file), block.markers().join("\n")).unwrap();
        }
        let program = as_they_are(folder.path());
        let run = |check| update(&Args { check }, &program, &workspace);
        assert_eq!(run(true).unwrap_err().code, Code::Check);
        run(false).unwrap();
        run(true).unwrap();
        fs::write(workspace.join(PUBLISHED.file), PUBLISHED.markers().join("\n")).unwrap();
        assert!(run(true).unwrap_err().to_string().contains("docs/protocol.md"));
    }

    #[test]
    fn every_recipe_with_a_figure_has_a_line_with_its_states() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let set = workspace.join("configs/cifar10");
        fs::create_dir_all(&set).unwrap();
        let published = |figures: &[(f64, f64)]| {
            let figure = |(top1, epochs): &(f64, f64)| {
                format!(
                    "[[published]]\nprobe = \"linear\"\ntop1 = {top1:?}\nepochs = {epochs:?}\nsource = \"s\"\nnote = \"\"\n"
                )
            };
            format!("dataset = \"cifar10\"\n{}", figures.iter().map(figure).collect::<String>())
        };
        for (name, text) in [
            ("one.toml", published(&[(85.1, 1.0), (84.2, 1.0), (84.2, 1.0)])),
            ("two.toml", published(&[(80.0, 1.0), (90.5, 10.0)])),
            ("quick.toml", "dataset = \"cifar10\"\n".to_owned()),
            ("notes.md", String::new()),
        ] {
            fs::write(set.join(name), text).unwrap();
        }
        let program = as_they_are(folder.path());
        let table = super::published(&workspace, &program, &|set, recipe| (set, recipe) == ("cifar10", "two")).unwrap();
        let lines: Vec<_> = table.lines().skip(2).collect();
        let link = |name: &str| format!("| cifar10 | [{name}](../configs/cifar10/{name}.toml) |");
        let expected = [
            format!("{} 85.1 % or 84.2 % after 1 epoch | not yet: it needs a GPU |", link("one")),
            format!("{} 80.0 % after 1 epoch, 90.5 % after 10 epochs | see the README |", link("two")),
        ];
        assert_eq!(lines, expected);
        fs::write(set.join("bad.toml"), "dataset = 5\n").unwrap();
        assert!(super::published(&workspace, &program, &|_, _| false).unwrap_err().to_string().contains("bad.toml"));
    }
}
