//! An opened set to a pack, in memory for a few images per thread, and never half under the final name.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use ndarray::ArrayView3;
use rayon::prelude::*;

use super::format::{BLOCK, DATA_START, Frame, Frames, Header, Index, hash, head};
use super::shrink::shrink;
use super::stamp::Stamp;
use super::verify::check_data;
use super::{Encoding, Pack, PackError, PackOptions};
use crate::dataset::fingerprint::Hasher;
use crate::dataset::{Dataset, Split};
use crate::disk;
use crate::error::DataError;
use crate::progress::{Observer, Progress, Stage, tell};

/// Images prepared at once, per thread.
const IMAGES_PER_THREAD: usize = 4;

/// What is in a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The file.
    pub path: PathBuf,
    /// Images.
    pub n_images: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// Whether every pixel is the source's.
    pub exact: bool,
    /// The short side that larger images were shrunk to, where any was.
    pub short_side: Option<usize>,
    /// Whether it was there before and up to date.
    pub was_there: bool,
}

impl Packed {
    pub(super) fn of(pack: &Pack, was_there: bool) -> Self {
        Self {
            path: pack.path.clone(),
            n_images: pack.len(),
            bytes: pack.map.len() as u64,
            exact: pack.header.exact,
            short_side: pack.shrunk_to(),
            was_there,
        }
    }
}

/// Writes `dataset`, which is the `split` of its set, to the pack `path`. A pack that is there already, of the same
/// source and made in the same way, is left as it is if every byte of it is what was written.
///
/// Memory holds the images that are worked on, four per thread, and about 30 bytes for each image
/// of the set; the file has another name until it is complete.
///
/// # Errors
/// When an image cannot be read, a setting cannot work, the disk refuses, or `observer` stops the work.
pub fn write(
    dataset: &Dataset,
    split: Split,
    path: &Path,
    options: &PackOptions,
    observer: &mut Observer<'_>,
) -> Result<Packed, DataError> {
    check(dataset, options)?;
    // Before any image is read: what changes while it is packed is noticed later.
    let stamp = Stamp::of(dataset)?;
    if let Some(packed) = up_to_date(dataset, split, path, options, &stamp, observer)? {
        return Ok(packed);
    }
    let mut file = Unfinished::create(path)?;
    let written = Data::write(dataset, options, &mut file, observer)?;
    let header = Header { stamp, ..header_of(dataset, split, options, &written) };
    let Data { frames, pixels, hashes, .. } = &written;
    let index = Index { header: &header, labels: dataset.labels(), frames, pixels, hashes };
    file.finish(written.bytes, &index.to_bytes())?;
    Ok(Packed::of(&Pack::open(path)?, false))
}

fn check(dataset: &Dataset, options: &PackOptions) -> Result<(), PackError> {
    let setting = |reason: &str| Err(PackError::Setting { reason: reason.to_owned() });
    match options {
        PackOptions { encoding: Encoding::Jpeg { quality: 0 | 101.. }, .. } => {
            setting("the JPEG quality must be from 1 to 100")
        }
        PackOptions { short_side: Some(0), .. } => setting("the short side must be at least 1 pixel"),
        _ if dataset.is_empty() => setting("the set holds no image"),
        _ if dataset.shrunk_to().is_some() => {
            setting("the images come from a pack and were shrunk already; use the source")
        }
        _ => Ok(()),
    }
}

/// The pack that is there, if it is what would be written.
fn up_to_date(
    dataset: &Dataset,
    split: Split,
    path: &Path,
    options: &PackOptions,
    stamp: &Stamp,
    observer: &mut Observer<'_>,
) -> Result<Option<Packed>, DataError> {
    // What cannot be opened is replaced, whatever is wrong with it.
    let Ok(pack) = Pack::open(path) else { return Ok(None) };
    let Header { name, split: its_split, encoding, source, asked_side, .. } = &pack.header;
    let same_set = name == dataset.name() && *its_split == split && *source == dataset.fingerprint();
    let same_way = *encoding == options.encoding && *asked_side == options.short_side.map(|side| side as u64);
    if !(same_set && same_way && pack.header.stamp.totals == stamp.totals) {
        return Ok(None);
    }
    match check_data(&pack, observer) {
        Ok(()) => Ok(Some(Packed::of(&pack, true))),
        Err(DataError::Pack(PackError::Damaged { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

fn header_of(dataset: &Dataset, split: Split, options: &PackOptions, written: &Data) -> Header {
    let about = dataset.about();
    let skipped = dataset.skipped().iter().map(|bad| (bad.path.display().to_string(), bad.reason.clone()));
    let asked_side = options.short_side.map(|side| side as u64);
    Header {
        name: about.name.clone(),
        split,
        // What a pack was made of stays what it was when it is packed anew.
        form: about.made_of.as_ref().unwrap_or(&about.form).clone(),
        expected: about.expected.map(|expected| expected as u64),
        synthetic: about.synthetic,
        source: dataset.fingerprint(),
        exact: written.exact,
        encoding: options.encoding,
        asked_side,
        short_side: asked_side.filter(|_| written.shrunk),
        class_names: about.class_names.clone(),
        skipped: skipped.collect(),
        stamp: Stamp::default(),
        // The places follow from the index when it is read.
        n_images: dataset.len(),
        labels: None,
        frames: Frames::Table(0..0),
        pixels: 0..0,
        data: 0..0,
        hashes: 0..0,
    }
}

/// One image, ready to be appended.
struct Prepared {
    bytes: Vec<u8>,
    height: usize,
    width: usize,
    exact: bool,
    shrunk: bool,
    /// The hash of the source's pixels.
    source: u64,
}

impl Prepared {
    fn new(dataset: &Dataset, index: usize, options: &PackOptions) -> Result<Self, DataError> {
        let image = dataset.image(index)?;
        let small = options.short_side.and_then(|side| shrink(image.view(), side));
        let pixels = small.as_ref().map_or(image.view(), |small| small.view());
        let (height, width, _) = pixels.dim();
        let (bytes, exact) = match options.encoding {
            Encoding::Raw => (pixels.iter().copied().collect(), small.is_none()),
            Encoding::Jpeg { quality } => match dataset.encoded(index)? {
                Some(file) if small.is_none() && file.starts_with(&[0xff, 0xd8]) => (file, true),
                _ => (encode(pixels, quality)?, false),
            },
        };
        let source = pixel_hash(image.view());
        Ok(Self { bytes, height, width, exact, shrunk: small.is_some(), source })
    }
}

/// The hash of an image's size and pixels.
pub(super) fn pixel_hash(image: ArrayView3<'_, u8>) -> u64 {
    let (height, width, _) = image.dim();
    let mut hasher = Hasher::default();
    [height, width].into_iter().for_each(|side| hasher.number(side as u64));
    match image.as_slice() {
        Some(pixels) => hasher.bytes(pixels),
        None => hasher.bytes(&image.iter().copied().collect::<Vec<_>>()),
    }
    hasher.finish()
}

fn encode(pixels: ArrayView3<'_, u8>, quality: u8) -> Result<Vec<u8>, DataError> {
    let (height, width, _) = pixels.dim();
    let pixels: Vec<u8> = pixels.iter().copied().collect();
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    let encoded = encoder.encode(&pixels, width as u32, height as u32, image::ExtendedColorType::Rgb8);
    let reason = |error| format!("an image of {height} x {width} cannot be a JPEG ({error}); pack it raw");
    encoded.map_err(|error| PackError::Setting { reason: reason(error) })?;
    Ok(bytes)
}

/// What has been written of the data.
#[derive(Default)]
struct Data {
    frames: Vec<Frame>,
    /// A hash of the source's pixels per image.
    pixels: Vec<u64>,
    hashes: Vec<u64>,
    bytes: u64,
    /// The block that is being filled.
    block: Vec<u8>,
    exact: bool,
    shrunk: bool,
}

impl Data {
    /// Prepares images on all cores, a stretch at a time, and appends them in their order.
    fn write(
        dataset: &Dataset,
        options: &PackOptions,
        file: &mut Unfinished,
        observer: &mut Observer<'_>,
    ) -> Result<Self, DataError> {
        let mut data = Self { exact: true, ..Self::default() };
        let indices: Vec<usize> = (0..dataset.len()).collect();
        let (what, total) = (format!("{} {}", dataset.name(), dataset.about().split), dataset.len() as u64);
        for stretch in indices.chunks(IMAGES_PER_THREAD * rayon::current_num_threads()) {
            let done = data.frames.len() as u64;
            tell(observer, Progress { stage: Stage::Pack, what: &what, done, total: Some(total) })?;
            let prepare = |&index: &usize| Prepared::new(dataset, index, options);
            let prepared: Vec<Prepared> = stretch.par_iter().map(prepare).collect::<Result<_, _>>()?;
            prepared.iter().try_for_each(|image| data.append(image, file))?;
        }
        data.end_block(file)?;
        tell(observer, Progress { stage: Stage::Pack, what: &what, done: total, total: Some(total) })?;
        Ok(data)
    }

    fn append(&mut self, image: &Prepared, file: &mut Unfinished) -> Result<(), DataError> {
        self.frames.push(Frame { offset: self.bytes, height: image.height as u32, width: image.width as u32 });
        self.pixels.push(image.source);
        self.bytes += image.bytes.len() as u64;
        self.exact &= image.exact;
        self.shrunk |= image.shrunk;
        let mut rest = &image.bytes[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK - self.block.len()));
            self.block.extend(now);
            rest = later;
            if self.block.len() == BLOCK {
                self.end_block(file)?;
            }
        }
        Ok(())
    }

    fn end_block(&mut self, file: &mut Unfinished) -> Result<(), DataError> {
        if !self.block.is_empty() {
            self.hashes.push(hash(&self.block));
            file.write(&self.block)?;
            self.block.clear();
        }
        Ok(())
    }
}

/// A pack under another name; removed unless it is finished.
struct Unfinished {
    file: File,
    /// The name while it is being written.
    path: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl Unfinished {
    fn create(target: &Path) -> Result<Self, DataError> {
        let path = target.with_extension("pack.unfinished");
        let error = |error| PackError::write(&path, error);
        let Some(file) = disk::lock(&path).map_err(error)? else {
            return Err(PackError::Busy { path: target.to_owned() }.into());
        };
        let mut unfinished = Self { file, path: path.clone(), target: target.to_owned(), finished: false };
        // What an interrupted run left is overwritten; the head comes last.
        unfinished.file.set_len(0).map_err(error)?;
        unfinished.write(&[0; DATA_START])?;
        Ok(unfinished)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.file.write_all(bytes).map_err(|error| PackError::write(&self.path, error).into())
    }

    /// Appends the index, writes the head, waits for the disk and gives the file its name.
    fn finish(mut self, data: u64, index: &[u8]) -> Result<(), DataError> {
        self.write(index)?;
        let head = head(data, index);
        let on_disk = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&head));
        let on_disk = on_disk.and_then(|()| self.file.sync_all());
        on_disk
            .and_then(|()| disk::rename(&self.path, &self.target))
            .map_err(|error| PackError::write(&self.path, error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            // Only a file under another name stays behind where this fails.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
