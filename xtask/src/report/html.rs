//! report.html: one self-contained page, light and dark, for a desk and for a phone.

use super::chart::{Chart, Line, Scale};
use super::cost;
use super::model::{Bar, Encoder, ProbePoint, Published, Report, Row, Step};
use super::{Page, base64, monitor, text};

const STYLE: &str = include_str!("style.css");

/// Forbids whatever the page does not need, requests to anywhere above all.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

pub(crate) fn render(page: &Page) -> String {
    let report = &page.report;
    let title = escape(&report.title);
    let warnings: String = text::warnings(report)
        .iter()
        .map(|warning| format!("<p class=\"warning\" role=\"note\">{}</p>\n", escape(warning)))
        .collect();
    let sections = [
        section("Accuracy", accuracy(page)),
        section("What the run had to show", bars(&report.bars)),
        section("Accuracy against test cost", cost::html(report)),
        section("Curves", charts(page)),
        section("Test images by their features", page.scatter.as_deref().map(scatter).unwrap_or_default()),
        section("Patches as the network sees them", page.patches.as_deref().map(patches).unwrap_or_default()),
        section("How it was made", facts(report)),
        section("Images left out", skipped(report)),
        section("Not shown", list(&page.gaps())),
        section("The recipe", recipe(report)),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{warnings}\
         <p class=\"verdict\">{}</p>\n{}</main>\n</body>\n</html>\n",
        escape(&text::verdict(report)),
        sections.concat()
    )
}

/// Makes text safe inside an element and inside a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// A section, or nothing where there is nothing to say.
fn section(title: &str, body: String) -> String {
    if body.is_empty() { String::new() } else { format!("<section>\n<h2>{title}</h2>\n{body}\n</section>\n") }
}

fn accuracy(page: &Page) -> String {
    let mut before = None;
    let mut measured = String::new();
    for row in page.rows() {
        let first = before.replace(row.probe).is_some_and(|probe| probe != row.probe);
        measured += &measured_row(row, first);
    }
    let mut published = String::new();
    for (at, row) in page.report.comparable().iter().enumerate() {
        published += &published_row(row, at == 0);
    }
    let heads = [
        "Encoder",
        "Probe",
        "Top-1",
        "Top-5",
        text::CHOSEN_ON_TEST,
        "Labelled images",
        "Scored images",
        "Time",
        "Peak memory",
    ];
    let heads: String = heads.iter().enumerate().map(|(i, head)| format!("<th{}>{head}</th>", class(i))).collect();
    format!(
        "<table class=\"rows\">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{measured}{published}</tbody>\n</table>\n\
         <p class=\"note\">{}</p>",
        text::TABLE_NOTE
    )
}

/// Figures stand to the right, words and the drawn accuracy to the left.
fn class(column: usize) -> &'static str {
    if (3..=7).contains(&column) { " class=\"num\"" } else { "" }
}

fn measured_row(row: &Row, first: bool) -> String {
    let colour = colour(row.encoder);
    let setting =
        row.setting.as_deref().map(|setting| format!("<small>{}</small>", escape(setting))).unwrap_or_default();
    let cells = [
        format!("<td><span class=\"dot {colour}\"></span>{}</td>", row.encoder.label()),
        format!("<td>{}{setting}</td>", row.probe.label()),
        drawn(row.top1, colour, &text::top1(row)),
        cell("top-5", &row.top5.map_or(String::new(), text::percent)),
        cell(text::CHOSEN_ON_TEST, &row.chosen_on_test.map_or(String::new(), text::percent)),
        cell("labelled images", &text::count(row.n_train)),
        cell("scored images", &text::scored(row)),
        cell("time", &row.seconds.map_or(String::new(), text::duration)),
        format!("<td data-name=\"peak memory\">{}</td>", row.peak_bytes.map_or(String::new(), text::peak)),
    ];
    let class = if first { " class=\"first\"" } else { "" };
    format!("<tr{class}>{}</tr>\n", cells.concat())
}

fn published_row(row: &Published, first: bool) -> String {
    let class = if first { "published first" } else { "published" };
    let words = format!("<td>Published, not measured here</td><td>{}</td>", row.probe.label());
    let source = escape(&text::source(row));
    format!(
        "<tr class=\"{class}\">{words}{}<td colspan=\"6\"><small>{source}</small></td></tr>\n",
        drawn(row.top1, "", &text::percent(row.top1))
    )
}

/// An accuracy with a line as long as it is high.
fn drawn(top1: f64, colour: &str, words: &str) -> String {
    let width = top1.clamp(0.0, 100.0);
    format!("<td class=\"top1\"><b>{words}</b><i class=\"{colour}\" style=\"width:{width:.1}%\"></i></td>")
}

fn cell(name: &str, value: &str) -> String {
    format!("<td class=\"num\" data-name=\"{name}\">{value}</td>")
}

/// The class of the style sheet that an encoder's colour hangs on.
fn colour(encoder: Encoder) -> &'static str {
    match encoder {
        Encoder::Trained => "trained",
        Encoder::Untrained => "untrained",
        Encoder::Pixels => "pixels",
    }
}

fn bars(bars: &[Bar]) -> String {
    let items: String = bars.iter().map(bar).collect();
    if items.is_empty() { items } else { format!("<ul class=\"bars\">\n{items}</ul>") }
}

fn bar(bar: &Bar) -> String {
    let (class, word) = if bar.holds { ("met", "\u{2713} met") } else { ("missed", "\u{2717} not met") };
    let (what, measured) = (escape(&bar.what), bar.found());
    format!(
        "<li class=\"{class}\"><b>{word}</b><span>{what}: {measured} <small>({})</small></span></li>\n",
        bar.bound()
    )
}

fn charts(page: &Page) -> String {
    let steps = page.steps.as_deref().unwrap_or_default();
    let by_step = |title, y_label, value: fn(&Step) -> f64| {
        let points = steps.iter().map(|step| (step.step, value(step))).collect();
        let line = Line { class: "trained", points };
        let (x_label, x_scale, lines) = ("training step", Scale::Even, vec![line]);
        figure(&Chart { title, x_label, y_label, x_scale, lines }, "")
    };
    let figures = [
        by_step("Loss", "total loss", |step| step.loss),
        by_step("Invariance", "minus mean cosine similarity", |step| step.invariance),
        by_step("Coding rate", "mean total coding rate R", |step| step.coding_rate),
        by_step("Learning rate", "learning rate", |step| step.lr),
        monitored(page),
        probe_chart(&page.report.probe_curve),
    ];
    let figures: String = figures.into_iter().flatten().collect();
    if figures.is_empty() { figures } else { format!("<div class=\"charts\">\n{figures}</div>") }
}

fn monitored(page: &Page) -> Option<String> {
    let steps = page.steps.as_deref()?;
    let note = monitor::note(steps, page.report.seconds.train)?;
    figure(&monitor::chart(steps), &format!("<p class=\"note\">{}</p>", escape(&note)))
}

fn probe_chart(points: &[ProbePoint]) -> Option<String> {
    let shown: Vec<_> = Encoder::ALL.into_iter().filter(|e| points.iter().any(|point| point.encoder == *e)).collect();
    let line = |encoder: Encoder| Line {
        class: colour(encoder),
        points: points.iter().filter(|p| p.encoder == encoder).map(|p| (p.epoch, p.test_top1)).collect(),
    };
    let lines = shown.iter().map(|&encoder| line(encoder)).collect();
    let legend: String = shown
        .iter()
        .map(|&encoder| format!("<span><span class=\"dot {}\"></span>{}</span>", colour(encoder), encoder.label()))
        .collect();
    let chart = Chart {
        title: "Accuracy of the linear probe",
        x_label: "epoch of the probe on frozen features",
        y_label: "test top-1, percent",
        x_scale: Scale::Even,
        lines,
    };
    figure(&chart, &format!("<p class=\"legend\">{legend}</p>"))
}

/// A chart in a frame, or nothing where it would be empty.
pub(super) fn figure(chart: &Chart<'_>, legend: &str) -> Option<String> {
    Some(format!("<figure><h3>{}</h3>{legend}{}</figure>\n", chart.title, chart.svg()?))
}

pub(crate) fn patches(png: &[u8]) -> String {
    format!(
        "<figure><img class=\"patches\" alt=\"Images, each followed by its patches\" src=\"data:image/png;base64,{}\">\
         <figcaption>Each row: an image as it is, then patches of it.</figcaption></figure>",
        base64::encode(png)
    )
}

/// As an image, within which nothing is markup of this page.
fn scatter(svg: &[u8]) -> String {
    format!(
        "<figure><img class=\"scatter\" alt=\"Test images as points, coloured by class\" \
         src=\"data:image/svg+xml;base64,{}\">\
         <figcaption>Images near each other have features that are alike; distances between groups say little.\
         </figcaption></figure>",
        base64::encode(svg)
    )
}

fn facts(report: &Report) -> String {
    let pairs = text::facts(report).into_iter().map(|(name, value)| {
        let value = escape(&value);
        let value = if ["Command", "Commit"].contains(&name) { format!("<code>{value}</code>") } else { value };
        format!("<dt>{name}</dt><dd>{value}</dd>\n")
    });
    format!("<dl>\n{}</dl>", pairs.collect::<String>())
}

fn skipped(report: &Report) -> String {
    let lines: Vec<_> = report.skipped_images.iter().map(|image| format!("{}: {}", image.path, image.reason)).collect();
    list(&lines)
}

fn list(lines: &[impl AsRef<str>]) -> String {
    let items: String = lines.iter().map(|line| format!("<li>{}</li>\n", escape(line.as_ref()))).collect();
    if items.is_empty() { items } else { format!("<ul>\n{items}</ul>") }
}

fn recipe(report: &Report) -> String {
    let text = escape(report.recipe_toml.trim_end());
    format!(
        "<details><summary>{}, with every key resolved</summary>\n<pre>{text}</pre></details>",
        escape(&report.recipe)
    )
}
