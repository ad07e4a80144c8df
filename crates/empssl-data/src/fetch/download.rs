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
        let (file, expected) = (file.display(), source.md5);
        let foreign =
            || format!("wrong checksum: {file} has MD5 {found}, expected {expected}; move it away and run this again");
        return if found == expected { Ok(0) } else { Err(FetchError::Download(foreign()).into()) };
    }
    let download = Download::new(source, file);
    let transferred = download.run(observer)?;
    let found = md5_of(&download.part, observer)?;
    if found != source.md5 {
        download.discard()?;
        return Err(FetchError::Download(format!(
            "wrong checksum: the download of {} has MD5 {found}, expected {}; it was removed, run this again",
            source.url(),
            source.md5
        ))
        .into());
    }
    std::fs::rename(&download.part, file).map_err(|error| FetchError::write(file, error))?;
    download.discard()?;
    Ok(transferred)
}

/// The name beside `file` with `ending` appended: `.part` for what has arrived of it, `.part.etag` for its version.
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
            let (arrived, is_whole) = self.receive(answer, &mut part, observer)?;
            (done, transferred) = (done + arrived, transferred + arrived);
            if is_whole && total.is_none_or(|total| total == done) {
                total = Some(done);
            } else if arrived == 0 {
                break;
            }
        }
        if Some(done) != total {
            let (url, total) = (self.source.url(), total.map_or("an unknown number".to_owned(), |t| t.to_string()));
            return Err(FetchError::Download(format!(
                "the connection to {url} broke after {done} bytes of {total}: run this again to go on from there"
            ))
            .into());
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
            let (url, status, file) = (self.source.url(), response.status().as_u16(), self.file.display());
            return Err(FetchError::Download(format!(
                "{url} answered with status {status}: if the file has moved, put it here as {file} and run this again"
            )));
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
        request.call().map_err(|error| {
            FetchError::Download(format!(
                "cannot reach {} ({error}): without a network, download it elsewhere, put it here as {}, and run this \
                 again",
                self.source.url(),
                self.file.display()
            ))
        })
    }

    /// The size of the file, which must be the published one.
    fn checked_total(&self, answer: &Answer) -> Result<Option<u64>, FetchError> {
        match (answer.total, self.source.bytes) {
            (Some(found), Some(expected)) if found != expected => Err(self.refuse_length(found, expected)),
            (found, expected) => Ok(expected.or(found)),
        }
    }

    /// Copies the body to the part file until it ends, breaks or is longer than it may be. Returns the bytes that
    /// arrived, and whether the connection ended as a complete answer does.
    fn receive(&self, answer: Answer, part: &mut File, observer: &mut Observer<'_>) -> Result<(u64, bool), DataError> {
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
                    return Ok((bytes, true));
                }
                Ok(n) if bytes + n as u64 > most => {
                    return Err(self.refuse_length(done + n as u64, total.unwrap_or(MAX_BYTES)).into());
                }
                Ok(n) => {
                    part.write_all(&buffer[..n]).map_err(|e| self.cannot_write(e))?;
                    bytes += n as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Ok((bytes, false)),
            }
        }
    }

    /// Removes what has arrived of a file that has another length than the published one.
    fn refuse_length(&self, found: u64, expected: u64) -> FetchError {
        let url = self.source.url();
        let sentence = format!(
            "{url} is not the published file: it has {found} bytes, expected {expected}; nothing of it was kept"
        );
        self.discard().err().unwrap_or(FetchError::Download(sentence))
    }

    fn cannot_write(&self, error: std::io::Error) -> FetchError {
        FetchError::write(&self.part, error)
    }
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
