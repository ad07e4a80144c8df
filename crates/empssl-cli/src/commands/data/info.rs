//! `empssl data info`

use empssl_data::statistics::pixel_statistics;
use empssl_data::{Dataset, Split};

use super::is_missing;
use crate::error::CliError;
use crate::images::ImageSource;
use crate::print::output;

/// Most classes that are listed one by one.
const MAX_LISTED: usize = 20;

pub(super) fn run(source: &ImageSource) -> Result<(), CliError> {
    let splits = Split::ALL.map(|split| (split, source.open(split)));
    if let [(_, Err(error)), (_, Err(other))] = &splits
        && is_missing(error)
        && is_missing(other)
    {
        return Err(splits.into_iter().find_map(|(_, opened)| opened.err()).expect("both failed"));
    }
    for (split, opened) in splits {
        match opened {
            // A part of a set, and a folder of images, need not have both.
            Err(error) if is_missing(&error) => output(format_args!("{split}: none, {error}")),
            opened => print(split, &opened?)?,
        }
    }
    Ok(())
}

fn print(split: Split, set: &Dataset) -> Result<(), CliError> {
    output(format_args!("{split}: {}", set.description()));
    print_counts(set);
    print_pixels(set)?;
    for bad in set.skipped() {
        output(format_args!("  left out {}: {}", bad.path.display(), bad.reason));
    }
    Ok(())
}

fn print_counts(set: &Dataset) {
    let expected = set.expected_len().map_or(String::new(), |expected| format!(" of {expected}"));
    output(format_args!("  images   {}{expected}", set.len()));
    let Some(labels) = set.labels() else {
        output("  labels   none");
        return;
    };
    let mut counts = vec![0usize; set.class_names().len()];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    output(format_args!("  classes  {}, {}", counts.len(), spread(&counts)));
    if counts.len() <= MAX_LISTED {
        set.class_names().iter().zip(counts).for_each(|(name, count)| output(format_args!("    {name:<24} {count}")));
        return;
    }
    let names = set.class_names();
    output(format_args!("    from {} to {}", names[0], names[names.len() - 1]));
    let without: Vec<&str> =
        names.iter().zip(&counts).filter(|&(_, &count)| count == 0).map(|(name, _)| name.as_str()).collect();
    if !without.is_empty() {
        let shown = without[..without.len().min(MAX_LISTED)].join(", ");
        let more = if without.len() > MAX_LISTED { ", ..." } else { "" };
        output(format_args!("    {} without an image: {shown}{more}", without.len()));
    }
}

/// How many images the classes have.
fn spread(counts: &[usize]) -> String {
    let fewest = counts.iter().min().copied().unwrap_or(0);
    let most = counts.iter().max().copied().unwrap_or(0);
    if fewest == most { format!("{most} images each") } else { format!("{fewest} to {most} images each") }
}

/// Sizes, and mean and deviation of each channel as fractions of full brightness.
fn print_pixels(set: &Dataset) -> Result<(), CliError> {
    let found = pixel_statistics(set)?;
    let ([low, narrow], [high, wide]) = (found.smallest, found.largest);
    output(format_args!("  sides    {low}x{narrow} to {high}x{wide} (height x width)"));
    for (what, [red, green, blue]) in [("mean", found.mean), ("std ", found.std)] {
        output(format_args!("  {what}     {red:.4} {green:.4} {blue:.4}"));
    }
    Ok(())
}
