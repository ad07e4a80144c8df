//! The page of a run: what people look for stands first, every other score and setting is folded away.

use std::path::Path;
use std::{fs, iter};

use crate::ReadError;
use crate::chart::{Chart, Line, Scale};
use crate::metrics::{Check, Step, steps};
use crate::page::{Block, Page, Picture};
use crate::report::{Bar, Counts, Encoder, FeatureFile, ModelSummary, Probe, Published, Row, RunReport, ScoredOn};
use crate::report::{SkippedImage, TestPoint, View};
use crate::table::{Cell, Column, Table};
use crate::words::{self, amount, count, duration, number, percent};

/// The line under the accuracies that says what its words mean.
const NOTE: &str = "Every row uses the same labelled images and scores the same images, by the last epoch of the probe. Raw \
    pixels are the network's input, x/127.5 \u{2212} 1 of the whole image, at most 64 pixels a side.";

/// The same under every score.
const CHOSEN_NOTE: &str = "The column \u{201c}chosen on test, as the original prints\u{201d} is the probe's best epoch on the \
    test images, which flatters, for comparison alone.";

/// What the curves against cost are about.
const COST_NOTE: &str = "The trained encoder, its features averaged over so many patches of each image, in training and test \
    images alike; random patches are the first of one pass, fixed places a pass of their own. Time is for the features of \
    one test image on this machine.";

/// The vertical axis of accuracies.
pub const TOP1: &str = "test top-1, percent";

/// What a run folder holds for a page.
pub struct RunFiles {
    /// `report.json`.
    pub report: RunReport,
    steps: Option<Vec<Step>>,
    patches: Option<Vec<u8>>,
    scatter: Option<Vec<u8>>,
}

impl RunFiles {
    /// Reads the folder of an evaluated run.
    ///
    /// # Errors
    /// Where `report.json` cannot be read; everything else may be missing.
    pub fn read(run: &Path) -> Result<Self, ReadError> {
        let report = RunReport::read(run)?;
        let file = |name: &str| fs::read(run.join(name)).ok();
        Ok(Self { report, steps: steps(run), patches: file("patches.png"), scatter: file("scatter.svg") })
    }

    /// The page.
    pub fn page(&self) -> Page {
        let report = &self.report;
        let mut page = Page { title: report.title.clone(), warnings: warnings(report), ..Page::default() };
        page.lead = verdict(report);
        let cited = "Published figures are their authors', not measured here.";
        let cited = if comparable(report).is_empty() { "" } else { cited };
        page.section("Accuracy", [Block::Table(accuracy(report)), Block::Note(format!("{NOTE} {cited}"))]);
        page.section("What the run had to show", [Block::Table(bars(report))]);
        let steps = self.steps.as_deref().unwrap_or_default();
        let loss = by_step(steps, "Loss", |step| Some(step.loss));
        page.section("Training", [Block::Charts(vec![loss]), Block::Charts(monitored(report, steps))]);
        page.section("Patches and features", [Block::Pictures(self.pictures())]);
        let note = Block::Note(format!("{NOTE} {CHOSEN_NOTE}"));
        page.folded("Every score", [Block::Table(scores(report)), note]);
        let note = Block::Note(format!("{COST_NOTE} {}", scored_on(report)));
        page.folded(
            "Accuracy against test cost",
            [Block::Charts(costs(report)), Block::Table(cost_table(report)), note],
        );
        page.folded("Terms of the loss and learning rate", [Block::Charts(terms(steps))]);
        page.folded("Linear probe by epoch", [Block::Charts(vec![probe_curve(report)])]);
        page.folded("How it was made", [Block::Table(Table::facts(facts(report)))]);
        page.folded("Images left out", [Block::Table(skipped(report))]);
        page.folded("Not shown", [Block::Table(self.gaps())]);
        page.folded("The recipe, with every key", [Block::Code(report.recipe_toml.clone())]);
        page
    }

    fn pictures(&self) -> Vec<Picture> {
        let patches = self.patches.clone().map(patches);
        let scatter = self.scatter.clone().map(|bytes| Picture {
            file: "scatter.svg",
            media: "image/svg+xml",
            bytes,
            alt: "Test images as points, coloured by class",
            caption:
                "Test images by their features, coloured by class: those near each other are alike to the network; \
                distances between groups say little."
                    .to_owned(),
        });
        patches.into_iter().chain(scatter).collect()
    }

    /// What could not be shown, in sentences.
    fn gaps(&self) -> Table {
        let no_steps = match &self.steps {
            None => Some("metrics.jsonl is missing, so there are no curves of the training."),
            Some(steps) if steps.len() < 2 => Some("metrics.jsonl holds fewer than two steps, so there are no curves."),
            Some(_) => None,
        };
        let no_patches = self.patches.is_none().then_some("patches.png is missing, so no patches are shown.");
        let curve = &self.report.probe_curve;
        let no_probe = curve.is_empty().then_some("The report holds no accuracy by epoch of the linear probe.");
        let gaps = [no_steps, no_patches, no_probe].into_iter().flatten();
        Table::new(&[""], gaps.map(|gap| vec![gap.into()]).collect())
    }
}

/// What a network saw.
pub fn patches(bytes: Vec<u8>) -> Picture {
    let caption = "Each row: an image as it is, then patches of it as the network sees them.".to_owned();
    Picture { file: "patches.png", media: "image/png", bytes, alt: "Images, each followed by its patches", caption }
}

/// The published figures that may stand beside these rows: none beside synthetic images.
fn comparable(report: &RunReport) -> &[Published] {
    if report.synthetic { &[] } else { &report.published }
}

/// Where a published figure is from, and under what terms.
fn source(published: &Published) -> String {
    let parts = [words::epochs(published.epochs), published.source.clone(), published.note.clone()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

/// How many images were scored and which, and of how many where that is not the whole test split.
fn scored_images(report: &RunReport) -> String {
    let (n_test, scored_on) = (report.labelled.n_test, report.scored_on());
    let counts = report.partial_counts.as_ref().filter(|_| scored_on == ScoredOn::Test);
    format!("{} {}", amount(n_test, counts.map_or(n_test, |counts| counts.test.expected)), scored_on.images())
}

/// The same as a sentence.
fn scored_on(report: &RunReport) -> String {
    format!("Top-1 on {}.", scored_images(report))
}

/// By how many threads, and processes where there were several.
pub fn threads(report: &RunReport) -> String {
    match report.processes.train {
        1 => format!("{} threads", report.threads),
        n => format!("{} threads, {n} processes to train", report.threads),
    }
}

/// What the run shows, in one sentence.
fn verdict(report: &RunReport) -> String {
    let Some(trained) = report.row(Encoder::Trained, Probe::Linear) else {
        return "The run has no linear probe of its trained encoder, so it shows nothing yet.".to_owned();
    };
    let versus = |encoder: Encoder, name: &str| {
        let other = report.row(encoder, Probe::Linear)?;
        let points = trained.top1 - other.top1;
        let direction = if points < 0.0 { "below" } else { "above" };
        Some(format!("{:.1} points {direction} the {} of {name}", points.abs(), percent(other.top1)))
    };
    let versus = [versus(Encoder::Untrained, "the same encoder untrained"), versus(Encoder::Pixels, "raw pixels")];
    let compared = versus.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let start = format!(
        "After {} of training on {}, a linear probe of the frozen encoder reaches {} on {}",
        duration(report.seconds.train),
        report.device_name,
        percent(trained.top1),
        scored_images(report)
    );
    if compared.is_empty() { format!("{start}.") } else { format!("{start}: {compared}.") }
}

/// What a reader must know before any figure: synthetic images, a part of a set, images left out.
fn warnings(report: &RunReport) -> Vec<String> {
    let synthetic = report.synthetic.then(|| {
        "Synthetic set: these images are generated by code, so the figures say nothing about real images.".to_owned()
    });
    let transfer = report.transfer.as_ref().map(|transfer| {
        format!("Scored on other images than it learnt from: trained on {}; {}.", transfer.trained_on, transfer.patches)
    });
    let held_out = (report.scored_on() == ScoredOn::HeldOut).then(|| {
        "Scored on held-out training images, to choose settings by: no figure here is of the test images.".to_owned()
    });
    let partial = report.partial_counts.as_ref().map(|counts| {
        let of = |counts: Counts| format!("{} of {}", count(counts.found as u64), count(counts.expected as u64));
        format!(
            "Part of a set: {} training records and {} test records were used, so the figures do not compare with results \
             on all of {}.",
            of(counts.train),
            of(counts.test),
            report.dataset
        )
    });
    let unfinished = (!report.training_finished)
        .then(|| "Training was stopped before its last step: these are the figures of an unfinished run.".to_owned());
    let skipped = match report.skipped_images.len() {
        0 => None,
        1 => Some("One image could not be decoded and was left out.".to_owned()),
        n => Some(format!("{} images could not be decoded and were left out.", count(n as u64))),
    };
    let absent = match &report.labelled.absent_classes[..] {
        [] => None,
        [one] => Some((format!("The class {one} has"), "its")),
        all => Some((format!("{} classes have", count(all.len() as u64)), "their")),
    };
    let absent = absent.map(|(classes, whose)| {
        format!("{classes} no labelled training image, so {whose} test images can hardly be right.")
    });
    [synthetic, transfer, held_out, partial, unfinished, skipped, absent].into_iter().flatten().collect()
}

/// Published figures beside measured ones.
fn accuracy(report: &RunReport) -> Table {
    let heads = ["Probe", "Published", "Trained", "Untrained", "Raw pixels", "Labelled images", "Scored images"];
    let rows = [Probe::Linear, Probe::Knn].into_iter().filter_map(|probe| {
        let trained = report.row(Encoder::Trained, probe)?;
        let [ours, untrained, pixels] =
            Encoder::ALL.map(|encoder| report.row(encoder, probe).map_or(words::NOTHING.into(), top1));
        let cited: Vec<_> = comparable(report).iter().filter(|figure| figure.probe == probe).collect();
        let join =
            |words: fn(&Published) -> String| cited.iter().map(|figure| words(figure)).collect::<Vec<_>>().join("; ");
        let published = Cell::from(join(|figure| percent(figure.top1))).small(join(source));
        let n_train = count(trained.n_train as u64);
        Some(vec![
            probe.label().into(),
            published,
            ours.strong(),
            untrained,
            pixels,
            n_train.into(),
            scored_images(report).into(),
        ])
    });
    Table::new(&heads, rows.collect()).without_empty_columns()
}

/// A measured top-1, with its deviation where it was taken several times.
fn top1(row: &Row) -> Cell {
    let spread = row.top1_deviation.map_or(String::new(), |deviation| format!(" \u{b1} {deviation:.1}"));
    let text = format!("{}{spread}", percent(row.top1));
    Cell { bar: Some(row.top1), class: colour(row.encoder), ..text.into() }
}

/// The class of the style sheet that an encoder's colour hangs on.
fn colour(encoder: Encoder) -> &'static str {
    match encoder {
        Encoder::Trained => "line0",
        Encoder::Untrained => "line1",
        Encoder::Pixels => "line5",
    }
}

fn bars(report: &RunReport) -> Table {
    let row = |bar: &Bar| {
        let verdict = if bar.holds { Cell::from("met").class("met") } else { Cell::from("NOT MET").class("missed") };
        vec![verdict, bar.what.as_str().into(), found(bar).into(), bound(bar).into()]
    };
    Table::new(&["", "Claim", "Measured", "Bound"], report.bars.iter().map(row).collect())
}

fn found(bar: &Bar) -> String {
    bar.measured.map_or("not measured".to_owned(), number)
}

fn bound(bar: &Bar) -> String {
    match (bar.at_least, bar.at_most) {
        (Some(least), _) => format!("at least {}", number(least)),
        (None, Some(most)) => format!("at most {}", number(most)),
        (None, None) => "no bound given".to_owned(),
    }
}

/// The claims that do not hold, with what was found.
pub fn missed(report: &RunReport) -> impl Iterator<Item = String> + '_ {
    report.bars.iter().filter(|bar| !bar.holds).map(|bar| format!("{}: {}, {}", bar.what, found(bar), bound(bar)))
}

/// Every row, those of one probe together.
fn scores(report: &RunReport) -> Table {
    let mut rows: Vec<_> = report.rows.iter().collect();
    rows.sort_by_key(|row| (row.probe, row.encoder));
    let columns: &[Column<'_, &Row>] = &[
        ("Encoder", &|row| Cell::from(row.encoder.label()).class(colour(row.encoder))),
        ("Probe", &|row| row.probe.label().into()),
        ("Top-1", &|row| top1(row)),
        ("Top-5", &|row| percent(row.top5).into()),
        ("Chosen on test, as the original prints", &|row| row.chosen_on_test.map_or(String::new(), percent).into()),
        ("Labelled images", &|row| count(row.n_train as u64).into()),
        ("Scored images", &|_| scored_images(report).into()),
        ("Time", &|row| duration(row.seconds).into()),
        ("Peak memory", &|row| words::peak(row.peak_bytes).into()),
        ("Setting", &|row| row.setting.as_str().into()),
    ];
    Table::of(rows, columns).without_empty_columns()
}

/// A curve over the training.
fn by_step(steps: &[Step], title: &str, value: impl Fn(&Step) -> Option<f64>) -> Chart {
    let points = steps.iter().filter_map(|step| Some((step.step, value(step)?))).collect();
    let line = Line { name: title.to_owned(), class: "line0", points };
    Chart::new(title, "training step", title.to_lowercase(), [line])
}

fn terms(steps: &[Step]) -> Vec<Chart> {
    let names = steps.first().into_iter().flat_map(Step::terms);
    let term = |name: &str| by_step(steps, &capital(&name.replace('_', " ")), |step| step.term(name));
    names.map(term).chain([by_step(steps, "Learning rate", |step| Some(step.lr))]).collect()
}

/// The kNN checks of the training, and what they took of its time; nothing without a check.
fn monitored(report: &RunReport, steps: &[Step]) -> Vec<Chart> {
    let checks: Vec<Check> = steps.iter().filter_map(|step| step.monitor).collect();
    let Some(last) = checks.last() else { return Vec::new() };
    let share = 100.0 * checks.iter().map(|check| check.seconds).sum::<f64>() / report.seconds.train;
    let share =
        if share.is_finite() { format!("{} of the training time", percent(share)) } else { "no time".to_owned() };
    let note = format!(
        "Weighted kNN on {} labelled training images, {} each, every label held out in turn: a sign of how training went, \
         not a test score. {} took {share}.",
        count(last.images.unsigned_abs()),
        if last.patches == 1 { "one patch".to_owned() } else { format!("{} patches", last.patches) },
        if checks.len() == 1 { "One check".to_owned() } else { format!("{} checks", checks.len()) },
    );
    let chart = by_step(steps, "Neighbours during training", |step| Some(step.monitor?.knn_top1));
    vec![Chart { y_label: "kNN top-1, percent".to_owned(), note, ..chart }]
}

fn probe_curve(report: &RunReport) -> Chart {
    let points = |encoder: Encoder| {
        let own = report.probe_curve.iter().filter(move |point| point.encoder == encoder);
        own.map(|point| (point.epoch as f64, point.test_top1)).collect::<Vec<_>>()
    };
    let line =
        |encoder: Encoder| Line { name: encoder.label().to_owned(), class: colour(encoder), points: points(encoder) };
    let x_label = "epoch of the probe on frozen features";
    let chart = Chart::new("Linear probe by epoch", x_label, TOP1, Encoder::ALL.map(line));
    Chart { note: scored_on(report), ..chart }
}

/// What the features of one test image took.
fn milliseconds(report: &RunReport, point: &TestPoint) -> f64 {
    1e3 * point.seconds / report.labelled.n_test as f64
}

/// One row for each view and number of patches.
fn cost_table(report: &RunReport) -> Table {
    let points = &report.test_curve;
    let mut places: Vec<(View, usize)> = points.iter().map(|point| (point.view, point.n_patches)).collect();
    places.sort_unstable();
    places.dedup();
    let rows = places.into_iter().filter_map(|(view, n_patches)| {
        let at = || points.iter().filter(|point| (point.view, point.n_patches) == (view, n_patches));
        let top1 = |probe| at().find(|point| point.probe == probe).map_or(String::new(), |point| percent(point.top1));
        let time = format!("{} ms", number(milliseconds(report, at().next()?)));
        let figures = [count(n_patches as u64), top1(Probe::Linear), top1(Probe::Knn), time];
        Some(iter::once(view.label().into()).chain(figures.map(Cell::from)).collect())
    });
    Table::new(&["View", "Patches", "Linear probe", "Weighted kNN", "Time an image"], rows.collect())
}

/// The accuracies of each probe by patches and by time, one line for each view.
fn costs(report: &RunReport) -> Vec<Chart> {
    let chart = |probe: Probe, by: &str, x_label, x: &dyn Fn(&TestPoint) -> f64| {
        let line = |(view, class): (View, &'static str)| {
            let own = report.test_curve.iter().filter(|point| (point.view, point.probe) == (view, probe));
            let mut points: Vec<(f64, f64)> = own.map(|point| (x(point), point.top1)).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Line { name: view.label().to_owned(), class, points }
        };
        let lines = View::ALL.into_iter().zip(["line0", "line2", "line1", "line5"]).map(line);
        let chart = Chart::new(format!("{}, by {by}", capital(probe.label())), x_label, TOP1, lines);
        Chart { x_scale: Scale::Doubling, ..chart }
    };
    let of = |probe: Probe| {
        let time = "milliseconds for the features of a test image";
        [
            chart(probe, "patches", "patches of an image", &|point| point.n_patches as f64),
            chart(probe, "time", time, &|point| milliseconds(report, point)),
        ]
    };
    [Probe::Linear, Probe::Knn].into_iter().flat_map(of).collect()
}

fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// The machine, the versions, the sizes and the times, as pairs of a name and a value.
fn facts(report: &RunReport) -> Vec<(&'static str, String)> {
    let RunReport { model, labelled, seconds, .. } = report;
    let labelled = amount(labelled.n_train, labelled.n_train_available);
    vec![
        ("Images", report.dataset_description.clone()),
        ("Recipe", format!("{}, seed {}", report.recipe, report.seed)),
        ("Machine", format!("{} ({}), {}", report.device_name, report.device, threads(report))),
        ("Versions", format!("empssl {}, libtorch {}", report.versions.empssl, report.versions.libtorch)),
        ("Commit", report.commit.clone().unwrap_or_else(|| "not known".to_owned())),
        ("Command", report.command.clone()),
        ("Network", format!("{} parameters", count(model.parameters.unsigned_abs()))),
        ("Patches", patch_words(model)),
        ("Training", training_words(model)),
        ("Labelled images", format!("{labelled} training images and {}", scored_images(report))),
        ("Time", format!("{} training, {} evaluation", duration(seconds.train), duration(seconds.evaluate))),
        ("Features", features(&report.features)),
        ("Speed", format!("{} patches/s", number(report.patches_per_s))),
        ("Peak memory", words::peak(report.peak_bytes)),
    ]
}

fn patch_words(model: &ModelSummary) -> String {
    let (n, test) = (count(model.n_patches as u64), count(model.test_patches as u64));
    format!("{side} x {side} pixels, {n} an image in training and {test} in evaluation", side = model.patch_side)
}

/// Its size, and what sets a training apart whose steps went through the network by patches.
fn training_words(model: &ModelSummary) -> String {
    let norms = match model.norm_patches {
        0 => String::new(),
        all if all == model.n_patches => String::new(),
        part => format!("; BatchNorm saw {} patches of an image at once", count(part as u64)),
    };
    format!(
        "{} steps of {} images, {}, {} patches{norms}",
        count(model.steps),
        count(model.batch_size as u64),
        words::epochs(model.epochs),
        count(model.patches_seen)
    )
}

/// What was computed for the scores and what of it is kept.
fn features(files: &[FeatureFile]) -> String {
    let kept = files.iter().filter(|file| file.file.is_some());
    let size = words::bytes(kept.clone().map(|file| file.bytes).sum());
    let kept = format!("{} files of {size} in features/", kept.count());
    match (files.is_empty(), files.iter().filter(|file| file.reused).count()) {
        (true, _) => "not told".to_owned(),
        (false, 0) => kept,
        (false, reused) => format!("{kept}, {reused} of them from an earlier evaluation, whose time is counted"),
    }
}

fn skipped(report: &RunReport) -> Table {
    let row = |image: &SkippedImage| vec![image.path.as_str().into(), image.reason.as_str().into()];
    Table::new(&["Image", "Why"], report.skipped_images.iter().map(row).collect())
}

#[cfg(test)]
mod tests;
