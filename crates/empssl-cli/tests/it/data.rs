//! `empssl data`: fetching, checking, showing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::{empssl, refuses, stderr, stdout, succeeds, train};

/// `empssl data fetch NAME` into `folder`, with all traffic sent to a proxy.
fn fetch(folder: &Path, name: &str, proxy: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_empssl"));
    command.current_dir(folder).args(["data", "fetch", name, "--data", "sets"]);
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env(variable, proxy);
    }
    command.env("NO_PROXY", "").env("no_proxy", "");
    command
}

fn output(mut command: Command) -> Output {
    command.output().expect("the program starts")
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A proxy that answers every request itself, with `body` announced as `length` bytes; then it keeps the line open.
fn proxy(length: u64, body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            if read_head(&stream).starts_with("CONNECT") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                read_head(&stream);
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            open.push(stream);
        }
    });
    address
}

fn read_head(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

const TINY_BYTES: u64 = 248_100_043;

#[test]
fn fetching_what_has_no_address_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for (name, part) in [("imagenet100", "image-net.org"), ("synthetic", "generated"), ("cifar11", "unknown data set")]
    {
        let sentence = refuses(&output(fetch(folder.path(), name, &nobody())), 3);
        assert!(sentence.contains(name) && sentence.contains(part), "{sentence}");
    }
}

#[test]
fn a_machine_without_network_gets_the_manual_steps() {
    let folder = tempfile::tempdir().unwrap();
    for (name, address, file) in [
        ("cifar10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "sets/cifar-10-binary.tar.gz"),
        ("mnist", "https://ossci-datasets.s3.amazonaws.com/mnist/", "sets/MNIST/raw/train-images-idx3-ubyte.gz"),
    ] {
        let sentence = refuses(&output(fetch(folder.path(), name, &nobody())), 3);
        let steps = format!("put it here as {file}, and run this again");
        assert!(sentence.contains(address) && sentence.contains(&steps), "{sentence}");
    }
}

#[test]
fn another_file_at_the_published_address_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let sentence = refuses(&output(fetch(folder.path(), "tiny-imagenet", &proxy(9, b"moved. ok".to_vec()))), 3);
    assert!(sentence.contains("it has 9 bytes, expected 248100043"), "{sentence}");
    let left: Vec<_> = fs::read_dir(folder.path().join("sets")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".fetch.lock"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_download_to_go_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = fetch(folder.path(), "tiny-imagenet", &proxy(TINY_BYTES, vec![7; 1 << 20]));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let part = folder.path().join("sets/tiny-imagenet-200.zip.part");
    while fs::metadata(&part).map_or(0, |part| part.len()) < 1 << 20 {
        assert!(child.try_wait().unwrap().is_none(), "the download never came");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The line is silent now: the first Ctrl-C is noted, the second ends the wait for the server.
    for _ in 0..2 {
        crate::signal(child.id(), "INT");
        std::thread::sleep(Duration::from_millis(300));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(!folder.path().join("sets/tiny-imagenet-200.zip").exists());
    assert_eq!(fs::metadata(part).unwrap().len(), 1 << 20, "what had come is kept");
}

#[test]
fn the_sets_are_listed_for_people_and_for_programs() {
    let folder = tempfile::tempdir().unwrap();
    let listed = stdout(&succeeds(empssl(folder.path(), &["data", "list"])));
    assert!(empssl_data::sets::names().iter().all(|name| listed.contains(name)), "{listed}");
    let json = stdout(&succeeds(empssl(folder.path(), &["data", "list", "--json"])));
    let sets: serde_json::Value = serde_json::from_str(&json).unwrap();
    let named = |name: &str| sets.as_array().unwrap().iter().find(|set| set["name"] == name).unwrap();
    let cifar = named("cifar10");
    assert_eq!((&cifar["display_name"], &cifar["train_images"]), (&"CIFAR-10".into(), &50_000.into()));
    assert_eq!((&cifar["test_images"], &cifar["n_classes"]), (&10_000.into(), &10.into()));
    assert_eq!(cifar["class_names"][6], "frog");
    assert_eq!(cifar["urls"][0], "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz");
    assert_eq!(named("mnist")["urls"].as_array().unwrap().len(), 4);
    assert!(named("synthetic")["is_generated"] == true && named("folder")["train_images"].is_null());
    assert!(named("imagenet100")["instead_of_fetching"].as_str().unwrap().contains("image-net.org"));
}

/// A tree of two classes with three images each, `side` pixels high.
pub(crate) fn tree(folder: &Path, side: u32) {
    for (split, class) in [("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")] {
        let class = folder.join("tree").join(split).join(class);
        fs::create_dir_all(&class).unwrap();
        for index in 0..3 {
            let image = image::RgbImage::from_fn(side + 10, side, |x, y| image::Rgb([index * 40, x as u8, y as u8]));
            image.save(class.join(format!("{index}.png"))).unwrap();
        }
    }
}

#[test]
fn a_set_is_verified_file_by_file() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 40);
    let verify = || empssl(folder.path(), &["data", "verify", "folder", "--data", "tree"]);
    assert_eq!(stdout(&succeeds(verify())), "ok    folder train: 6 images\nok    folder test: 6 images\n");
    fs::write(folder.path().join("tree/test/dog/1.png"), "no picture").unwrap();
    let output = verify();
    assert!(refuses(&output, 3).contains("1 of 3 checks of folder failed"));
    let text = stdout(&output);
    assert!(text.contains("BAD   tree/test/dog/1.png: ") && text.contains("ok    folder test: 5 images"), "{text}");
    let sentence = refuses(&empssl(folder.path(), &["data", "verify", "cifar10", "--data", "nowhere"]), 3);
    assert!(sentence.contains("nowhere"), "{sentence}");
}

#[test]
fn a_sheet_is_drawn_and_a_set_described() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 40);
    let arguments = ["data", "show", "folder", "--data", "tree", "--out", "x.png"];
    assert_eq!(stdout(&succeeds(empssl(folder.path(), &arguments))), "x.png\n");
    let sheet = image::open(folder.path().join("x.png")).unwrap().into_rgb8();
    assert!(sheet.width() > 1000 && sheet.height() > 1000, "{:?}", sheet.dimensions());
    let info = stdout(&succeeds(empssl(folder.path(), &["data", "info", "folder", "--data", "tree"])));
    for part in ["images   6\n", "classes  2, 3 images each\n", "dog                      3\n", "40x50 to 40x50"] {
        assert!(info.contains(part), "{info}");
    }
    fs::remove_dir_all(folder.path().join("tree/train")).unwrap();
    let info = stdout(&succeeds(empssl(folder.path(), &["data", "info", "folder", "--data", "tree"])));
    assert!(info.starts_with("train: none, ") && info.contains("test: folder"), "{info}");
    succeeds(empssl(folder.path(), &["data", "show", "folder", "--data", "tree", "--out", "no-ending"]));
    assert!(fs::read(folder.path().join("no-ending")).unwrap().starts_with(b"\x89PNG"));
    let train = ["data", "show", "folder", "--data", "tree", "--split", "train", "--out", "y.png"];
    refuses(&empssl(folder.path(), &train), 3);
    let unwritable = ["data", "show", "folder", "--data", "tree", "--out", "no/x.png"];
    let sentence = refuses(&empssl(folder.path(), &unwritable), 6);
    assert!(sentence.contains("no/x.png"), "{sentence}");
}

#[test]
fn a_set_is_recognised_by_its_files() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 40);
    let found = stdout(&succeeds(empssl(folder.path(), &["data", "info", "--data", "tree"])));
    assert!(found.contains("folder train"), "{found}");
    succeeds(empssl(folder.path(), &["data", "verify", "--data", "tree"]));
    let small = ["--set", "training.batch_size=4", "--set", "evaluation.probe.batch_size=2"];
    let auto = ["--dataset", "auto", "--data", "tree", "--max-steps", "1", "--out", "run"];
    succeeds(train(folder.path(), &[&auto[..], &small].concat()));
    let recipe = fs::read_to_string(folder.path().join("run/recipe.toml")).unwrap();
    assert!(recipe.contains("dataset = \"folder\""), "{recipe}");

    let sentence = refuses(&empssl(folder.path(), &["data", "info"]), 3);
    assert!(sentence.contains("no folder with a data set at data: check the path (--data DIR)"), "{sentence}");
    let sentence = refuses(&empssl(folder.path(), &["data", "info", "cifar10", "--data", "tree"]), 3);
    assert!(sentence.ends_with("what is there is folder (`train --dataset folder`, `data ... folder`)"), "{sentence}");
    for file in ["t10k-images-idx3-ubyte", "stl10_binary/test_X.bin"] {
        let path = folder.path().join("two").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let sentence = refuses(&empssl(folder.path(), &["data", "info", "--data", "two"]), 3);
    assert!(
        sentence.contains("could be opened as mnist or fashion-mnist or stl10")
            && sentence.contains("train --dataset NAME"),
        "{sentence}"
    );
    fs::create_dir(folder.path().join("empty")).unwrap();
    let sentence = refuses(&empssl(folder.path(), &["data", "show", "--data", "empty", "--out", "x.png"]), 3);
    assert!(sentence.contains("no data set recognised at empty: looked for"), "{sentence}");
}

/// Ctrl-C while an image is being read that takes for ever: a pipe that nobody writes to.
#[cfg(unix)]
#[test]
fn ctrl_c_stops_verify() {
    let folder = tempfile::tempdir().unwrap();
    // Images that are not small are decoded once, and only to see whether they are good.
    tree(folder.path(), 70);
    let pipe = folder.path().join("tree/train/dog/pipe.png");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = crate::command(folder.path(), &["data", "verify", "folder", "--data", "tree"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Opens as soon as the program reads.
    let writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    crate::signal(child.id(), "INT");
    std::thread::sleep(Duration::from_millis(300));
    drop(writer);
    let output = child.wait_with_output().unwrap();
    assert!(refuses(&output, 130).contains("stopped at folder train"));
    assert_eq!(stdout(&output), "");
}
