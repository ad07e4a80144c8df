//! `cargo xtask table`: the README's results table, made from the reports under docs/results/, so that nobody types a
//! number.

use std::fs;
use std::path::PathBuf;

use crate::failure::{Code, Context, Failure, Outcome};
use crate::report::model::{Encoder, Probe};
use crate::report::{Report, text};
use crate::workspace::Workspace;

const BEGIN: &str = "<!-- results: begin -->";
const END: &str = "<!-- results: end -->";

/// Where the reports are: a folder for each, with its report.json.
const RESULTS: &str = "docs/results";

/// A row is one report, hence one seed, which is too few to settle anything.
const STATUS: &str = "n = 1, preliminary";

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Fail where the README does not hold the table already, and write nothing
    #[arg(long)]
    pub(crate) check: bool,
}

/// Runs the task.
pub(crate) fn run(args: &Args, workspace: &Workspace) -> Outcome {
    let path = workspace.join("README.md");
    let readme = fs::read_to_string(&path).at(Code::Check, "read", &path)?;
    let wanted = with_table(&readme, &table(&reports(workspace)?))?;
    if wanted == readme {
        println!("README.md holds the table of {RESULTS}/");
        return Ok(());
    }
    if args.check {
        return Err(Failure::check(format!(
            "the table in README.md is not that of {RESULTS}/: run `cargo xtask table`"
        )));
    }
    fs::write(&path, wanted).at(Code::Check, "write", &path)?;
    println!("wrote the table of {RESULTS}/ into README.md");
    Ok(())
}

/// The committed reports with the names of their folders, sorted.
fn reports(workspace: &Workspace) -> Outcome<Vec<(String, Report)>> {
    let root = workspace.join(RESULTS);
    let entries = fs::read_dir(&root).at(Code::Check, "read", &root)?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    let name = |folder: &PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    folders.iter().map(|folder| Ok((name(folder), Report::read(folder)?))).collect()
}

/// The text with the table between its markers.
fn with_table(readme: &str, table: &str) -> Outcome<String> {
    let parts = readme.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) =
        parts.ok_or_else(|| Failure::check(format!("README.md lacks the lines `{BEGIN}` and `{END}`")))?;
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn table(reports: &[(String, Report)]) -> String {
    let mut lines = vec![
        "| data | recipe | linear probe | weighted kNN | training | evaluation | peak memory | machine | status |"
            .to_owned(),
        "|---|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    lines.extend(reports.iter().map(|(name, report)| row(name, report)));
    lines.join("\n") + "\n"
}

fn row(name: &str, report: &Report) -> String {
    let peak = report.peak_bytes.map_or_else(String::new, text::peak);
    let cells = [
        data(report),
        format!("[{}]({RESULTS}/{name}/report.json)", report.recipe),
        scores(report, Probe::Linear),
        scores(report, Probe::Knn),
        text::duration(report.seconds.train),
        text::duration(report.seconds.evaluate),
        peak,
        format!("{}, {} threads", report.device_name, report.threads),
        STATUS.to_owned(),
    ];
    format!("| {} |", cells.join(" | "))
}

/// The set, and how much of it.
fn data(report: &Report) -> String {
    let counts = report.partial_counts.as_ref().and_then(|counts| counts.train.as_ref());
    let form = if report.dataset_description.contains("JPEG") { " (JPEG copy)" } else { "" };
    let amount = counts.map_or(String::new(), |train| {
        format!(", {} of {} training images", text::count(train.found), text::count(train.expected))
    });
    let generated = if report.synthetic { " (generated images)" } else { "" };
    format!("{}{generated}{form}{amount}", report.dataset)
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
        let readme = format!("# title\n\n{BEGIN}\nold\n{END}\n\nrest\n");
        let table = table(&[("a".to_owned(), fixture())]);
        let written = with_table(&readme, &table).unwrap();
        assert!(written.starts_with("# title\n\n") && written.ends_with("\n\nrest\n") && !written.contains("old"));
        assert_eq!(with_table(&written, &table).unwrap(), written);
        assert!(with_table("no markers", &table).unwrap_err().to_string().contains(BEGIN));
    }

    #[test]
    fn a_row_shows_what_was_measured_and_that_one_seed_is_few() {
        let report = fixture();
        let line = row("a", &report);
        let trained = report.row(Encoder::Trained, Probe::Linear).unwrap().top1;
        assert!(line.contains(&format!("**{}** (untrained ", text::percent(trained))), "{line}");
        assert!(line.contains("(docs/results/a/report.json)") && line.contains("n = 1, preliminary"), "{line}");
        assert_eq!(line.matches(" | ").count(), 8);
    }

    #[test]
    fn the_readme_is_checked_against_the_reports() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let results = workspace.join(RESULTS).join("a");
        fs::create_dir_all(&results).unwrap();
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/run/report.json"), results.join("report.json"))
            .unwrap();
        fs::write(workspace.join("README.md"), format!("{BEGIN}\n{END}\n")).unwrap();
        let check = Args { check: true };
        assert_eq!(run(&check, &workspace).unwrap_err().code, Code::Check);
        run(&Args::default(), &workspace).unwrap();
        run(&check, &workspace).unwrap();
    }
}
