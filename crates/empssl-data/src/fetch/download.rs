//! One file from one address: resumed where it broke, never under its final name before it is whole.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Body;
use ureq::http::{HeaderMap, Response};

use crate::checksum::{BUFFER, md5_of};
use crate::error::DataError;
use crate::progress::{Observer, Progress, Stage, report};

use super::FetchError;
use crate::sets::PublishedFile;

/// Times that a broken connection is opened again, as long as each brings something.
const ATTEMPTS: usize = 20;
/// A server that sends nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// No published file is as large as this.
const MAX_BYTES: u64 = 1 << 40;

/// Downloads `source` to `file` unless it is there, and compares its checksum. Returns the bytes that were transferred.
pub(crate) fn download(source: &PublishedFile, file: &Path, observer: &mut Observer<'_>) -> Result<u64, DataError> {
    if file.exists() {
        let found = md5_of(file, observer)?;
        let expected = source.md5.to_owned();
        let foreign = || FetchError::Foreign { file: file.to_owned(), found: found.clone(), expected };
        return if found == source.md5 { Ok(0) } else { Err(foreign().into()) };
    }
    let download = Download::new(source, file);
    let transferred = download.run(observer)?;
    let found = md5_of(&download.part, observer)?;
    if found != source.md5 {
        download.discard()?;
        return Err(FetchError::Checksum { url: source.url(), found, expected: source.md5.to_owned() }.into());
    }
    rename(&download.part, file).map_err(|error| FetchError::write(file, error))?;
    download.discard()?;
    Ok(transferred)
}

/// Renames a file whose content is on the disk already, and waits until the new name is as well.
pub(super) fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::rename(from, to)?;
    let folder = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Elsewhere a folder cannot be opened as a file, and names are written in order.
    let synced = if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) };
    match synced {
        // Some network file systems cannot do this; they have their own ways.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// A name beside `file`, with `ending` appended.
pub(crate) fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    file.with_file_name(name)
}

struct Download<'a> {
    source: &'a PublishedFile,
    file: &'a Path,
    /// What has arrived.
    part: PathBuf,
    /// The server's mark of the version that `part` is of.
    mark: PathBuf,
    agent: ureq::Agent,
}

/// What the server is going to send.
struct Answer {
    body: Body,
    /// Where its first byte belongs.
    start: u64,
    /// The size of the whole file.
    total: Option<u64>,
}

impl<'a> Download<'a> {
    fn new(source: &'a PublishedFile, file: &'a Path) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .user_agent(concat!("empssl/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { source, file, part: beside(file, ".part"), mark: beside(file, ".part.etag"), agent: config.into() }
    }

    /// Removes what belongs to an unfinished download.
    fn discard(&self) -> Result<(), FetchError> {
        for path in [&self.part, &self.mark] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(FetchError::write(path, error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Fills the part file; a connection that breaks after having brought something is opened again.
    fn run(&self, observer: &mut Observer<'_>) -> Result<u64, DataError> {
        let mut done = std::fs::metadata(&self.part).map_or(0, |metadata| metadata.len());
        let (mut transferred, mut total) = (0, self.source.bytes);
        for _ in 0..ATTEMPTS {
            if done > 0 && Some(done) == total {
                break;
            }
            let answer = self.ask(done)?;
            total = self.checked_total(&answer)?;
            done = answer.start;
            let mut part = self.part_from(done).map_err(|e| self.cannot_write(e))?;
            let arrived = self.receive(answer, &mut part, observer)?;
            (done, transferred) = (done + arrived.bytes, transferred + arrived.bytes);
            if arrived.whole && total.is_none_or(|total| total == done) {
                total = Some(done);
            } else if arrived.bytes == 0 {
                break;
            }
        }
        if Some(done) != total {
            let total = total.map_or("an unknown number".to_owned(), |total| total.to_string());
            return Err(FetchError::Broken { url: self.source.url(), done, total }.into());
        }
        Ok(transferred)
    }

    /// The part file, cut to its first `done` bytes and ready for the next.
    fn part_from(&self, done: u64) -> std::io::Result<File> {
        let mut part = OpenOptions::new().create(true).truncate(false).write(true).open(&self.part)?;
        part.set_len(done)?;
        part.seek(SeekFrom::Start(done))?;
        Ok(part)
    }

    /// Asks for what follows the first `done` bytes, or for everything where the server does not go on there.
    fn ask(&self, done: u64) -> Result<Answer, FetchError> {
        let mark = std::fs::read_to_string(&self.mark).unwrap_or_default();
        let resumed = if done > 0 { Some(self.request(done, &mark)?) } else { None };
        let response = match resumed {
            Some(response) if goes_on(&response, done, &mark) => {
                let total = range_total(response.headers());
                return Ok(Answer { body: response.into_body(), start: done, total });
            }
            Some(response) if response.status() == 200 => response,
            _ => self.request(0, "")?,
        };
        if response.status() != 200 {
            let (url, file) = (self.source.url(), self.file.to_owned());
            return Err(FetchError::Status { url, status: response.status().as_u16(), file });
        }
        std::fs::write(&self.mark, mark_of(response.headers())).map_err(|e| FetchError::write(&self.mark, e))?;
        let total = number(response.headers(), "content-length");
        Ok(Answer { body: response.into_body(), start: 0, total })
    }

    fn request(&self, done: u64, mark: &str) -> Result<Response<Body>, FetchError> {
        let mut request = self.agent.get(self.source.url()).header("accept-encoding", "identity");
        if done > 0 {
            request = request.header("range", format!("bytes={done}-"));
        }
        if !mark.is_empty() {
            request = request.header("if-range", mark);
        }
        request.call().map_err(|error| FetchError::Offline {
            url: self.source.url(),
            reason: error.to_string(),
            file: self.file.to_owned(),
        })
    }

    /// The size of the file, which must be the published one.
    fn checked_total(&self, answer: &Answer) -> Result<Option<u64>, FetchError> {
        match (answer.total, self.source.bytes) {
            (Some(found), Some(expected)) if found != expected => {
                self.discard()?;
                Err(FetchError::Length { url: self.source.url(), found, expected })
            }
            (found, expected) => Ok(expected.or(found)),
        }
    }

    /// Copies the body to the part file until it ends, breaks or is longer than it may be.
    fn receive(&self, answer: Answer, part: &mut File, observer: &mut Observer<'_>) -> Result<Arrived, DataError> {
        let total = self.source.bytes.or(answer.total);
        let most = total.unwrap_or(MAX_BYTES).saturating_sub(answer.start);
        let mut body = answer.body.into_reader();
        let mut buffer = vec![0; BUFFER];
        let mut bytes = 0;
        loop {
            let done = answer.start + bytes;
            report(observer, Progress { stage: Stage::Download, what: self.source.file, done, total })?;
            match body.read(&mut buffer) {
                Ok(0) => {
                    // The final name must not be on disk before the bytes are.
                    part.sync_all().map_err(|e| self.cannot_write(e))?;
                    return Ok(Arrived { bytes, whole: true });
                }
                Ok(n) if bytes + n as u64 > most => {
                    self.discard()?;
                    let (found, expected) = (done + n as u64, total.unwrap_or(MAX_BYTES));
                    return Err(FetchError::Length { url: self.source.url(), found, expected }.into());
                }
                Ok(n) => {
                    part.write_all(&buffer[..n]).map_err(|e| self.cannot_write(e))?;
                    bytes += n as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Ok(Arrived { bytes, whole: false }),
            }
        }
    }

    fn cannot_write(&self, error: std::io::Error) -> FetchError {
        FetchError::write(&self.part, error)
    }
}

/// What one connection brought.
struct Arrived {
    bytes: u64,
    /// Whether it ended as a complete answer does.
    whole: bool,
}

/// Whether the answer continues the file of which there are `done` bytes, and the same version of it.
fn goes_on(response: &Response<Body>, done: u64, mark: &str) -> bool {
    let range = text(response.headers(), "content-range");
    let starts_there = range.strip_prefix("bytes ").and_then(|range| range.split_once('-'));
    let same = mark_of(response.headers()) == mark;
    response.status() == 206 && starts_there.is_some_and(|(start, _)| start.trim() == done.to_string()) && same
}

/// The whole size in `Content-Range: bytes 5-9/10`.
fn range_total(headers: &HeaderMap) -> Option<u64> {
    text(headers, "content-range").rsplit_once('/')?.1.trim().parse().ok()
}

/// What differs between versions of a file: its strong entity tag, else its date, else nothing.
fn mark_of(headers: &HeaderMap) -> String {
    match text(headers, "etag") {
        tag if tag.is_empty() || tag.starts_with("W/") => text(headers, "last-modified"),
        tag => tag,
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name).parse().ok()
}
