//! Fetching from a small server on this machine that can do everything a server may do wrong.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use super::*;
use crate::progress::{Progress, Stage};

/// A file as the server has it, and how it serves it.
#[derive(Clone)]
struct Served {
    body: Vec<u8>,
    tag: &'static str,
    ranges: bool,
    /// Answers end after so many bytes, the first time, then after twice as many, and so on.
    breaks_after: Option<usize>,
}

/// Every request as (path, range header, if-range header).
type Log = Arc<Mutex<Vec<(String, String, String)>>>;

struct Server {
    base: String,
    files: Arc<Mutex<HashMap<String, Served>>>,
    log: Log,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let files: Arc<Mutex<HashMap<String, Served>>> = Arc::default();
        let log = Log::default();
        let (served, seen) = (Arc::clone(&files), Arc::clone(&log));
        // The thread ends with the process; a connection is one request.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &served, &seen);
            }
        });
        Self { base, files, log }
    }

    fn serve(&self, path: &str, body: &[u8]) {
        self.serve_as(path, Served { body: body.to_vec(), tag: "\"one\"", ranges: true, breaks_after: None });
    }

    fn serve_as(&self, path: &str, file: Served) {
        self.files.lock().unwrap().insert(path.to_owned(), file);
    }

    /// The range headers of the requests so far.
    fn ranges(&self) -> Vec<String> {
        self.log.lock().unwrap().iter().map(|(_, range, _)| range.clone()).collect()
    }

    /// A source of this server with the checksum of `body`.
    fn source(&self, file: &'static str, body: &[u8]) -> PublishedFile {
        let site = format!("{}/", self.base).leak();
        PublishedFile { bytes: Some(body.len() as u64), ..PublishedFile::plain(site, file, sum(body).leak()) }
    }
}

fn answer(mut stream: TcpStream, files: &Mutex<HashMap<String, Served>>, log: &Log) -> std::io::Result<()> {
    let mut lines =
        BufReader::new(stream.try_clone()?).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let path =
        lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": ").map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned())))
        .collect();
    let header = |key: &str| headers.get(key).cloned().unwrap_or_default();
    log.lock().unwrap().push((path.clone(), header("range"), header("if-range")));
    let mut files = files.lock().unwrap();
    let Some(file) = files.get_mut(&path) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngone");
    };
    let start = header("range").strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse().ok());
    let same = header("if-range").is_empty() || header("if-range") == file.tag;
    let (status, start) = match start.filter(|_| file.ranges && same) {
        Some(start) => ("206 Partial Content", start),
        None => ("200 OK", 0),
    };
    let rest = &file.body[start..];
    let range = format!("Content-Range: bytes {start}-{}/{}\r\n", file.body.len() - 1, file.body.len());
    let range = if status.starts_with("206") { range } else { String::new() };
    let tag = if file.tag.is_empty() { String::new() } else { format!("ETag: {}\r\n", file.tag) };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{tag}{range}Connection: close\r\n\r\n", rest.len());
    stream.write_all(head.as_bytes())?;
    let sent = file.breaks_after.map_or(rest.len(), |most| most.min(rest.len()));
    file.breaks_after = file.breaks_after.map(|most| 2 * most);
    stream.write_all(&rest[..sent])
}

fn sum(bytes: &[u8]) -> String {
    use md5::{Digest, Md5};
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u64).map(|place| crate::rng::mix(place) as u8).collect()
}

fn go_on(_: &Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn fetch_one_of(source: &PublishedFile, into: &Path) -> Result<Fetched, DataError> {
    fetch_files(std::slice::from_ref(source), into, &mut go_on).map(|mut all| all.remove(0))
}

/// The sentence of a fetch that must fail, and that nothing is under the final name.
#[track_caller]
fn refusal(source: &PublishedFile, into: &Path) -> String {
    let message = fetch_one_of(source, into).unwrap_err().to_string();
    assert!(!into.join(source.file).exists(), "nothing unchecked has the final name");
    message
}

#[test]
fn a_file_is_fetched_once() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let body = noise(700_000);
    server.serve("a.gz", &body);
    let source = server.source("set/a.gz", &body);
    let mut seen = Vec::new();
    let mut watch = |progress: &Progress<'_>| {
        seen.push((progress.stage, progress.done));
        ControlFlow::Continue(())
    };
    let fetched = fetch_files(std::slice::from_ref(&source), into.path(), &mut watch).unwrap();
    let path = into.path().join("set/a.gz");
    assert_eq!(fetched, [Fetched { path: path.clone(), was_there: false, downloaded: 700_000 }]);
    assert!(std::fs::read(&path).unwrap() == body);
    assert!(seen.contains(&(Stage::Download, 700_000)) && seen.contains(&(Stage::Checksum, 700_000)), "{seen:?}");
    assert_eq!(fetch_one_of(&source, into.path()).unwrap(), Fetched { path, was_there: true, downloaded: 0 });
    assert_eq!(server.ranges(), [""], "what is here is not asked for again");
    let left: Vec<_> = std::fs::read_dir(into.path().join("set")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["a.gz"]);
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let body = noise(1000);
    server.serve_as("a", Served { body: body.clone(), tag: "\"v\"", ranges: true, breaks_after: Some(300) });
    let fetched = fetch_one_of(&server.source("a", &body), into.path()).unwrap();
    assert_eq!(
        (fetched.downloaded, server.ranges()),
        (1000, vec![String::new(), "bytes=300-".into(), "bytes=900-".into()])
    );
    assert_eq!(server.log.lock().unwrap()[1].2, "\"v\"", "only the same version is resumed");
    assert!(std::fs::read(fetched.path).unwrap() == body);
}

/// A fetch that was interrupted after 400 bytes of version "one".
fn interrupted(into: &Path, body: &[u8]) {
    std::fs::write(into.join("a.part"), &body[..400]).unwrap();
    std::fs::write(into.join("a.part.etag"), "\"one\"").unwrap();
}

#[test]
fn an_interrupted_fetch_goes_on() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let body = noise(1000);
    server.serve("a", &body);
    interrupted(into.path(), &body);
    let fetched = fetch_one_of(&server.source("a", &body), into.path()).unwrap();
    assert_eq!((fetched.downloaded, server.ranges()), (600, vec!["bytes=400-".into()]));
    assert!(!into.path().join("a.part").exists() && !into.path().join("a.part.etag").exists());
}

#[test]
fn a_part_that_is_whole_is_not_asked_for() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let body = noise(400);
    interrupted(into.path(), &body);
    assert_eq!(fetch_one_of(&server.source("a", &body), into.path()).unwrap().downloaded, 0);
    assert!(server.ranges().is_empty());
}

#[test]
fn a_server_without_ranges_starts_over() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let body = noise(1000);
    server.serve_as("a", Served { body: body.clone(), tag: "", ranges: false, breaks_after: None });
    interrupted(into.path(), &body);
    assert_eq!(fetch_one_of(&server.source("a", &body), into.path()).unwrap().downloaded, 1000);
}

#[test]
fn a_changed_file_starts_over() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let (old, new) = (noise(1000), noise(1001)[1..].to_vec());
    server.serve_as("a", Served { body: new.clone(), tag: "\"two\"", ranges: true, breaks_after: None });
    interrupted(into.path(), &old);
    let fetched = fetch_one_of(&server.source("a", &new), into.path()).unwrap();
    assert_eq!(fetched.downloaded, 1000);
    assert!(std::fs::read(fetched.path).unwrap() == new);
}

#[test]
fn a_file_of_another_length_is_refused_before_it_is_downloaded() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let body = noise(1000);
    server.serve("a", &body[..900]);
    let message = refusal(&server.source("a", &body), into.path());
    assert!(message.contains("it has 900 bytes, expected 1000"), "{message}");
    assert!(!into.path().join("a.part").exists());
}

#[test]
fn wrong_bytes_are_named_and_removed() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let mut body = noise(1000);
    let source = server.source("a", &body);
    body[500] ^= 1;
    server.serve("a", &body);
    let message = refusal(&source, into.path());
    assert!(message.starts_with("wrong checksum") && message.contains(&sum(&body)), "{message}");
    assert!(message.contains(source.md5) && !into.path().join("a.part").exists(), "{message}");
}

#[test]
fn a_foreign_file_under_the_final_name_is_left_alone() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    std::fs::write(into.path().join("a"), "mine").unwrap();
    let message = fetch_one_of(&server.source("a", &noise(9)), into.path()).unwrap_err().to_string();
    assert!(message.contains("move it away") && message.contains(&sum(b"mine")), "{message}");
    assert_eq!(std::fs::read(into.path().join("a")).unwrap(), b"mine");
}

#[test]
fn a_missing_file_and_a_missing_server_give_the_manual_steps() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let file = into.path().join("a").display().to_string();
    let message = refusal(&server.source("a", &noise(9)), into.path());
    assert!(message.contains("/a answered with status 404") && message.contains(&file), "{message}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = format!("http://{closed}/").leak();
    let source = PublishedFile { site, ..server.source("a", &noise(9)) };
    let message = refusal(&source, into.path());
    assert!(message.contains("cannot reach http://127") && message.contains("put it here as"), "{message}");
    assert!(message.contains(&file), "{message}");
    let source = PublishedFile { site: "http://no-such-host.invalid/", ..source };
    assert!(refusal(&source, into.path()).contains("cannot reach http://no-such-host.invalid"));
    let left: Vec<_> = std::fs::read_dir(into.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".fetch.lock"], "nothing is left of what never began");
}

#[test]
fn a_server_that_sends_nothing_is_given_up_and_says_how_far_it_came() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let body = noise(1000);
    server.serve_as("a", Served { body: body.clone(), tag: "\"one\"", ranges: true, breaks_after: Some(0) });
    interrupted(into.path(), &body);
    let message = refusal(&server.source("a", &body), into.path());
    assert!(message.contains("broke after 400 bytes of 1000"), "{message}");
    assert_eq!(std::fs::read(into.path().join("a.part")).unwrap().len(), 400, "what had come is kept");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let body = noise(1000);
    server.serve("a", &body);
    std::os::unix::fs::symlink("/dev/full", into.path().join("a.part")).unwrap();
    // The device cannot be truncated; a file system that is full can.
    let message = refusal(&server.source("a", &body), into.path());
    assert!(message.contains("a.part"), "{message}");
    for kind in [std::io::ErrorKind::StorageFull, std::io::ErrorKind::QuotaExceeded] {
        let message = FetchError::write(Path::new("a.part"), kind.into()).to_string();
        assert!(message.starts_with("no space left on the disk of a.part"), "{message}");
    }
    let message = FetchError::write(Path::new("a.part"), std::io::ErrorKind::PermissionDenied.into()).to_string();
    assert!(message.starts_with("cannot write a.part"), "only want of room is a full disk: {message}");
}

#[test]
fn two_fetches_into_one_folder_are_refused() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let _first = lock(into.path()).unwrap();
    let message = refusal(&server.source("a", &noise(9)), into.path());
    assert!(message.starts_with("another fetch is at work"), "{message}");
    assert!(lock(&into.path().join("no")).unwrap_err().to_string().starts_with("cannot write"));
}

#[test]
fn whoever_watches_can_stop_and_go_on_later() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let body = noise(1 << 20);
    server.serve("a", &body);
    let source = server.source("a", &body);
    let mut stop = |progress: &Progress<'_>| match progress.done {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let stopped = fetch_files(std::slice::from_ref(&source), into.path(), &mut stop).unwrap_err();
    assert!(matches!(stopped, DataError::Stopped { .. }), "{stopped}");
    assert!(!into.path().join("a").exists());
    let kept = std::fs::metadata(into.path().join("a.part")).unwrap().len();
    assert_eq!(fetch_one_of(&source, into.path()).unwrap().downloaded, (1 << 20) - kept);
}

#[test]
fn sets_without_an_address_say_what_to_do() {
    let into = tempfile::tempdir().unwrap();
    let refusal = |name: &str| fetch(name, into.path(), &mut go_on).unwrap_err();
    for (name, part) in [("imagenet100", "image-net.org"), ("synthetic", "generated"), ("folder", "your own")] {
        let message = refusal(name).to_string();
        assert!(message.contains(name) && message.contains(part), "{message}");
    }
    assert!(matches!(refusal("cifar11"), DataError::UnknownDataset { .. }));
}
