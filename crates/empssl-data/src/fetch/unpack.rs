//! Archives to folders, trusting nothing that an archive says about itself.
//!
//! The walks over the bytes ([`walk_tar`], [`walk_zip`]) write nothing: they hand admitted entries to a [`Sink`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rayon::prelude::*;
use zip::ZipArchive;

use crate::archive_paths::relative_in;
use crate::checksum::BUFFER;
use crate::disk;
use crate::error::DataError;
use crate::progress::{Observer, Progress, Stage, tell};

use super::source::{Form, Unpack};
use super::{FetchError, Member};

/// How much an archive may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of all its files.
    pub(crate) bytes: u64,
    /// Files and folders.
    pub(crate) entries: u64,
    /// Bytes of all its files for each byte of the archive; archives of up to a megabyte are not held to it.
    pub(crate) ratio: u64,
}

impl Limits {
    /// Ten times what the largest published set needs.
    pub(crate) const PUBLISHED: Self = Self { bytes: 32 << 30, entries: 2_000_000, ratio: 100 };
}

/// Why a walk ended early.
#[derive(Debug)]
pub(crate) enum Fault {
    /// An entry that must not be unpacked, or damage.
    Entry { name: String, reason: String },
    /// The sink refused.
    Sink(DataError),
}

impl Fault {
    fn entry(name: &[u8], reason: impl ToString) -> Self {
        let name = String::from_utf8_lossy(name).chars().take(200).collect();
        Self::Entry { name, reason: reason.to_string() }
    }
}

/// What takes the entries of an archive.
pub(crate) trait Sink {
    /// A folder; it may have been there before.
    fn folder(&mut self, path: &Path) -> Result<(), DataError>;
    /// A new file.
    fn open(&mut self, path: &Path) -> Result<(), DataError>;
    /// The next bytes of the file opened last.
    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError>;
}

/// Admits entries and counts what they become.
struct Guard<'a> {
    folder: &'a str,
    limits: Limits,
    most_bytes: u64,
    entries: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

impl<'a> Guard<'a> {
    fn new(folder: &'a str, limits: Limits, packed: u64) -> Self {
        let most_bytes = limits.bytes.min(packed.max(1 << 20).saturating_mul(limits.ratio));
        Self { folder, limits, most_bytes, entries: 0, bytes: 0, buffer: vec![0; BUFFER] }
    }

    fn admit(&mut self, name: &[u8]) -> Result<PathBuf, Fault> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Fault::entry(name, format!("it is one of more than {} entries", self.limits.entries)));
        }
        relative_in(self.folder, name).map_err(|reason| Fault::entry(name, reason))
    }

    fn copy(&mut self, name: &[u8], mut from: impl Read, sink: &mut dyn Sink) -> Result<(), Fault> {
        loop {
            let n = match from.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Fault::entry(name, format!("it is damaged: {error}"))),
            };
            self.bytes += n as u64;
            if self.bytes > self.most_bytes {
                let reason = format!("with it the archive becomes larger than the {} bytes allowed", self.most_bytes);
                return Err(Fault::entry(name, reason));
            }
            sink.write(&self.buffer[..n]).map_err(Fault::Sink)?;
        }
    }
}

/// Walks a gzipped tape archive of `packed` bytes whose entries all lie in `folder`.
pub(crate) fn walk_tar(
    from: impl Read,
    packed: u64,
    folder: &str,
    limits: Limits,
    sink: &mut dyn Sink,
) -> Result<(), Fault> {
    let damaged = |error: io::Error| Fault::entry(b"", format!("the archive is damaged: {error}"));
    let mut guard = Guard::new(folder, limits, packed);
    let mut archive = tar::Archive::new(MultiGzDecoder::new(from));
    // Raw entries: names longer than a header come as entries of their own, which the crate would read whole.
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path_bytes().into_owned();
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                let path = guard.admit(&name)?;
                sink.folder(&path).map_err(Fault::Sink)?;
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let path = guard.admit(&name)?;
                sink.open(&path).map_err(Fault::Sink)?;
                let size = entry.size();
                let before = guard.bytes;
                guard.copy(&name, &mut entry, sink)?;
                if guard.bytes - before != size {
                    return Err(Fault::entry(&name, "it is damaged: the archive ends within it"));
                }
            }
            tar::EntryType::XGlobalHeader | tar::EntryType::XHeader => check_pax(&name, &mut entry)?,
            kind => return Err(Fault::entry(&name, format!("it is neither a file nor a folder ({kind:?})"))),
        }
    }
    drain(archive.into_inner(), guard.most_bytes).map_err(damaged)
}

/// Reads what follows the last entry: the compression's own checksum comes at the very end.
fn drain(mut rest: impl Read, most: u64) -> io::Result<()> {
    io::copy(&mut rest.by_ref().take(most), &mut io::sink()).map(drop)
}

/// Extended headers may tell times and owners, which nobody needs; other names and sizes are not listened to.
fn check_pax(name: &[u8], entry: &mut impl Read) -> Result<(), Fault> {
    const MOST: u64 = 64 << 10;
    let mut text = Vec::new();
    let read = entry.take(MOST + 1).read_to_end(&mut text);
    read.map_err(|error| Fault::entry(name, format!("it is damaged: {error}")))?;
    let changes = |key: &[u8]| text.windows(key.len()).any(|window| window == key);
    let renames = [&b" path="[..], b" linkpath=", b" size=", b"GNU.sparse"].into_iter().any(changes);
    if text.len() as u64 > MOST || renames {
        return Err(Fault::entry(name, "it is an extended header that changes names or sizes"));
    }
    Ok(())
}

/// Walks a zip archive of `packed` bytes whose entries all lie in `folder`.
pub(crate) fn walk_zip(
    from: impl Read + Seek,
    packed: u64,
    folder: &str,
    limits: Limits,
    sink: &mut dyn Sink,
) -> Result<(), Fault> {
    let damaged = |error: zip::result::ZipError| Fault::entry(b"", format!("the archive is damaged: {error}"));
    let mut guard = Guard::new(folder, limits, packed);
    let mut archive = ZipArchive::new(from).map_err(damaged)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(damaged)?;
        let name = entry.name_raw().to_vec();
        let path = guard.admit(&name)?;
        // The upper bits of the mode are the kind of file: none, a folder or a regular file are good.
        let kind = entry.unix_mode().unwrap_or(0) & 0o170_000;
        if ![0, 0o040_000, 0o100_000].contains(&kind) || entry.is_symlink() {
            return Err(Fault::entry(&name, "it is neither a file nor a folder"));
        }
        if entry.is_dir() {
            sink.folder(&path).map_err(Fault::Sink)?;
        } else {
            sink.open(&path).map_err(Fault::Sink)?;
            guard.copy(&name, &mut entry, sink)?;
        }
    }
    Ok(())
}

/// Writes entries below a folder that nothing else uses.
struct Disk<'a, 'b> {
    root: PathBuf,
    archive: &'a str,
    file: Option<(PathBuf, File)>,
    /// Everything that was made, files and folders.
    made: Vec<PathBuf>,
    done: u64,
    observer: &'a mut Observer<'b>,
}

impl Disk<'_, '_> {
    /// Waits until every file is on the disk, and the names in every folder. Many at once: each wait alone is long, and
    /// the system joins them.
    fn sync(&mut self) -> Result<(), DataError> {
        const STRETCH: usize = 4096;
        self.file = None;
        self.made.sort();
        self.made.dedup();
        for stretch in self.made.chunks(STRETCH) {
            stretch.par_iter().try_for_each(|path| sync(path).map_err(|error| FetchError::write(path, error)))?;
            tell(self.observer, Progress { stage: Stage::Unpack, what: self.archive, done: self.done, total: None })?;
        }
        Ok(())
    }
}

fn sync(path: &Path) -> io::Result<()> {
    if path.is_dir() { disk::sync_folder(path) } else { OpenOptions::new().write(true).open(path)?.sync_data() }
}

impl Sink for Disk<'_, '_> {
    fn folder(&mut self, path: &Path) -> Result<(), DataError> {
        let path = self.root.join(path);
        if !path.is_dir() {
            fs::create_dir_all(&path).map_err(|error| FetchError::write(&path, error))?;
            let new = path.ancestors().take_while(|folder| *folder != self.root).map(Path::to_owned);
            self.made.extend(new);
        }
        Ok(())
    }

    fn open(&mut self, path: &Path) -> Result<(), DataError> {
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        let path = self.root.join(path);
        // A name that comes twice is refused here: an entry never replaces another.
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        self.made.push(path.clone());
        self.file = Some((path.clone(), file.map_err(|error| FetchError::write(&path, error))?));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        file.write_all(bytes).map_err(|error| FetchError::write(path, error))?;
        self.done += bytes.len() as u64;
        tell(self.observer, Progress { stage: Stage::Unpack, what: self.archive, done: self.done, total: None })
    }
}

/// Removes a folder when dropped.
struct Scratch(PathBuf);

impl Scratch {
    /// An empty folder; what an interrupted run left there is removed.
    fn new(path: PathBuf) -> Result<Self, FetchError> {
        let scratch = Self(path);
        scratch.clear();
        fs::create_dir(&scratch.0).map_err(|error| FetchError::write(&scratch.0, error))?;
        Ok(scratch)
    }

    fn clear(&self) {
        // What cannot be removed is met again, and named, when the folder is made.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Unpacks `archive` into `into`: to a scratch folder first, renamed when everything is there.
pub(crate) fn unpack(
    archive: &Path,
    unpack: &Unpack,
    into: &Path,
    limits: Limits,
    observer: &mut Observer<'_>,
) -> Result<(), DataError> {
    let read = |error| DataError::io(archive, error);
    let file = File::open(archive).map_err(read)?;
    let packed = file.metadata().map_err(read)?.len();
    let scratch = Scratch::new(into.join(format!(".{}.unpacking", unpack.folder)))?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let mut made = Disk { root: scratch.0.clone(), archive: &name, file: None, made: Vec::new(), done: 0, observer };
    let from = BufReader::with_capacity(BUFFER, file);
    let walked = match unpack.form {
        Form::TarGz => walk_tar(from, packed, &unpack.folder, limits, &mut made),
        Form::Zip => walk_zip(from, packed, &unpack.folder, limits, &mut made),
    };
    let refused = |entry, reason| FetchError::Unsafe { archive: archive.to_owned(), entry, reason };
    walked.map_err(|fault| match fault {
        Fault::Sink(error) => error,
        Fault::Entry { name, reason } => refused(name, reason).into(),
    })?;
    made.sync()?;
    let unpacked = scratch.0.join(&unpack.folder);
    if let Some(lack) = lack(&unpacked, &unpack.files) {
        return Err(refused(unpack.folder.clone(), lack).into());
    }
    let target = into.join(&unpack.folder);
    Ok(disk::rename(&unpacked, &target).map_err(|error| FetchError::write(&target, error))?)
}

/// The first file that `folder` lacks, or that has another size, in words.
pub(crate) fn lack(folder: &Path, files: &[Member]) -> Option<String> {
    files.iter().find_map(|member| match (fs::metadata(folder.join(&member.path)), member.bytes) {
        (Err(_), _) => Some(format!("there is no {}", member.path)),
        (Ok(found), Some(expected)) if found.len() != expected => {
            Some(format!("{} has {} bytes, expected {expected}", member.path, found.len()))
        }
        _ => None,
    })
}
