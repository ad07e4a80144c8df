//! Compressed files, read in memory: members of a `.tar.gz`, and a single `.gz`. Nothing is ever unpacked to disk.
//!
//! What is asked for is limited before it is read, since a few bytes of a compressed file can stand for gigabytes. An
//! archive is always read to its end: only there is the checksum that tells whether any of it was damaged.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry};

use crate::error::DataError;
use empssl_pickle::bytes::Fault;

/// How much may come out of a compressed file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of the members that are kept, together.
    pub(crate) kept: u64,
    /// Bytes of all members with their headers.
    pub(crate) total: u64,
}

/// How many bytes at the start of an archive are looked at to tell what it holds.
const HEAD: u64 = 64 << 10;

impl Limits {
    /// Above every official file: STL-10 has the largest, 3.2 GB of which 0.25 GB are kept.
    pub(crate) const OFFICIAL: Self = Self { kept: 512 << 20, total: 8 << 30 };
}

/// The files called `wanted` of the archive at `path`; those that it does not have are absent from the result.
pub(crate) fn open(path: &Path, folder: &str, wanted: &[&str]) -> Result<HashMap<String, Vec<u8>>, DataError> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    unzipped_members(BufReader::new(file), folder, wanted, Limits::OFFICIAL)
        .map_err(|fault| DataError::malformed("archive", path, fault.0))
}

/// The folder that all of the archive at `path` lies in, as far as its first member tells; `None` where that cannot be
/// read, which opening the archive will explain.
pub(crate) fn folder_of(path: &Path) -> Option<String> {
    first_folder(MultiGzDecoder::new(BufReader::new(File::open(path).ok()?)))
}

/// The folder of the first member of a tar archive that is a file or folder, near its start.
pub(crate) fn first_folder(bytes: impl Read) -> Option<String> {
    let mut archive = Archive::new(bytes.take(HEAD));
    let first = archive.entries().ok()?.raw(true).map_while(Result::ok).find(is_file_or_folder)?;
    parts(&first).next()
}

/// Unzips a file of at most `limit` bytes.
pub(crate) fn gunzip(bytes: impl Read, limit: u64) -> Result<Vec<u8>, Fault> {
    let mut unzipped = Vec::new();
    MultiGzDecoder::new(bytes).take(limit + 1).read_to_end(&mut unzipped).map_err(damaged)?;
    if unzipped.len() as u64 > limit {
        return Err(Fault::new(format!("more than the {limit} bytes of an official file come out of it")));
    }
    Ok(unzipped)
}

/// As [`members`], of a compressed archive.
pub(crate) fn unzipped_members(
    bytes: impl Read,
    folder: &str,
    wanted: &[&str],
    limits: Limits,
) -> Result<HashMap<String, Vec<u8>>, Fault> {
    members(MultiGzDecoder::new(bytes), folder, wanted, limits)
}

/// Walks a tar archive to its end and keeps the plain files called `wanted` that lie in `folder` or at the top. Links,
/// devices and extended headers are passed over.
pub(crate) fn members(
    bytes: impl Read,
    folder: &str,
    wanted: &[&str],
    limits: Limits,
) -> Result<HashMap<String, Vec<u8>>, Fault> {
    let mut archive = Archive::new(bytes.take(limits.total));
    let kept = keep(&mut archive, folder, wanted, limits.kept);
    let mut rest = archive.into_inner();
    let drained = kept.and_then(|files| io::copy(&mut rest, &mut io::sink()).map(|_| files).map_err(damaged));
    if rest.limit() == 0 {
        return Err(Fault::new(format!("{} bytes come out of it, more than of an official file", limits.total)));
    }
    drained
}

/// The wanted files, with room for so many bytes.
fn keep(
    archive: &mut Archive<impl Read>,
    folder: &str,
    wanted: &[&str],
    mut room: u64,
) -> Result<HashMap<String, Vec<u8>>, Fault> {
    let mut files = HashMap::new();
    // Raw entries: no header makes the reader collect long names, extensions or sparse maps in memory.
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let entry = entry.map_err(damaged)?;
        let Some(&name) = wanted.iter().find(|name| is_called(&entry, folder, name)) else { continue };
        if files.contains_key(name) {
            return Err(Fault::new(format!("it has two files called `{name}`")));
        }
        let size = entry.size();
        let larger = || Fault::new(format!("`{name}` is larger than any official file"));
        room = room.checked_sub(size).ok_or_else(larger)?;
        let mut bytes = Vec::new();
        entry.take(size).read_to_end(&mut bytes).map_err(damaged)?;
        if bytes.len() as u64 != size {
            return Err(Fault::new(format!("it ends within `{name}`: get it again")));
        }
        files.insert(name.to_owned(), bytes);
    }
    Ok(files)
}

fn is_called(entry: &Entry<impl Read>, folder: &str, name: &str) -> bool {
    let is_path = |expected: &[&str]| parts(entry).eq(expected.iter().copied());
    is_file_or_folder(entry) && !entry.header().entry_type().is_dir() && (is_path(&[folder, name]) || is_path(&[name]))
}

fn is_file_or_folder(entry: &Entry<impl Read>) -> bool {
    let kind = entry.header().entry_type();
    kind.is_file() || kind.is_dir()
}

/// The parts of a member's path, without the `.` that some archives start with.
fn parts(entry: &Entry<impl Read>) -> impl Iterator<Item = String> {
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let parts: Vec<String> = path.split('/').filter(|part| !matches!(*part, "" | ".")).map(String::from).collect();
    parts.into_iter()
}

fn damaged(error: io::Error) -> Fault {
    Fault::new(format!("it is truncated or damaged ({error}): get it again"))
}

#[cfg(test)]
pub(crate) mod tests {
    use empssl_golden::damage::Parser;
    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// A `.tar.gz` of the given files, in that order.
    pub(crate) fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
        gzipped(&tarred(files))
    }

    /// A tar archive of the given files.
    pub(crate) fn tarred(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, *bytes).unwrap();
        }
        archive.into_inner().unwrap()
    }

    /// The bytes as `gzip` compresses them.
    pub(crate) fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    const LIMITS: Limits = Limits { kept: 100, total: 1 << 20 };

    fn read(archive: &[u8]) -> Result<HashMap<String, Vec<u8>>, Fault> {
        unzipped_members(archive, "set", &["a", "b"], LIMITS)
    }

    fn reason(archive: &[u8]) -> String {
        format!("{:?}", read(archive).unwrap_err())
    }

    #[test]
    fn wanted_files_come_from_the_folder_or_the_top_and_from_nowhere_else() {
        let files: [(&str, &[u8]); 5] =
            [("set/c", b"no"), ("other/a", b"no"), ("set/a", b"yes"), ("./b", b"top"), ("set/deep/b", b"no")];
        let found = read(&packed(&files)).unwrap();
        assert_eq!((found.len(), &found["a"][..], &found["b"][..]), (2, &b"yes"[..], &b"top"[..]));
    }

    #[test]
    fn links_are_passed_over() {
        let mut archive = tar::Builder::new(Vec::new());
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Directory] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_size(0);
            archive.append_link(&mut header, "set/a", "/etc/passwd").unwrap();
        }
        assert!(read(&gzipped(&archive.into_inner().unwrap())).unwrap().is_empty());
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let archive = packed(&[("set/a", &[7; 90]), ("set/z", &[9; 3000])]);
        assert!((0..archive.len()).all(|len| read(&archive[..len]).is_err()));
        let whole = read(&archive).unwrap();
        // Some bits do not matter, such as the time in the header or the code of a byte that does not occur.
        for bit in 0..8 * archive.len() {
            let mut damaged = archive.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).map_or(true, |read| read == whole), "bit {bit}");
        }
        assert!(reason(&archive[..archive.len() / 2]).contains("truncated or damaged"));
    }

    #[test]
    fn a_file_longer_than_the_archive_is_refused() {
        let tar = tarred(&[("set/a", &[7; 90])]);
        assert!(reason(&gzipped(&tar[..512 + 40])).contains("ends within `a`"));
    }

    #[test]
    fn nothing_beyond_the_limits_is_kept_or_read() {
        assert!(reason(&packed(&[("set/a", &[0; 60]), ("set/b", &[0; 60])])).contains("`b` is larger than any"));
        let bomb = packed(&[("set/z", &vec![0; 2 << 20])]);
        assert!(bomb.len() < 100_000, "{}", bomb.len());
        assert!(reason(&bomb).contains("1048576 bytes"), "{}", reason(&bomb));
        assert_eq!(gunzip(&gzipped(&[5; 100])[..], 100), Ok(vec![5; 100]));
        assert!(format!("{:?}", gunzip(&gzipped(&[5; 101])[..], 100)).contains("more than the 100 bytes"));
    }

    #[test]
    fn two_files_of_one_name_are_refused() {
        assert!(reason(&packed(&[("set/a", b"1"), ("a", b"2")])).contains("two files called `a`"));
    }

    /// Writes the right checksum into every header of a tape archive, found by the sizes as they are now.
    fn repair_tar(bytes: &mut [u8]) {
        const CHECKSUM: std::ops::Range<usize> = 148..156;
        const SIZE: std::ops::Range<usize> = 124..136;
        let mut start = 0_usize;
        while let Some(header) = bytes.get_mut(start..start.saturating_add(512)) {
            header[CHECKSUM].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let digit = |size: usize, &byte: &u8| size << 3 | usize::from(byte.wrapping_sub(b'0') & 7);
            let size = header[SIZE].iter().take(11).fold(0, digit);
            start = start.saturating_add(512).saturating_add(size.next_multiple_of(512));
        }
    }

    #[test]
    fn damaged_archives_neither_panic_nor_take_memory() {
        const LIMITS: Limits = Limits { kept: 64 << 10, total: 1 << 20 };
        // Inflating needs its window and tables; a kept file grows by doubling.
        let hold = |parser| Parser { memory: [512 << 10, 16], ..parser }.hold();
        let files = tarred(&[("set/a", &[3; 40]), ("set/c", b"other"), ("set/b", b"second")]);
        let parse: fn(&[u8]) -> bool = |bytes| {
            let _ = first_folder(bytes);
            members(bytes, "set", &["a", "b"], LIMITS).is_ok()
        };
        let tar = Parser::new("tar", parse, vec![files.clone(), tarred(&[("a", b"top"), ("set/b", &[1; 600])])]);
        hold(Parser { repair: repair_tar, ..tar });
        let parse: fn(&[u8]) -> bool = |bytes| unzipped_members(bytes, "set", &["a", "b"], LIMITS).is_ok();
        hold(Parser::new("tar.gz", parse, vec![gzipped(&files)]));
        hold(Parser::new("gz", |bytes| gunzip(bytes, 64 << 10).is_ok(), vec![gzipped(&[7; 900]), gzipped(b"")]));
    }
}
