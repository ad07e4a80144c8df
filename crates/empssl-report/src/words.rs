//! Figures in words, the same in every form of a page.

use crate::report::{Counts, PartialCounts, PeakBytes};
use crate::sweep::Spread;

/// What stands where nothing was measured.
pub const NOTHING: &str = "\u{2013}";

/// A figure with as many decimals as its size deserves, and a true minus sign.
pub fn number(value: f64) -> String {
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
pub fn decimals(value: f64, decimals: usize) -> String {
    let digits = format!("{value:.decimals$}");
    let zero = digits.chars().all(|c| "-0.".contains(c));
    grouped(if zero { digits.trim_start_matches('-') } else { &digits }).replace('-', "\u{2212}")
}

/// An accuracy in percent, always with one decimal.
pub fn percent(value: f64) -> String {
    format!("{value:.1} %")
}

/// Mean and deviation of accuracies.
pub fn accuracy(spread: Option<&Spread>) -> String {
    match spread {
        None => NOTHING.to_owned(),
        Some(Spread { mean, std: Some(std), .. }) => format!("{mean:.1} \u{b1} {std:.1} %"),
        Some(Spread { mean, std: None, .. }) => percent(*mean),
    }
}

/// A whole number with its thousands set apart.
pub fn count(value: u64) -> String {
    grouped(&value.to_string())
}

/// So many of so many, where the two differ.
pub fn amount(found: usize, expected: usize) -> String {
    let found = count(found as u64);
    if found == count(expected as u64) { found } else { format!("{found} of {}", count(expected as u64)) }
}

/// So many of a thing whose plural ends in s.
pub fn counted(n: usize, thing: &str) -> String {
    format!("{} {thing}{}", count(n as u64), if n == 1 { "" } else { "s" })
}

/// So many epochs, or a part of one.
pub fn epochs(value: f64) -> String {
    let value_in_words = if value < 0.1 { number(value) } else { decimals(value, usize::from(value.fract() != 0.0)) };
    format!("{value_in_words} epoch{}", if value == 1.0 { "" } else { "s" })
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

/// Seconds as one would say them.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() => "unknown".to_owned(),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min {:02.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s if s < 172_800.0 => format!("{:.0} h {:02.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// Bytes in the unit that leaves at most three digits before the point.
pub fn bytes(value: u64) -> String {
    let (unit, name) = if value >= 1 << 30 { (1u64 << 30, "GiB") } else { (1 << 20, "MiB") };
    let size = value as f64 / unit as f64;
    if unit == 1 << 30 { format!("{size:.2} {name}") } else { format!("{size:.0} {name}") }
}

/// Peak memory in words: the machine's, and the device's where there is one.
pub fn peak(peak: PeakBytes) -> String {
    match (peak.host.map(bytes), peak.device.map(bytes)) {
        (Some(host), Some(device)) => format!("{device} on the device, {host} beside it"),
        (Some(host), None) => host,
        (None, Some(device)) => format!("{device} on the device"),
        (None, None) => NOTHING.to_owned(),
    }
}

/// A set in words: in which form, and how much of each split that is not whole.
pub fn set(name: &str, description: &str, synthetic: bool, counts: Option<&PartialCounts>) -> String {
    let copied = name.starts_with("cifar") && description.contains("JPEG");
    let form = if copied { " (JPEG copy)" } else { "" };
    let generated = if synthetic { " (generated images)" } else { "" };
    let part = |counts: Counts, split: &str| {
        counts.is_part().then(|| format!("{} {split}", amount(counts.found, counts.expected)))
    };
    let parts = counts.map(|counts| [part(counts.train, "training"), part(counts.test, "test")]);
    let parts: Vec<_> = parts.into_iter().flatten().flatten().collect();
    let amount = if parts.is_empty() { String::new() } else { format!(", {} images", parts.join(" and ")) };
    format!("{name}{generated}{form}{amount}")
}

/// About so many of the items, evenly chosen, the last always among them.
pub fn sampled<T>(items: &[T], about: usize) -> impl Iterator<Item = &T> {
    let stride = items.len().div_ceil(about).max(1);
    let last = items.len().saturating_sub(1);
    items.iter().enumerate().filter(move |(i, _)| i % stride == 0 || *i == last).map(|(_, item)| item)
}

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
    fn durations_and_sizes_read_naturally() {
        let said = [0.25, 59.6, 185.0, 7300.0, 250_000.0, f64::NAN].map(duration);
        assert_eq!(said, ["0.2 s", "60 s", "3 min 05 s", "2 h 01 min", "2.9 days", "unknown"]);
        assert_eq!([0, 1, 1200].map(|n| counted(n, "cell")), ["0 cells", "1 cell", "1,200 cells"]);
        assert_eq!([300 << 20, 3 << 29].map(bytes), ["300 MiB", "1.50 GiB"]);
        assert_eq!(peak(PeakBytes::default()), NOTHING);
        assert_eq!(
            peak(PeakBytes { host: Some(1 << 30), device: Some(1 << 20) }),
            "1 MiB on the device, 1.00 GiB beside it"
        );
    }

    #[test]
    fn a_set_says_how_many_of_how_many_images_of_each_split() {
        let counts = |train, test| {
            let [train, test] = [(train, 50_000), (test, 10_000)].map(|(found, expected)| Counts { found, expected });
            PartialCounts { train, test }
        };
        let set = |counts: PartialCounts| set("cifar10", "records", false, Some(&counts));
        assert_eq!(set(counts(8068, 1017)), "cifar10, 8,068 of 50,000 training and 1,017 of 10,000 test images");
        assert_eq!(set(counts(50_000, 1017)), "cifar10, 1,017 of 10,000 test images");
        assert_eq!(set(counts(8068, 10_000)), "cifar10, 8,068 of 50,000 training images");
        assert_eq!(super::set("cifar10", "JPEG tree", false, None), "cifar10 (JPEG copy)");
    }
}
