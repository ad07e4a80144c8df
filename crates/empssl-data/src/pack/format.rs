//! The bytes of a pack, version 2; all numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `\x89EMPSSL\n` |
//! | 8..12 | version |
//! | 12..16 | 0x0a0b0c0d, which tells the order of bytes |
//! | 16..24 | bytes of data, D |
//! | 24..32 | bytes of the index, I |
//! | 32..40 | hash of the index |
//! | 40..48 | hash of bytes 0..40 |
//! | 4096..4096+D | data: the images one after another |
//! | 4096+D..4096+D+I | index |
//!
//! The index holds texts (a length, then UTF-8), flags of one byte and numbers of eight in the order of [`Header`]'s
//! fields; then a label of four bytes per image, a place of sixteen (offset, height, width) per image unless all have
//! one size, a hash of its source's pixels per image, and a hash per block of data.

use std::ops::Range;

use super::Encoding;
use super::stamp::{Mark, Stamp};
use crate::dataset::Split;
use crate::dataset::fingerprint::Hasher;

/// The first bytes of every pack: text tools and transfers that change line ends or drop high bits break them.
const MAGIC: [u8; 8] = *b"\x89EMPSSL\n";
/// The version that is written and read.
pub(crate) const VERSION: u32 = 2;
const BYTE_ORDER: u32 = 0x0a0b_0c0d;
/// Where the data begins: at a page, so that images of whole pages are whole pages of the map.
pub(crate) const DATA_START: usize = 4096;
const HEAD: usize = 48;
/// Data is hashed in blocks of so many bytes.
pub(crate) const BLOCK: usize = 1 << 20;
const FRAME: usize = 16;

/// What a pack says about itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    pub(crate) name: String,
    pub(crate) split: Split,
    /// The form of the source, in words.
    pub(crate) form: String,
    /// The official number of images.
    pub(crate) expected: Option<u64>,
    pub(crate) synthetic: bool,
    /// The source's fingerprint.
    pub(crate) source: u64,
    /// Whether every pixel is the source's.
    pub(crate) exact: bool,
    pub(crate) encoding: Encoding,
    /// The short side that larger images were to be shrunk to: what the recipe needs.
    pub(crate) asked_side: Option<u64>,
    /// The same, if any image was larger.
    pub(crate) short_side: Option<u64>,
    pub(crate) class_names: Vec<String>,
    /// Path and reason of files that the source left out.
    pub(crate) skipped: Vec<(String, String)>,
    /// What the source's files looked like.
    pub(crate) stamp: Stamp,
    pub(crate) n_images: usize,
    /// Where the labels are in the file.
    pub(crate) labels: Option<Range<usize>>,
    pub(crate) frames: Frames,
    /// Where the hashes of the source's pixels are in the file.
    pub(crate) pixels: Range<usize>,
    pub(crate) data: Range<usize>,
    /// Where the hashes of the blocks are in the file.
    pub(crate) hashes: Range<usize>,
}

/// Where the images are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frames {
    /// All have one size and follow each other.
    Equal { height: usize, width: usize },
    /// A table in the file.
    Table(Range<usize>),
}

/// One image of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its first byte, counted from that of the data.
    pub(crate) offset: u64,
    pub(crate) height: u32,
    pub(crate) width: u32,
}

/// Why bytes are not a pack that can be read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Flaw {
    NotAPack,
    Version(u32),
    ForeignEndian,
    Truncated { expected: u64 },
    Damaged(String),
}

fn damaged(what: &str) -> Flaw {
    Flaw::Damaged(what.to_owned())
}

/// The hash of some bytes.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = Hasher::default();
    hasher.bytes(bytes);
    hasher.finish()
}

/// Reads the header of a pack from all its bytes, looking at the head and the index only.
pub(crate) fn parse(file: &[u8]) -> Result<Header, Flaw> {
    let (data, index) = parse_head(file)?;
    parse_index(file, data, index)
}

/// Checks the head; returns where data and index are, which lie within the file.
fn parse_head(file: &[u8]) -> Result<(Range<usize>, Range<usize>), Flaw> {
    if file.get(..MAGIC.len()) != Some(&MAGIC[..]) {
        return Err(Flaw::NotAPack);
    }
    let Some(head) = file.get(..HEAD) else { return Err(Flaw::Truncated { expected: DATA_START as u64 }) };
    let mut rest = Reader { bytes: head, at: MAGIC.len() };
    let (version, order) = (rest.u32()?, rest.u32()?);
    match order {
        BYTE_ORDER => {}
        order if order.swap_bytes() == BYTE_ORDER => return Err(Flaw::ForeignEndian),
        _ => return Err(damaged("its head is not what was written")),
    }
    // The version comes before the hash: what a later one hashes is unknown here.
    if version != VERSION {
        return Err(Flaw::Version(version));
    }
    let [data, index, index_hash, head_hash] = [rest.u64()?, rest.u64()?, rest.u64()?, rest.u64()?];
    if hash(&head[..HEAD - 8]) != head_hash {
        return Err(damaged("its head is not what was written"));
    }
    let expected = data.checked_add(index).and_then(|sum| sum.checked_add(DATA_START as u64));
    let expected = expected.ok_or_else(|| damaged("its head names impossible sizes"))?;
    if file.len() as u64 != expected {
        return Err(Flaw::Truncated { expected });
    }
    let end = DATA_START + data as usize;
    if hash(&file[end..]) != index_hash {
        return Err(damaged("its index is not what was written"));
    }
    Ok((DATA_START..end, end..file.len()))
}

fn parse_index(file: &[u8], data: Range<usize>, index: Range<usize>) -> Result<Header, Flaw> {
    let mut rest = Reader { bytes: file, at: index.start };
    let (name, split, form) = (rest.text()?, rest.split()?, rest.text()?);
    let (expected, synthetic, source, exact) = (rest.option()?, rest.flag()?, rest.u64()?, rest.flag()?);
    let (encoding, asked_side, short_side) = (rest.encoding()?, rest.option()?, rest.option()?);
    let class_names = rest.list(Reader::text)?;
    let skipped = rest.list(|rest| Ok((rest.text()?, rest.text()?)))?;
    let stamp = rest.stamp()?;
    let n_images = rest.count()?;
    let labels = if rest.flag()? { Some(rest.range(n_images, 4)?) } else { None };
    let frames = match rest.option()? {
        Some(height) => Frames::Equal { height: to_usize(height)?, width: rest.count()? },
        None => Frames::Table(rest.range(n_images, FRAME)?),
    };
    let pixels = rest.range(n_images, 8)?;
    let hashes = rest.range(data.len().div_ceil(BLOCK), 8)?;
    if rest.at != file.len() {
        return Err(damaged("its index is longer than its parts"));
    }
    let header = Header {
        name,
        split,
        form,
        expected,
        synthetic,
        source,
        exact,
        encoding,
        asked_side,
        short_side,
        class_names,
        skipped,
        stamp,
        n_images,
        labels,
        frames,
        pixels,
        data,
        hashes,
    };
    header.check(file)
}

impl Header {
    /// What the parts say about each other.
    fn check(self, file: &[u8]) -> Result<Self, Flaw> {
        if self.n_images == 0 {
            return Err(damaged("it holds no image"));
        }
        if self.n_images > self.data.len() {
            return Err(damaged("it names more images than it has bytes of data"));
        }
        if let Frames::Equal { height, width } = self.frames {
            if height == 0 || width == 0 {
                return Err(damaged("its images have no pixels"));
            }
            let bytes = [width, 3, self.n_images].iter().try_fold(height, |product, &n| product.checked_mul(n));
            if bytes != Some(self.data.len()) || self.encoding != Encoding::Raw {
                return Err(damaged("its images do not fill its data"));
            }
        }
        if self.labels(file).is_some_and(|labels| labels.iter().any(|&l| l as usize >= self.class_names.len())) {
            return Err(damaged("a label has no class"));
        }
        Ok(self)
    }

    /// The labels, read from the file that this is the header of.
    pub(crate) fn labels(&self, file: &[u8]) -> Option<Vec<u32>> {
        let bytes = &file[self.labels.clone()?];
        Some(bytes.as_chunks().0.iter().map(|&label| u32::from_le_bytes(label)).collect())
    }

    /// The hash of block `block` of the data, which must exist.
    pub(crate) fn block_hash(&self, file: &[u8], block: usize) -> u64 {
        number_at(&file[self.hashes.clone()], block)
    }

    /// The hash of the pixels that the source had for image `row`, which must exist.
    pub(crate) fn source_hash(&self, file: &[u8], row: usize) -> u64 {
        number_at(&file[self.pixels.clone()], row)
    }

    /// The size of image `row`, and where its bytes are in the data; `None` where the table says nonsense.
    pub(crate) fn image(&self, file: &[u8], row: usize) -> Option<(usize, usize, Range<usize>)> {
        let within = |range: Range<usize>| (range.start <= range.end && range.end <= self.data.len()).then_some(range);
        match &self.frames {
            Frames::Equal { height, width } => {
                let bytes = height * width * 3;
                Some((*height, *width, within(row * bytes..(row + 1) * bytes)?))
            }
            Frames::Table(table) => {
                let table = &file[table.clone()];
                let frame = Frame::read(table, row)?;
                let start = usize::try_from(frame.offset).ok()?;
                let end = match Frame::read(table, row + 1) {
                    Some(next) => usize::try_from(next.offset).ok()?,
                    None => self.data.len(),
                };
                let (height, width) = (frame.height as usize, frame.width as usize);
                let bytes = within(start..end)?;
                let raw_bytes = height.checked_mul(width)?.checked_mul(3)?;
                let good = height > 0 && width > 0 && (self.encoding != Encoding::Raw || bytes.len() == raw_bytes);
                good.then_some((height, width, bytes))
            }
        }
    }
}

/// Number `place` of a list of numbers of eight bytes.
fn number_at(list: &[u8], place: usize) -> u64 {
    u64::from_le_bytes(list.as_chunks().0[place])
}

impl Frame {
    fn read(table: &[u8], row: usize) -> Option<Self> {
        let mut rest = Reader { bytes: table.get(row * FRAME..(row + 1) * FRAME)?, at: 0 };
        Some(Self { offset: rest.u64().ok()?, height: rest.u32().ok()?, width: rest.u32().ok()? })
    }
}

/// What a writer knows when all data is written.
pub(crate) struct Index<'a> {
    /// Everything but the places.
    pub(crate) header: &'a Header,
    pub(crate) labels: Option<&'a [u32]>,
    pub(crate) frames: &'a [Frame],
    pub(crate) pixels: &'a [u64],
    pub(crate) hashes: &'a [u64],
}

impl Index<'_> {
    /// The bytes of the index.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let Header { name, split, form, expected, synthetic, source, exact, encoding, .. } = self.header;
        let mut out = Writer::default();
        out.text(name);
        out.flag(*split == Split::Test);
        out.text(form);
        out.option(*expected);
        out.flag(*synthetic);
        out.u64(*source);
        out.flag(*exact);
        out.option(match encoding {
            Encoding::Raw => None,
            Encoding::Jpeg { quality } => Some(u64::from(*quality)),
        });
        out.option(self.header.asked_side);
        out.option(self.header.short_side);
        out.u64(self.header.class_names.len() as u64);
        self.header.class_names.iter().for_each(|name| out.text(name));
        out.u64(self.header.skipped.len() as u64);
        self.header.skipped.iter().flat_map(|(path, reason)| [path, reason]).for_each(|text| out.text(text));
        out.stamp(&self.header.stamp);
        out.u64(self.frames.len() as u64);
        out.flag(self.labels.is_some());
        self.labels.iter().flat_map(|labels| labels.iter()).for_each(|label| out.0.extend(label.to_le_bytes()));
        self.write_frames(&mut out);
        self.pixels.iter().chain(self.hashes).for_each(|&hash| out.u64(hash));
        out.0
    }

    /// One size for all raw images that share it, else a table.
    fn write_frames(&self, out: &mut Writer) {
        let size = |frame: &Frame| (frame.height, frame.width);
        let equal = self.frames.first().filter(|first| self.frames.iter().all(|frame| size(frame) == size(first)));
        if let (Some(first), Encoding::Raw) = (equal, self.header.encoding) {
            out.option(Some(u64::from(first.height)));
            out.u64(u64::from(first.width));
            return;
        }
        out.option(None);
        for frame in self.frames {
            out.u64(frame.offset);
            out.0.extend(frame.height.to_le_bytes());
            out.0.extend(frame.width.to_le_bytes());
        }
    }
}

/// The head of a file with so much data and this index.
pub(crate) fn head(data: u64, index: &[u8]) -> Vec<u8> {
    let mut out = Writer(MAGIC.to_vec());
    out.0.extend(VERSION.to_le_bytes());
    out.0.extend(BYTE_ORDER.to_le_bytes());
    [data, index.len() as u64, hash(index)].into_iter().for_each(|number| out.u64(number));
    out.u64(hash(&out.0));
    out.0
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u64(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn flag(&mut self, flag: bool) {
        self.0.push(u8::from(flag));
    }

    fn option(&mut self, number: Option<u64>) {
        self.flag(number.is_some());
        self.u64(number.unwrap_or(0));
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    fn stamp(&mut self, Stamp { totals, marks }: &Stamp) {
        totals.iter().for_each(|&total| self.u64(total));
        self.u64(marks.len() as u64);
        for Mark { path, modified, content } in marks {
            self.text(path);
            self.u64(*modified);
            self.u64(*content);
        }
    }
}

/// Reads what [`Writer`] wrote, never beyond the end and never more than is there.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn range(&mut self, count: usize, each: usize) -> Result<Range<usize>, Flaw> {
        let end = count.checked_mul(each).and_then(|bytes| self.at.checked_add(bytes));
        let end = end.filter(|&end| end <= self.bytes.len()).ok_or_else(|| damaged("its index ends early"))?;
        Ok(std::mem::replace(&mut self.at, end)..end)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let range = self.range(N, 1)?;
        self.bytes[range].try_into().map_err(|_| damaged("its index ends early"))
    }

    fn u32(&mut self) -> Result<u32, Flaw> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, Flaw> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn count(&mut self) -> Result<usize, Flaw> {
        to_usize(self.u64()?)
    }

    fn flag(&mut self) -> Result<bool, Flaw> {
        match self.take()? {
            [flag @ 0..2] => Ok(flag == 1),
            _ => Err(damaged("its index holds a flag that is neither 0 nor 1")),
        }
    }

    fn option(&mut self) -> Result<Option<u64>, Flaw> {
        Ok(self.flag()?.then_some(self.u64()?))
    }

    fn text(&mut self) -> Result<String, Flaw> {
        let len = self.count()?;
        let range = self.range(len, 1)?;
        let text: &'a [u8] = &self.bytes[range];
        String::from_utf8(text.to_vec()).map_err(|_| damaged("its index holds a text that is not UTF-8"))
    }

    fn split(&mut self) -> Result<Split, Flaw> {
        Ok(if self.flag()? { Split::Test } else { Split::Train })
    }

    fn stamp(&mut self) -> Result<Stamp, Flaw> {
        let totals = [self.u64()?, self.u64()?, self.u64()?];
        let mark = |rest: &mut Self| Ok(Mark { path: rest.text()?, modified: rest.u64()?, content: rest.u64()? });
        Ok(Stamp { totals, marks: self.list(mark)? })
    }

    fn encoding(&mut self) -> Result<Encoding, Flaw> {
        match self.option()? {
            None => Ok(Encoding::Raw),
            Some(quality @ 1..=100) => Ok(Encoding::Jpeg { quality: quality as u8 }),
            Some(_) => Err(damaged("its index names an unknown encoding")),
        }
    }

    /// As many as are announced; the memory follows what is really there.
    fn list<T>(&mut self, one: impl Fn(&mut Self) -> Result<T, Flaw>) -> Result<Vec<T>, Flaw> {
        let count = self.count()?;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(one(self)?);
        }
        Ok(list)
    }
}

fn to_usize(number: u64) -> Result<usize, Flaw> {
    usize::try_from(number).map_err(|_| damaged("its index names impossible sizes"))
}
