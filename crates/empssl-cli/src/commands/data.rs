//! `empssl data`: what a data set holds, and what the network sees of it.

use empssl_data::rng::shuffled;
use empssl_data::{DataError, Dataset, PatchConfig, PatchSampler, Split, picture};

use crate::args::{DataArgs, DataCommand};
use crate::commands::{ImageSource, NO_EPOCH, say};
use crate::config::RunConfig;
use crate::error::CliError;

/// Images and patches of a picture.
const ROWS: usize = 8;
const PATCHES: u32 = 8;

pub(crate) fn run(args: &DataArgs) -> Result<(), CliError> {
    match &args.command {
        DataCommand::Info { name, images } => info(&ImageSource::new(name, images)),
        DataCommand::Show { name, images, out, recipe, seed } => {
            let patches = match recipe {
                Some(path) => RunConfig::read(path, &[])?.patches,
                None => PatchConfig::cifar32(),
            };
            let sampler = PatchSampler::new(&patches)?;
            let set = ImageSource::new(name, images).open(Split::Train)?;
            draw(&set, &sampler, *seed, out)?;
            say(out.display());
            Ok(())
        }
    }
}

/// Draws a few images of the set, each followed by its patches as the network sees them.
pub(crate) fn draw(set: &Dataset, sampler: &PatchSampler, seed: u64, out: &std::path::Path) -> Result<(), CliError> {
    let mut indices = shuffled(set.len(), seed, NO_EPOCH);
    indices.truncate(ROWS);
    let grid = picture::patch_grid(set, sampler, &indices, PATCHES, seed)?;
    grid.save(out).map_err(|e| CliError::file("cannot write", out, e))
}

fn info(source: &ImageSource) -> Result<(), CliError> {
    for (split, name) in [(Split::Train, "train"), (Split::Test, "test")] {
        let set = match source.open(split) {
            // A folder of images need not be split.
            Err(CliError::Data(DataError::MissingFolder { .. })) if split == Split::Test && source.name == "folder" => {
                say("test: none");
                continue;
            }
            opened => opened?,
        };
        say(format_args!("{name}: {}", set.description()));
        print_counts(&set);
        print_pixels(&set)?;
        for bad in set.skipped() {
            say(format_args!("  left out {}: {}", bad.path.display(), bad.reason));
        }
    }
    Ok(())
}

fn print_counts(set: &Dataset) {
    let expected = set.expected_len().map_or(String::new(), |expected| format!(" of {expected}"));
    say(format_args!("  images   {}{expected}", set.len()));
    let Some(labels) = set.labels() else {
        say("  labels   none");
        return;
    };
    let mut counts = vec![0usize; set.class_names().len()];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    say(format_args!("  classes  {}", set.class_names().len()));
    for (name, count) in set.class_names().iter().zip(counts) {
        say(format_args!("    {name:<24} {count}"));
    }
}

/// Sizes, and mean and deviation of each channel as fractions of full brightness.
fn print_pixels(set: &Dataset) -> Result<(), CliError> {
    let (mut sums, mut squares, mut pixels) = ([0u64; 3], [0u64; 3], 0u64);
    let (mut smallest, mut largest) = ((usize::MAX, usize::MAX), (0, 0));
    for index in 0..set.len() {
        let image = set.image(index)?;
        let (height, width, _) = image.dim();
        smallest = (smallest.0.min(height), smallest.1.min(width));
        largest = (largest.0.max(height), largest.1.max(width));
        pixels += (height * width) as u64;
        for (position, &value) in image.iter().enumerate() {
            sums[position % 3] += u64::from(value);
            squares[position % 3] += u64::from(value) * u64::from(value);
        }
    }
    let mean = sums.map(|sum| sum as f64 / pixels as f64 / 255.0);
    let deviation =
        [0, 1, 2].map(|c| (squares[c] as f64 / pixels as f64 / 65025.0 - mean[c] * mean[c]).max(0.0).sqrt());
    say(format_args!("  sides    {}x{} to {}x{} (height x width)", smallest.0, smallest.1, largest.0, largest.1));
    say(format_args!("  mean     {:.4} {:.4} {:.4}", mean[0], mean[1], mean[2]));
    say(format_args!("  std      {:.4} {:.4} {:.4}", deviation[0], deviation[1], deviation[2]));
    Ok(())
}
