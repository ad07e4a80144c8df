//! Image files within a `.zip` archive, read without unpacking it.
//!
//! Only the directory at the archive's end is held in memory. A file is read and inflated when it is asked for, by its
//! place, so that any number of threads read at once; the system's cache keeps the compressed bytes near.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use crate::error::DataError;

/// No image file is larger.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A file within an archive.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Its name with slashes between the folders.
    pub(crate) name: String,
    /// Its size when unpacked.
    pub(crate) bytes: u64,
}

/// An open archive.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    zip: ZipArchive<Window>,
}

impl Archive {
    /// Opens an archive and lists its files.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Entry>), DataError> {
        let file = Arc::new(File::open(path).map_err(|error| DataError::io(path, error))?);
        let (zip, entries) = walk(Window { file, place: 0 }).map_err(|reason| malformed(path, reason))?;
        Ok((Self { path: path.to_owned(), zip }, entries))
    }

    /// The bytes of the file at `path`, which begins with the archive's own.
    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>, DataError> {
        let parts = path.strip_prefix(&self.path).unwrap_or(path).iter().map(|part| part.to_string_lossy());
        let name = parts.collect::<Vec<_>>().join("/");
        read_entry(&mut self.zip.clone(), &name).map_err(|reason| malformed(path, reason))
    }
}

fn malformed(path: &Path, reason: String) -> DataError {
    DataError::malformed("zip archive", path, reason)
}

/// Reads the directory of an archive and refuses what has no place in a set of images: names that lead elsewhere or
/// occur twice, links, encrypted files, methods other than storing and deflating, files that are too large.
pub(crate) fn walk<R: Read + Seek>(reader: R) -> Result<(ZipArchive<R>, Vec<Entry>), String> {
    let zip = ZipArchive::new(reader).map_err(|error| error.to_string())?;
    if zip.has_duplicate_names() {
        return Err("two files have the same name".to_owned());
    }
    let mut entries = Vec::new();
    for index in 0..zip.len() {
        let file = zip.by_index_data(index).map_err(|error| error.to_string())?;
        let name = std::str::from_utf8(file.name_raw()).map_err(|_| format!("the name of file {index} is no text"))?;
        let refused = |reason| Err(format!("`{}`: {reason}", name.escape_debug()));
        if let Err(reason) = check_entry_name(name) {
            return refused(reason);
        }
        match file.compression() {
            _ if file.is_dir() => continue,
            _ if file.is_symlink() => return refused("it is a link"),
            _ if file.encrypted() => return refused("it is encrypted"),
            _ if file.size() > MAX_FILE_BYTES => return refused("it is larger than 256 MiB"),
            CompressionMethod::Stored | CompressionMethod::Deflated => {}
            _ => return refused("it is neither stored nor deflated"),
        }
        entries.push(Entry { name: name.to_owned(), bytes: file.size() });
    }
    Ok((zip, entries))
}

/// Longest name in bytes, longest part of it, and most parts.
const MAX_NAME: usize = 1024;
const MAX_PART: usize = 255;
const MAX_DEPTH: usize = 32;

/// Refuses a name that is no plain path below the archive's root. Such a path has one way to be written, since files
/// are found again by it; a folder's may end in `/`.
///
/// # Errors
/// With the reason, when the name is empty, absolute or too long, climbs with `..`, takes detours by `.` or `//`, or
/// holds a character that means something else on another system: a backslash, a colon, a control character.
fn check_entry_name(name: &str) -> Result<(), &'static str> {
    if name.len() > MAX_NAME {
        return Err("its name is too long");
    }
    if name.starts_with('/') {
        return Err("its name is an absolute path");
    }
    if name.chars().any(|c| c.is_control() || c == '\\' || c == ':') {
        return Err("its name holds a backslash, a colon or a control character");
    }
    let parts: Vec<&str> = name.trim_end_matches('/').split('/').collect();
    if parts.contains(&"..") {
        return Err("its name climbs out of the folder");
    }
    if parts.iter().all(|part| matches!(*part, "" | ".")) {
        return Err("its name is empty");
    }
    if parts.len() > MAX_DEPTH || parts.iter().any(|part| part.len() > MAX_PART) {
        return Err("its name nests too deeply or has too long a part");
    }
    let detours = parts.iter().any(|part| matches!(*part, "" | "."));
    if detours { Err("its name takes detours") } else { Ok(()) }
}

/// The bytes of one file, whose checksum must be right.
pub(crate) fn read_entry<R: Read + Seek>(zip: &mut ZipArchive<R>, name: &str) -> Result<Vec<u8>, String> {
    let file = zip.by_name(name).map_err(|error| error.to_string())?;
    let expected = file.size();
    // The size is what the archive claims, so no memory is reserved for it; only bytes that come out are kept.
    let mut bytes = Vec::new();
    let found = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())? as u64;
    if found == expected { Ok(bytes) } else { Err(format!("it has {found} bytes, expected {expected}")) }
}

/// A file that is read at a place of its own, so that clones do not disturb each other. Headers are read in a few
/// pieces; compressed bytes are buffered by the crate `zip`.
#[derive(Clone, Debug)]
struct Window {
    file: Arc<File>,
    place: u64,
}

impl Read for Window {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = read_at(&self.file, out, self.place)?;
        self.place += read as u64;
        Ok(read)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(offset) => self.file.metadata()?.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.place.checked_add_signed(offset),
        };
        self.place = place.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a place before the file"))?;
        Ok(self.place)
    }
}

#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], place: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, out, place)
}

#[cfg(windows)]
fn read_at(file: &File, out: &mut [u8], place: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, out, place)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::io::{Cursor, Write};

    use empssl_golden::damage::Parser;
    use proptest::prelude::*;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn add(writer: &mut ZipWriter<impl Write + Seek>, dir: &Path, prefix: &str) {
        let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                writer.add_directory(&name, SimpleFileOptions::default()).unwrap();
                add(writer, &path, &format!("{name}/"));
            } else {
                let bytes = fs::read(&path).unwrap();
                let method = if bytes.len() % 2 == 0 { CompressionMethod::Stored } else { CompressionMethod::Deflated };
                writer.start_file(&name, SimpleFileOptions::default().compression_method(method)).unwrap();
                writer.write_all(&bytes).unwrap();
            }
        }
    }

    /// Makes an archive of everything in a folder, some files stored and some deflated.
    pub(crate) fn archive_folder(dir: &Path, archive: &Path) {
        let mut writer = ZipWriter::new(fs::File::create(archive).unwrap());
        add(&mut writer, dir, "");
        writer.finish().unwrap();
    }

    const CENTRAL: &[u8] = b"PK\x01\x02";

    /// An archive with the files `aa/one` and `bb/two`.
    fn small() -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in [("aa/one", "first"), ("bb/two", "the second, the second")] {
            writer.start_file(name, SimpleFileOptions::default()).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    /// The archive with some bytes of the first entry of its directory replaced.
    fn patched(offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut archive = small();
        let start = archive.windows(4).position(|window| window == CENTRAL).unwrap() + offset;
        archive[start..start + bytes.len()].copy_from_slice(bytes);
        archive
    }

    /// The archive with the file `aa/one` under another name of the same length.
    fn renamed(name: impl AsRef<[u8]>) -> Vec<u8> {
        let mut archive = small();
        while let Some(place) = archive.windows(6).position(|window| window == b"aa/one") {
            archive[place..place + 6].copy_from_slice(name.as_ref());
        }
        archive
    }

    fn refusal(archive: Vec<u8>) -> String {
        walk(Cursor::new(archive)).unwrap_err()
    }

    #[test]
    fn files_are_listed_and_read() {
        let (mut zip, entries) = walk(Cursor::new(small())).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| (&*entry.name, entry.bytes)).collect();
        assert_eq!(names, [("aa/one", 5), ("bb/two", 22)]);
        assert_eq!(read_entry(&mut zip, "bb/two").unwrap(), b"the second, the second");
        assert_eq!(read_entry(&mut zip.clone(), "aa/one").unwrap(), b"first");
        assert!(read_entry(&mut zip, "cc").is_err());
    }

    #[test]
    fn what_has_no_place_in_a_set_of_images_is_refused() {
        assert_eq!(refusal(renamed("../one")), "`../one`: its name climbs out of the folder");
        assert_eq!(refusal(renamed("/a/one")), "`/a/one`: its name is an absolute path");
        assert_eq!(
            refusal(renamed("a\\/one")),
            "`a\\\\/one`: its name holds a backslash, a colon or a control character"
        );
        assert_eq!(refusal(renamed("a/../b")), "`a/../b`: its name climbs out of the folder");
        assert_eq!(refusal(renamed("a/./bc")), "`a/./bc`: its name takes detours");
        assert_eq!(refusal(renamed(b"aa/\xffne")), "the name of file 0 is no text");
        assert_eq!(refusal(renamed("bb/two")), "two files have the same name");
        assert_eq!(refusal(patched(8, &[1, 0])), "`aa/one`: it is encrypted");
        assert_eq!(refusal(patched(10, &[12, 0])), "`aa/one`: it is neither stored nor deflated");
        assert_eq!(refusal(patched(24, &[1, 0, 0, 16])), "`aa/one`: it is larger than 256 MiB");
        let link = (0o120_777_u32 << 16).to_le_bytes();
        assert_eq!(refusal(patched(38, &link)), "`aa/one`: it is a link");
        assert!(walk(Cursor::new(b"no archive".to_vec())).is_err());
    }

    #[test]
    fn damage_is_noticed_when_a_file_is_read() {
        for archive in [patched(16, &[0, 0, 0, 0]), patched(24, &[6, 0, 0, 0])] {
            let (mut zip, _) = walk(Cursor::new(archive)).unwrap();
            assert!(read_entry(&mut zip, "aa/one").is_err());
            assert!(read_entry(&mut zip, "bb/two").is_ok());
        }
    }

    #[test]
    fn a_damaged_archive_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.zip");
        fs::write(&path, &small()[..100]).unwrap();
        let message = Archive::open(&path).unwrap_err().to_string();
        assert!(message.starts_with("malformed zip archive") && message.contains("set.zip"), "{message}");
        fs::write(&path, patched(16, &[0, 0, 0, 0])).unwrap();
        let (archive, _) = Archive::open(&path).unwrap();
        let message = archive.read(&path.join("aa/one")).unwrap_err().to_string();
        assert!(message.contains("set.zip/aa/one"), "{message}");
        assert_eq!(archive.read(&path.join("bb/two")).unwrap(), b"the second, the second");
    }

    #[test]
    fn a_window_reads_what_the_file_holds_from_any_place() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..20_000_u32).map(|value| (value * 7 / 8) as u8).collect();
        fs::write(dir.path().join("file"), &bytes).unwrap();
        let mut window = Window { file: File::open(dir.path().join("file")).unwrap().into(), place: 0 };
        for (place, len) in [(0, 10), (4, 30), (4_090, 20), (9_000, 8_000), (100, 3), (19_990, 10)] {
            assert_eq!(window.seek(SeekFrom::Start(place)).unwrap(), place);
            let mut found = vec![0; len];
            window.read_exact(&mut found).unwrap();
            assert_eq!(found, bytes[place as usize..][..len]);
        }
        assert_eq!((window.seek(SeekFrom::End(-5)).unwrap(), window.read(&mut [0; 9]).unwrap()), (19_995, 5));
        assert_eq!((window.seek(SeekFrom::Current(90)).unwrap(), window.read(&mut [0; 9]).unwrap()), (20_090, 0));
        assert!(window.seek(SeekFrom::Current(-30_000)).is_err());
    }

    proptest! {
        #[test]
        fn whatever_passes_stays_below(name in "[a./\\\\:\u{0}\u{e9}]{0,24}") {
            if check_entry_name(&name).is_ok() {
                let path = std::path::Path::new(&name);
                let plain = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(path.components().all(plain) && path.components().count() > 0, "{path:?}");
            }
        }

        #[test]
        fn no_damage_makes_it_panic(edits in proptest::collection::vec((0..400_usize, any::<u8>()), 1..8)) {
            let mut archive = small();
            for (place, byte) in edits {
                let place = place % archive.len();
                archive[place] = byte;
            }
            if let Ok((mut zip, entries)) = walk(Cursor::new(archive)) {
                entries.iter().for_each(|entry| drop(read_entry(&mut zip, &entry.name)));
            }
        }
    }

    /// Lists an archive and reads every file of it.
    fn walk_all(bytes: &[u8]) -> bool {
        let Ok((mut archive, entries)) = walk(Cursor::new(bytes)) else { return false };
        entries.iter().filter(|entry| read_entry(&mut archive, &entry.name).is_ok()).count() == entries.len()
    }

    #[test]
    fn damaged_archives_neither_panic_nor_take_memory() {
        // Inflating needs its window and tables; a kept file grows by doubling.
        Parser { memory: [512 << 10, 16], ..Parser::new("zip", walk_all, vec![small()]) }.hold();
    }

    #[test]
    fn plain_names_pass() {
        for name in ["a/b.bin", "a/b/", "a/b c.JPEG", "..a"] {
            assert_eq!(check_entry_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn every_way_out_is_refused() {
        for (name, reason) in [
            ("/etc/passwd", "absolute"),
            ("../x", "climbs"),
            ("a/../../x", "climbs"),
            ("a/..", "climbs"),
            ("..\\x", "backslash"),
            ("C:/x", "colon"),
            ("a\0b", "control"),
            ("", "empty"),
            ("./", "empty"),
            ("./a", "detours"),
            ("a//b", "detours"),
        ] {
            let found = check_entry_name(name).unwrap_err();
            assert!(found.contains(reason), "{name:?}: {found}");
        }
        assert!(check_entry_name(&"a/".repeat(33)).unwrap_err().contains("deeply"));
        assert!(check_entry_name(&"a".repeat(256)).unwrap_err().contains("long a part"));
        assert!(check_entry_name(&"a/".repeat(600)).unwrap_err().contains("too long"));
    }

    #[test]
    fn damaged_names_are_refused_or_plain() {
        let parse = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok_and(|name| check_entry_name(name).is_ok());
        let good = ["set/train/cat/0.png", "cifar-10-batches-bin/data_batch_1.bin", "a/b/"];
        Parser::new("name in archive", parse, good.map(|name| name.as_bytes().to_vec()).to_vec()).hold();
    }
}
