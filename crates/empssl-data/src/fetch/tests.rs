//! Fetching from a small server on this machine that can do everything a server may do wrong.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use super::unpack::{Limits, unpack};
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
    fn source(&self, file: &str, body: &[u8]) -> Source {
        Source {
            url: format!("{}/{file}", self.base),
            file: file.to_owned(),
            bytes: Some(body.len() as u64),
            md5: sum(body),
            unpack: None,
        }
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

fn fetch_one_of(source: &Source, into: &Path) -> Result<Fetched, DataError> {
    fetch_sources(std::slice::from_ref(source), into, &mut go_on).map(|mut all| all.remove(0))
}

/// The sentence of a fetch that must fail, and that nothing is under the final name.
#[track_caller]
fn refusal(source: &Source, into: &Path) -> String {
    let message = fetch_one_of(source, into).unwrap_err().to_string();
    assert!(!into.join(&source.file).exists(), "nothing unchecked has the final name");
    message
}

#[test]
fn a_file_is_fetched_once() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let body = noise(700_000);
    server.serve("set/a.gz", &body);
    let source = server.source("set/a.gz", &body);
    let mut seen = Vec::new();
    let mut watch = |progress: &Progress<'_>| {
        seen.push((progress.stage, progress.done));
        ControlFlow::Continue(())
    };
    let fetched = fetch_sources(std::slice::from_ref(&source), into.path(), &mut watch).unwrap();
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
    assert!(message.contains(&source.md5) && !into.path().join("a.part").exists(), "{message}");
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
    let source = Source { url: format!("http://{closed}/a"), ..server.source("a", &noise(9)) };
    let message = refusal(&source, into.path());
    assert!(message.contains("cannot reach http://127") && message.contains("put it here as"), "{message}");
    assert!(message.contains(&file), "{message}");
    let source = Source { url: "http://no-such-host.invalid/a".into(), ..source };
    assert!(refusal(&source, into.path()).contains("cannot reach http://no-such-host.invalid"));
    assert_eq!(std::fs::read_dir(into.path()).unwrap().count(), 0, "nothing is left of what never began");
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
}

#[test]
fn two_fetches_into_one_folder_are_refused() {
    let (server, into) = (Server::start(), tempfile::tempdir().unwrap());
    let _first = Lock::take(into.path()).unwrap();
    let message = refusal(&server.source("a", &noise(9)), into.path());
    assert!(message.starts_with("another fetch is at work"), "{message}");
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
    let stopped = fetch_sources(std::slice::from_ref(&source), into.path(), &mut stop).unwrap_err();
    assert!(matches!(stopped, DataError::Stopped { .. }), "{stopped}");
    assert!(!into.path().join("a").exists());
    let kept = std::fs::metadata(into.path().join("a.part")).unwrap().len();
    assert_eq!(fetch_one_of(&source, into.path()).unwrap().downloaded, (1 << 20) - kept);
}

/// One entry of a tape archive made by hand, good or bad.
fn tar_entry(tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, data: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.set_cksum();
    tar.append(&header, data).unwrap();
}

pub(super) fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

pub(super) fn tar_of(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    entries.iter().for_each(|(name, kind, data)| tar_entry(&mut tar, name, *kind, data));
    tar.into_inner().unwrap()
}

fn tar_gz(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    gzipped(&tar_of(entries))
}

pub(super) fn zip_of(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, mode, data) in entries {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(*mode);
        if *mode == 0o120_777 {
            zip.add_symlink(*name, "/etc/passwd", options).unwrap();
        } else {
            zip.start_file(*name, options).unwrap();
            zip.write_all(data).unwrap();
        }
    }
    zip.finish().unwrap().into_inner()
}

fn unpacks_to(form: Form) -> Unpack {
    Unpack { form, folder: "set".into(), files: vec![Member { path: "x.bin".into(), bytes: Some(5), md5: None }] }
}

pub(super) const FILE: tar::EntryType = tar::EntryType::Regular;

#[test]
fn archives_are_unpacked_and_found_complete_the_second_time() {
    let server = Server::start();
    let tar =
        tar_gz(&[("set/", tar::EntryType::Directory, b""), ("set/x.bin", FILE, b"hello"), ("set/d/y", FILE, b"")]);
    let zip = zip_of(&[("set/x.bin", 0o644, b"hello"), ("set/d/y", 0o644, b"")]);
    for (form, archive) in [(Form::TarGz, tar), (Form::Zip, zip)] {
        let into = tempfile::tempdir().unwrap();
        server.serve("set.archive", &archive);
        let source = Source { unpack: Some(unpacks_to(form)), ..server.source("set.archive", &archive) };
        let fetched = fetch_one_of(&source, into.path()).unwrap();
        assert_eq!((fetched.path, fetched.was_there), (into.path().join("set"), false));
        assert_eq!(std::fs::read(into.path().join("set/x.bin")).unwrap(), b"hello");
        assert!(into.path().join("set/d/y").is_file());
        assert!(fetch_one_of(&source, into.path()).unwrap().was_there);
        // Half a set left by something else is not taken for a whole one.
        std::fs::write(into.path().join("set/x.bin"), "hell").unwrap();
        let message = fetch_one_of(&source, into.path()).unwrap_err().to_string();
        assert!(message.contains("not complete: x.bin has 4 bytes, expected 5"), "{message}");
        // The archive is still here: nothing is downloaded again.
        std::fs::remove_dir_all(into.path().join("set")).unwrap();
        std::fs::create_dir(into.path().join(".set.unpacking")).unwrap();
        assert_eq!(fetch_one_of(&source, into.path()).unwrap().downloaded, 0);
        let mut left: Vec<_> = std::fs::read_dir(into.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["set", "set.archive"]);
    }
}

#[test]
fn every_unpacked_file_is_waited_for_before_the_folder_gets_its_name() {
    let into = tempfile::tempdir().unwrap();
    let archive = into.path().join("set.archive");
    let entries = [("set/d/first", FILE, &b"12345"[..]), ("set/x.bin", FILE, b"hello")];
    std::fs::write(&archive, tar_gz(&entries)).unwrap();
    // Whoever watches takes the first file away when the last is written: waiting for it fails.
    let first = into.path().join(".set.unpacking/set/d/first");
    let mut thief = |progress: &Progress<'_>| {
        if progress.done == 10 {
            let _ = std::fs::remove_file(&first);
        }
        ControlFlow::Continue(())
    };
    let error = unpack(&archive, &unpacks_to(Form::TarGz), into.path(), Limits::PUBLISHED, &mut thief).unwrap_err();
    assert!(error.to_string().contains("d/first") && !into.path().join("set").exists(), "{error}");
}

/// What unpacking says about an archive that must be refused; nothing may be left of it.
#[track_caller]
fn refused(form: Form, archive: &[u8], limits: Limits) -> String {
    let into = tempfile::tempdir().unwrap();
    let file = into.path().join("set.archive");
    std::fs::write(&file, archive).unwrap();
    let error = unpack(&file, &unpacks_to(form), into.path(), limits, &mut go_on).unwrap_err();
    assert_eq!(std::fs::read_dir(into.path()).unwrap().count(), 1, "only the archive is left: {error}");
    error.to_string()
}

#[test]
fn tape_archives_cannot_escape_link_or_make_devices() {
    for (entry, reason) in [
        (("../x", FILE), "climbs out"),
        (("/set/x", FILE), "absolute"),
        (("other/x", FILE), "outside the folder"),
        (("set/x\\y", FILE), "backslash"),
        (("set/x", tar::EntryType::Symlink), "neither a file nor a folder"),
        (("set/x", tar::EntryType::Link), "neither a file nor a folder"),
        (("set/x", tar::EntryType::Char), "neither a file nor a folder"),
        (("set/x", tar::EntryType::Fifo), "neither a file nor a folder"),
        (("set/x", tar::EntryType::GNULongName), "neither a file nor a folder"),
    ] {
        let ((name, kind), data) = (entry, if entry.1 == FILE { &b"abc"[..] } else { b"" });
        let archive = tar_gz(&[("set/x.bin", FILE, b"hello"), (name, kind, data)]);
        let message = refused(Form::TarGz, &archive, Limits::PUBLISHED);
        assert!(message.contains(reason) && message.contains("set.archive"), "{name}: {message}");
    }
}

#[test]
fn extended_headers_may_not_rename() {
    let header = |text: &'static [u8]| tar_gz(&[("pax", tar::EntryType::XHeader, text), ("set/x.bin", FILE, b"hello")]);
    let message = refused(Form::TarGz, &header(b"16 path=../evil\n"), Limits::PUBLISHED);
    assert!(message.contains("changes names"), "{message}");
    let into = tempfile::tempdir().unwrap();
    let file = into.path().join("a");
    std::fs::write(&file, header(b"20 mtime=1700000000\n")).unwrap();
    unpack(&file, &unpacks_to(Form::TarGz), into.path(), Limits::PUBLISHED, &mut go_on).unwrap();
}

#[test]
fn zip_archives_cannot_escape_or_link() {
    for (name, mode, reason) in [
        ("../x", 0o644, "climbs out"),
        ("/set/x", 0o644, "absolute"),
        ("other/x", 0o644, "outside the folder"),
        ("set/x", 0o120_777, "neither a file nor a folder"),
    ] {
        let message = refused(Form::Zip, &zip_of(&[(name, mode, b"abc")]), Limits::PUBLISHED);
        assert!(message.contains(reason), "{name}: {message}");
    }
}

#[test]
fn archives_that_grow_too_much_are_stopped() {
    let zeros = vec![0; 3 << 20];
    let forms = [
        (Form::TarGz, tar_gz(&[("set/x.bin", FILE, &zeros), ("set/y", FILE, b"")])),
        (Form::Zip, zip_of(&[("set/x.bin", 0o644, &zeros), ("set/y", 0o644, b"")])),
    ];
    for (form, archive) in forms {
        let limits = Limits { ratio: 2, ..Limits::PUBLISHED };
        assert!(refused(form, &archive, limits).contains("larger than the 2097152 bytes allowed"));
        let limits = Limits { bytes: 1000, ..Limits::PUBLISHED };
        assert!(refused(form, &archive, limits).contains("larger than the 1000 bytes allowed"));
        let limits = Limits { entries: 1, ..Limits::PUBLISHED };
        assert!(refused(form, &archive, limits).contains("more than 1 entries"));
    }
}

#[test]
fn damaged_doubled_and_incomplete_archives_are_refused() {
    let good = tar_gz(&[("set/x.bin", FILE, b"hello"), ("set/noise", FILE, &noise(5000))]);
    for cut in [10, good.len() / 2, good.len() - 9] {
        let message = refused(Form::TarGz, &good[..cut], Limits::PUBLISHED);
        assert!(message.contains("damaged"), "{cut}: {message}");
    }
    assert!(refused(Form::Zip, b"no archive at all", Limits::PUBLISHED).contains("damaged"));
    let doubled = tar_gz(&[("set/x.bin", FILE, b"hello"), ("set/x.bin", FILE, b"again")]);
    assert!(refused(Form::TarGz, &doubled, Limits::PUBLISHED).starts_with("cannot write"));
    let lacking = tar_gz(&[("set/y.bin", FILE, b"hello")]);
    assert!(refused(Form::TarGz, &lacking, Limits::PUBLISHED).contains("there is no x.bin"));
}
