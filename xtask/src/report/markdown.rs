//! report.md: the page in plain Markdown.

use std::fmt::Write;

use super::model::{Bar, Encoder, ProbePoint, Published, Report, Row, Step};
use super::{Page, cost, monitor, text};

/// Lines of the tables that stand for curves, about.
const SAMPLES: usize = 12;

pub(crate) fn render(page: &Page) -> String {
    let report = &page.report;
    let warnings: String =
        text::warnings(report).iter().map(|warning| format!("> **{}**\n>\n", escape(warning))).collect();
    let sections = [
        format!("# {}\n", escape(&report.title)),
        warnings.trim_end_matches(">\n").to_owned(),
        format!("{}\n", escape(&text::verdict(report))),
        section("Accuracy", &accuracy(page)),
        section("What the run had to show", &report.bars.iter().map(bar).collect::<String>()),
        section("Accuracy against test cost", &cost::markdown(report)),
        section("Training", &page.steps.as_deref().map(training).unwrap_or_default()),
        section("Neighbours during training", &monitored(page)),
        section("Linear probe by epoch", &probe_curve(&report.probe_curve)),
        section(
            "Test images by their features",
            if page.scatter.is_some() { "![Test images as points, coloured by class](scatter.svg)\n" } else { "" },
        ),
        section(
            "Patches as the network sees them",
            if page.patches.is_some() {
                "![Each row: an image as it is, then patches of it](patches.png)\n"
            } else {
                ""
            },
        ),
        section("How it was made", &facts(report)),
        section("Images left out", &skipped(report)),
        section("Not shown", &page.gaps().iter().map(|gap| format!("- {gap}\n")).collect::<String>()),
        section("The resolved recipe", &format!("```toml\n{}\n```\n", report.recipe_toml.trim_end())),
    ];
    sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
}

/// A section, or nothing where there is nothing to say.
fn section(title: &str, body: &str) -> String {
    if body.is_empty() { String::new() } else { format!("## {title}\n\n{body}") }
}

fn accuracy(page: &Page) -> String {
    let head = table(&[
        "Encoder",
        "Probe",
        "Top-1",
        "Top-5",
        text::CHOSEN_ON_TEST,
        "Labelled",
        "Scored",
        "Time",
        "Peak memory",
        "Setting",
    ]);
    let measured: String = page.rows().into_iter().map(measured).collect();
    let published: String = page.report.comparable().iter().map(published).collect();
    format!("{head}{measured}{published}\n{}\n", text::TABLE_NOTE)
}

fn measured(row: &Row) -> String {
    line(&[
        row.encoder.label(),
        row.probe.label(),
        &text::top1(row),
        &row.top5.map_or(String::new(), text::percent),
        &row.chosen_on_test.map_or(String::new(), text::percent),
        &text::count(row.n_train),
        &text::scored(row),
        &row.seconds.map_or(String::new(), text::duration),
        &row.peak_bytes.map_or(String::new(), text::peak),
        row.setting.as_deref().unwrap_or_default(),
    ])
}

fn published(row: &Published) -> String {
    line(&[
        "published, not measured here",
        row.probe.label(),
        &text::percent(row.top1),
        "",
        "",
        "",
        "",
        "",
        "",
        &text::source(row),
    ])
}

fn bar(bar: &Bar) -> String {
    let word = if bar.holds { "met" } else { "**not met**" };
    format!("- {word}: {}, {} ({})\n", escape(&bar.what), bar.found(), bar.bound())
}

fn training(steps: &[Step]) -> String {
    let lines: String = text::sampled(steps, SAMPLES)
        .map(|step| {
            let figures = [step.step, step.loss, step.invariance, step.coding_rate, step.lr].map(text::number);
            line(&figures.each_ref().map(String::as_str))
        })
        .collect();
    if lines.is_empty() {
        lines
    } else {
        table(&["Step", "Loss", "Invariance", "Coding rate", "Learning rate"]) + &lines
    }
}

fn monitored(page: &Page) -> String {
    let steps = page.steps.as_deref().unwrap_or_default();
    let Some(note) = monitor::note(steps, page.report.seconds.train) else { return String::new() };
    let rows = monitor::rows(steps);
    let lines: String =
        text::sampled(&rows, SAMPLES).map(|cells| line(&cells.each_ref().map(String::as_str))).collect();
    format!("{note}\n\n{}{lines}", table(&["Step", "kNN top-1", "kNN top-5"]))
}

fn probe_curve(points: &[ProbePoint]) -> String {
    let lines: String = Encoder::ALL
        .iter()
        .flat_map(|&encoder| {
            let own: Vec<_> = points.iter().filter(|point| point.encoder == encoder).collect();
            text::sampled(&own, SAMPLES)
                .map(|point| line(&[encoder.label(), &text::number(point.epoch), &text::percent(point.test_top1)]))
                .collect::<Vec<_>>()
        })
        .collect();
    if lines.is_empty() { lines } else { table(&["Encoder", "Epoch", "Test top-1"]) + &lines }
}

fn facts(report: &Report) -> String {
    let mut table = table(&["", ""]);
    for (name, value) in text::facts(report) {
        table += &line(&[name, &value]);
    }
    table
}

fn skipped(report: &Report) -> String {
    report.skipped_images.iter().map(|image| format!("- `{}`: {}\n", image.path, escape(&image.reason))).collect()
}

pub(crate) fn table(head: &[&str]) -> String {
    format!("{}|{}\n", line(head), " --- |".repeat(head.len()))
}

pub(crate) fn line(cells: &[&str]) -> String {
    cells.iter().fold("|".to_owned(), |mut line, cell| {
        // Writing to a string cannot fail.
        let _ = write!(line, " {} |", escape(cell).replace('|', "\\|").replace('\n', " "));
        line
    }) + "\n"
}

/// Keeps text from being read as markup or HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('*', "\\*").replace('_', "\\_").replace('`', "\\`")
}
