//! Sentences and figures that all forms of the report share.

use super::model::{Counts, Encoder, FeatureFile, Model, PeakBytes, Probe, Published, Report, Row, ScoredOn};

/// A figure with as many decimals as its size deserves, and a true minus sign.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    let decimals = if size.fract() == 0.0 || size >= 1000.0 {
        0
    } else if size >= 1.0 {
        1
    } else {
        3
    };
    self::decimals(value, decimals)
}

/// A figure with so many decimals, thousands set apart and a true minus sign; zero has no sign.
pub(crate) fn decimals(value: f64, decimals: usize) -> String {
    let digits = format!("{value:.decimals$}");
    let zero = digits.chars().all(|c| "-0.".contains(c));
    grouped(if zero { digits.trim_start_matches('-') } else { &digits }).replace('-', "\u{2212}")
}

/// An accuracy in percent, always with one decimal.
pub(crate) fn percent(value: f64) -> String {
    format!("{value:.1} %")
}

/// A whole number with its thousands set apart.
pub(crate) fn count(value: u64) -> String {
    grouped(&value.to_string())
}

fn grouped(digits: &str) -> String {
    let whole = digits.find('.').unwrap_or(digits.len());
    let first = digits.find(|c: char| c.is_ascii_digit()).unwrap_or(0);
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > first && at < whole && (whole - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// About so many of the items, evenly chosen, the last always among them.
pub(crate) fn sampled<T>(items: &[T], about: usize) -> impl Iterator<Item = &T> {
    let stride = items.len().div_ceil(about).max(1);
    let last = items.len().saturating_sub(1);
    items.iter().enumerate().filter(move |(i, _)| i % stride == 0 || *i == last).map(|(_, item)| item)
}

/// So many of a thing whose plural ends in s.
pub(crate) fn counted(n: usize, thing: &str) -> String {
    format!("{} {thing}{}", count(n as u64), if n == 1 { "" } else { "s" })
}

/// Seconds as one would say them.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() => "unknown".to_owned(),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min {:02.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s if s < 172_800.0 => format!("{:.0} h {:02.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// A measured top-1, with its deviation where it was taken several times.
pub(crate) fn top1(row: &Row) -> String {
    let spread = row.top1_deviation.map_or(String::new(), |deviation| format!(" ± {deviation:.1}"));
    format!("{}{spread}", percent(row.top1))
}

/// Bytes in the unit that leaves at most three digits before the point.
pub(crate) fn bytes(value: u64) -> String {
    let (unit, name) = if value >= 1 << 30 { (1u64 << 30, "GiB") } else { (1 << 20, "MiB") };
    let size = value as f64 / unit as f64;
    if unit == 1 << 30 { format!("{size:.2} {name}") } else { format!("{size:.0} {name}") }
}

/// Peak memory in words: the machine's, and the device's where there is one.
pub(crate) fn peak(peak: PeakBytes) -> String {
    match (peak.host.map(bytes), peak.device.map(bytes)) {
        (Some(host), Some(device)) => format!("{device} on the device, {host} beside it"),
        (Some(host), None) => host,
        (None, Some(device)) => format!("{device} on the device"),
        (None, None) => "not measured".to_owned(),
    }
}

/// What the run shows, in one sentence.
pub(crate) fn verdict(report: &Report) -> String {
    let Some(trained) = report.row(Encoder::Trained, Probe::Linear) else {
        return "The run has no linear probe of its trained encoder, so it shows nothing yet.".to_owned();
    };
    let versus = |encoder: Encoder, name: &str| {
        let other = report.row(encoder, Probe::Linear)?;
        Some(format!("{} the {} of {name}", gap(trained.top1 - other.top1), percent(other.top1)))
    };
    let versus = [versus(Encoder::Untrained, "the same encoder untrained"), versus(Encoder::Pixels, "raw pixels")];
    let compared = versus.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let start = format!(
        "After {} of training on {}, a linear probe of the frozen encoder is right on {} of the {} {}",
        duration(report.seconds.train),
        report.device_name,
        percent(trained.top1),
        count(trained.n_test),
        trained.scored_on.images()
    );
    if compared.is_empty() { format!("{start}.") } else { format!("{start}: {compared}.") }
}

fn gap(points: f64) -> String {
    let direction = if points < 0.0 { "below" } else { "above" };
    format!("{:.1} points {direction}", points.abs())
}

/// What a reader must know before any figure: synthetic images, a part of a set, images left out.
pub(crate) fn warnings(report: &Report) -> Vec<String> {
    let synthetic = report.synthetic.then(|| {
        "Synthetic set: these images are generated by code, so the figures say nothing about real images.".to_owned()
    });
    let partial = report.partial.then(|| partial_sentence(report));
    let skipped = match report.skipped_images.len() {
        0 => None,
        1 => Some("One image could not be decoded and was left out.".to_owned()),
        n => Some(format!("{} images could not be decoded and were left out.", count(n as u64))),
    };
    let unfinished = (!report.training_finished)
        .then(|| "Training was stopped before its last step: these are the figures of an unfinished run.".to_owned());
    let absent = match &report.labelled.absent_classes[..] {
        [] => None,
        [one] => {
            Some(format!("The class {one} has no labelled training image, so its test images can hardly be right."))
        }
        all => Some(format!(
            "{} classes have no labelled training image, so their test images can hardly be right.",
            count(all.len() as u64)
        )),
    };
    let transfer = report.transfer.as_ref().map(|transfer| {
        format!("Scored on other images than it learnt from: trained on {}; {}.", transfer.trained_on, transfer.patches)
    });
    let held_out = (report.scored_on() == ScoredOn::HeldOut).then(|| {
        "Scored on held-out training images, to choose settings by: no figure here is of the test images.".to_owned()
    });
    [synthetic, transfer, held_out, partial, unfinished, skipped, absent].into_iter().flatten().collect()
}

fn partial_sentence(report: &Report) -> String {
    let of = |counts: &Option<Counts>, split: &str| {
        counts.as_ref().map(|c| format!("{} of {} {split} records", count(c.found), count(c.expected)))
    };
    let counts = report.partial_counts.as_ref();
    let known: Vec<_> = counts
        .map(|c| [of(&c.train, "training"), of(&c.test, "test")].into_iter().flatten().collect())
        .unwrap_or_default();
    let known = if known.is_empty() { "fewer records than the set has".to_owned() } else { known.join(" and ") };
    format!(
        "Part of a set: {known} were used, so the figures do not compare with results on all of {}.",
        report.dataset
    )
}

/// The machine, the versions, the sizes and the times, as pairs of a name and a value.
pub(crate) fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let model = &report.model;
    let labelled = &report.labelled;
    let subset = match labelled.n_train_available {
        Some(available) => format!("{} of {}", count(labelled.n_train), count(available)),
        None => count(labelled.n_train),
    };
    vec![
        ("Images", report.dataset_description.clone()),
        ("Recipe", format!("{}, seed {}", report.recipe, report.seed)),
        ("Machine", format!("{} ({}), {}", report.device_name, report.device, report.threads())),
        ("Versions", format!("empssl {}, libtorch {}", report.versions.empssl, report.versions.libtorch)),
        ("Commit", report.commit.clone().unwrap_or_else(|| "not known".to_owned())),
        ("Command", report.command.clone()),
        ("Network", format!("{} parameters", count(model.parameters))),
        (
            "Patches",
            format!(
                "{side} x {side} pixels, {} an image in training and {} in evaluation",
                count(model.n_patches),
                count(model.test_patches),
                side = model.patch_side
            ),
        ),
        (
            "Training",
            format!(
                "{} steps of {} images, {}, {} patches{}",
                count(model.steps),
                count(model.batch_size),
                epochs(model.epochs),
                count(model.patches_seen),
                norms(model)
            ),
        ),
        (
            "Labelled images",
            format!("{subset} training images and {} {}", count(labelled.n_test), report.scored_on().images()),
        ),
        (
            "Time",
            format!("{} training, {} evaluation", duration(report.seconds.train), duration(report.seconds.evaluate)),
        ),
        ("Features", features(&report.features)),
        ("Speed", report.patches_per_s.map_or("not measured".to_owned(), |v| format!("{} patches/s", number(v)))),
        ("Peak memory", report.peak_bytes.map_or("not measured".to_owned(), peak)),
    ]
}

/// What was computed for the scores and what of it is kept.
fn features(files: &[FeatureFile]) -> String {
    let kept = files.iter().filter(|file| file.file.is_some());
    let size = bytes(kept.clone().map(|file| file.bytes).sum());
    match (files.is_empty(), files.iter().filter(|file| file.reused).count()) {
        (true, _) => "not told".to_owned(),
        (false, 0) => format!("{} files of {size} in features/", kept.count()),
        (false, reused) => format!(
            "{} files of {size} in features/, {reused} of them from an earlier evaluation, whose time is counted",
            kept.count()
        ),
    }
}

/// What sets a training apart whose steps went through the network by patches.
fn norms(model: &Model) -> String {
    match model.norm_patches {
        Some(at_once) if at_once != model.n_patches => {
            format!("; BatchNorm saw {} patches of an image at once", count(at_once))
        }
        _ => String::new(),
    }
}

fn epochs(value: f64) -> String {
    format!("{} epoch{}", number(value), if value == 1.0 { "" } else { "s" })
}

/// Where a published figure is from, and under what terms.
pub(crate) fn source(published: &Published) -> String {
    let parts = [published.epochs.map(epochs), Some(published.source.clone()), published.note.clone()];
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

/// The line under the table that says what its words mean.
pub(crate) const TABLE_NOTE: &str = "Every row uses the same labelled images and scores the same images. Raw pixels are the \
    network's input, x/127.5 \u{2212} 1 of the whole image, at most 64 pixels a side. The last epoch is what counts; the \
    column \u{201c}chosen on test, as the original prints\u{201d} is the best epoch on the test images, which flatters, for \
    comparison alone.";

/// How many images were scored, and which, where they are not the test images.
pub(crate) fn scored(row: &Row) -> String {
    match row.scored_on {
        ScoredOn::Test => count(row.n_test),
        ScoredOn::HeldOut => format!("{} held out", count(row.n_test)),
    }
}

/// The name of the column of the best epoch on the test images.
pub(crate) const CHOSEN_ON_TEST: &str = "chosen on test, as the original prints";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_grouped() {
        for (value, text) in
            [(0.0, "0"), (0.03, "0.030"), (-0.5, "\u{2212}0.500"), (15.04, "15.0"), (15.0, "15"), (1234.4, "1,234")]
        {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(-1234567.0), "\u{2212}1,234,567");
        assert_eq!([0, 999, 1000, 1234567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn training_by_patches_says_what_batchnorm_saw() {
        let model = |norm_patches| Model {
            parameters: 1,
            patch_side: 32,
            n_patches: 200,
            test_patches: 1,
            norm_patches,
            batch_size: 2,
            steps: 1,
            epochs: 1.0,
            patches_seen: 400,
        };
        assert_eq!([None, Some(200)].map(|at_once| norms(&model(at_once))), [String::new(), String::new()]);
        assert_eq!(norms(&model(Some(20))), "; BatchNorm saw 20 patches of an image at once");
    }

    #[test]
    fn durations_and_sizes_read_naturally() {
        let said = [0.25, 59.6, 185.0, 7300.0, 250_000.0, f64::NAN].map(duration);
        assert_eq!(said, ["0.2 s", "60 s", "3 min 05 s", "2 h 01 min", "2.9 days", "unknown"]);
        assert_eq!([0, 1, 1200].map(|n| counted(n, "cell")), ["0 cells", "1 cell", "1,200 cells"]);
        assert_eq!([300 << 20, 3 << 29].map(bytes), ["300 MiB", "1.50 GiB"]);
        assert_eq!(peak(PeakBytes { host: None, device: None }), "not measured");
        assert_eq!(
            peak(PeakBytes { host: Some(1 << 30), device: Some(1 << 20) }),
            "1 MiB on the device, 1.00 GiB beside it"
        );
    }
}
