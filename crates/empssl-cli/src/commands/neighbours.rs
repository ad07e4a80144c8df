//! `empssl neighbours`: the training images that are most like an image, as a picture.

use std::slice;

use empssl_data::{Dataset, OnBadImage, Split, open_images};
use empssl_eval::{Neighbour, embed_all, nearest};
use empssl_torch::catch;
use image::{ImageFormat, RgbImage};
use tch::Tensor;

use crate::args::NeighboursArgs;
use crate::config::AUTO;
use crate::error::CliError;
use crate::images::ImageSource;
use crate::images::share;
use crate::network::Encoder;
use crate::print::output;
use crate::progress::Bar;
use crate::sheet::{At, LETTER, Sheet};

/// Pixels between things.
const GAP: u32 = 8;
/// Side of the square that a neighbour is fitted into.
const NEIGHBOUR: u32 = 128;
/// Side of the square of the query: as high as two rows of neighbours.
const QUERY: u32 = 2 * NEIGHBOUR + 2 * LINE + GAP;
/// Neighbours in a row.
const COLUMNS: u32 = 6;
/// Height of a row of neighbours.
const CELL: u32 = NEIGHBOUR + 2 * LINE + GAP;
/// Where the pictures begin below the title, and where neighbours begin beside the query.
const TOP: u32 = GAP + 2 * LINE + GAP;
const LEFT: u32 = 2 * GAP + QUERY;
/// Height of a line of text with the space below it.
const LINE: u32 = LETTER[1] + 3;

pub(crate) fn run(args: &NeighboursArgs) -> Result<(), CliError> {
    if args.image.is_dir() {
        return Err(CliError::file("cannot look for neighbours of", &args.image, "it is a folder; name one image"));
    }
    let encoder = Encoder::open(&args.encode)?;
    let query = open_images(slice::from_ref(&args.image), OnBadImage::Fail)?;
    let set = source(args, &encoder)?.open(Split::Train)?;
    let among = args.among.map_or(encoder.run.config.evaluation.labelled_images, |among| among as usize);
    let chosen = share(set.len(), among, encoder.seed);
    let searched = set.subset(&chosen)?;
    let looked_for = features(&encoder, &query)?;
    let found = nearest(&features(&encoder, &searched)?, &looked_for.get(0), args.count as usize)?;
    let found: Vec<Found> = found.iter().map(|neighbour| Found::new(neighbour, &chosen, &set)).collect();
    let name = args.image.file_name().unwrap_or_default().to_string_lossy();
    let title = format!("{name}, and the nearest of {} training images of {}", chosen.len(), set.name());
    let how = format!("cosine of {:?}, {}", args.encode.features, encoder.view_spec.text()).to_lowercase();
    let picture = draw(&query, &set, &found, [&title, &how])?;
    // Whatever the file is called, it is a PNG file.
    let saved = picture.save_with_format(&args.out, ImageFormat::Png);
    saved.map_err(|error| CliError::file("cannot write", &args.out, error))?;
    for Found { index, cosine, name } in &found {
        output(format_args!("{cosine:.4}  {name}  ({index})"));
    }
    output(args.out.display());
    Ok(())
}

/// The training images: those that were asked for, else those of the run.
fn source(args: &NeighboursArgs, encoder: &Encoder) -> Result<ImageSource, CliError> {
    match (&args.dataset, &encoder.images, &args.images.data) {
        (Some(name), _, _) => ImageSource::new(name, &args.images),
        (None, Some(own), root) => {
            let (root, partial) = (root.clone().or(own.root.clone()), own.partial || args.images.partial);
            Ok(ImageSource { root, partial, ..own.clone() })
        }
        (None, None, Some(_)) => ImageSource::new(AUTO, &args.images),
        (None, None, None) => Err(CliError::Run(format!(
            "{} does not say what images it was trained on; name them with --dataset, --data or both",
            args.encode.checkpoint.display()
        ))),
    }
}

/// The features of all images of a set.
fn features(encoder: &Encoder, set: &Dataset) -> Result<Tensor, CliError> {
    let extractor = |patches: &Tensor| encoder.extract(patches);
    let mut bar = Bar::new("features", set.len() as u64, "images");
    let mut progress = |done| bar.advance(done as u64);
    let rows = catch(|| Ok(embed_all(&extractor, encoder.patches(set)?, &encoder.options(), &mut progress)?));
    bar.finish();
    rows?
}

/// A neighbour as it is shown.
struct Found {
    /// Its number in the whole training set.
    index: usize,
    cosine: f64,
    /// Of its class, or of its file where there are no classes.
    name: String,
}

impl Found {
    fn new(neighbour: &Neighbour, chosen: &[usize], set: &Dataset) -> Self {
        let index = chosen[neighbour.row];
        let class = set.labels().and_then(|labels| set.class_names().get(labels[index] as usize)).cloned();
        let file = || {
            let path = set.path(index).ok().flatten().and_then(|path| path.file_name());
            path.map_or("no name".to_owned(), |name| name.to_string_lossy().into_owned())
        };
        Self { index, cosine: neighbour.cosine, name: class.unwrap_or_else(file) }
    }
}

/// The query on the left, its neighbours in rows beside it, the nearest first.
fn draw(query: &Dataset, set: &Dataset, found: &[Found], text: [&str; 2]) -> Result<RgbImage, CliError> {
    let rows = (found.len() as u32).div_ceil(COLUMNS).max(2);
    let mut sheet = Sheet::new(LEFT + COLUMNS * (NEIGHBOUR + GAP), TOP + rows * CELL);
    let room = COLUMNS * (NEIGHBOUR + GAP) + QUERY;
    for (line, text) in (0..).zip(text) {
        sheet.write(At { x: GAP, y: GAP + line * LINE }, room, text);
    }
    sheet.fit(At { x: GAP, y: TOP }, query.image(0)?.view(), QUERY);
    for (number, Found { index, cosine, name }) in (0..).zip(found) {
        let at = place(number);
        sheet.fit(at, set.image(*index)?.view(), NEIGHBOUR);
        for (line, text) in (0..).zip([format!("{cosine:.3} ({index})"), name.clone()]) {
            sheet.write(At { y: at.y + NEIGHBOUR + 2 + line * LINE, ..at }, NEIGHBOUR, &text);
        }
    }
    Ok(sheet.into_picture())
}

/// Upper left corner of a neighbour.
fn place(number: u32) -> At {
    At { x: LEFT + number % COLUMNS * (NEIGHBOUR + GAP), y: TOP + number / COLUMNS * CELL }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_lie_in_rows_beside_the_query() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.png");
        RgbImage::from_pixel(20, 10, image::Rgb([9, 8, 7])).save(&path).unwrap();
        let query = open_images(&[path], OnBadImage::Fail).unwrap();
        let set = crate::network::tests::synthetic();
        let found = |count: usize| {
            let one = |row| Found::new(&Neighbour { row, cosine: 0.5 }, &[50, 51, 52, 53, 54, 55, 56, 57], &set);
            (0..count).map(one).collect::<Vec<_>>()
        };
        let eight = draw(&query, &set, &found(8), ["title", "how"]).unwrap();
        let width = LEFT + 6 * (NEIGHBOUR + GAP);
        assert_eq!([eight.width(), eight.height()], [width, TOP + 2 * CELL]);
        assert_eq!(draw(&query, &set, &found(1), ["", ""]).unwrap().height(), TOP + 2 * CELL, "room for the query");
        assert_eq!(eight.get_pixel(GAP + 5, TOP + 5).0, [9, 8, 7]);
        assert_eq!(eight.get_pixel(GAP + 5, TOP + QUERY / 2 + 5).0, [255; 3], "proportions are kept");
        // The eighth is the second of the second row; its pixels are four times as large.
        let image = set.image(57).unwrap();
        let at = [LEFT + NEIGHBOUR + GAP, TOP + CELL];
        let expected = [0, 1, 2].map(|channel| image[[20, 9, channel]]);
        assert_eq!(eight.get_pixel(at[0] + 4 * 9 + 1, at[1] + 4 * 20 + 2).0, expected);
        assert_eq!(found(8)[7].index, 57);
        assert_eq!(found(1)[0].name, set.class_names()[set.labels().unwrap()[50] as usize]);
    }
}
