//! `empssl data`: fetching, checking, packing, showing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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
    assert_eq!(fs::read_dir(folder.path().join("sets")).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_download_to_go_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = fetch(folder.path(), "tiny-imagenet", &proxy(TINY_BYTES, vec![7; 1 << 20]));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let part = folder.path().join("sets/tiny-imagenet-200.zip.part");
    let began = Instant::now();
    while fs::metadata(&part).map_or(0, |part| part.len()) < 1 << 20 {
        assert!(began.elapsed() < Duration::from_secs(30), "the download never came");
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
fn a_complete_set_is_not_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("sets/tiny-imagenet-200");
    fs::create_dir_all(set.join("val")).unwrap();
    let output_of = || output(fetch(folder.path(), "tiny-imagenet", &nobody()));
    let sentence = refuses(&output_of(), 3);
    assert!(sentence.contains("not complete: there is no wnids.txt"), "{sentence}");
    let write = |(file, bytes)| fs::File::create(set.join(file)).unwrap().set_len(bytes).unwrap();
    let files = [("wnids.txt", 2_000), ("words.txt", 2_655_750), ("val/val_annotations.txt", 347_377)];
    files.into_iter().for_each(write);
    let text = stdout(&succeeds(output_of()));
    assert_eq!(text, "sets/tiny-imagenet-200: found, its content not checked\n");
    write(("words.txt", 0));
    assert!(refuses(&output_of(), 3).contains("words.txt has 0 bytes, expected 2655750"));
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
fn a_pack_trains_to_the_same_weights_as_its_source() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 40);
    let packed = empssl(folder.path(), &["data", "pack", "folder", "--data", "tree", "--out", "packs"]);
    let text = stdout(&succeeds(packed));
    assert!(text.contains("packs/folder-train.pack: 6 images, 0.0 MB, every pixel as in the source\n"), "{text}");
    let weights = |data: &str, out: &str| {
        let small = ["training.batch_size=4", "training.length={steps=2}", "evaluation.probe.batch_size=2"]
            .map(|key| ["--set", key])
            .concat();
        let arguments = [&["--dataset", "folder", "--data", data, "--out", out][..], &small].concat();
        succeeds(train(folder.path(), &arguments));
        fs::read(folder.path().join(out).join("checkpoint.safetensors")).unwrap()
    };
    assert!(weights("tree", "a") == weights("packs", "b"));
    // The run goes on with either: they are the same images.
    let eval = stdout(&succeeds(empssl(folder.path(), &["eval", "a", "--data", "packs", "--device", "cpu"])));
    assert!(eval.contains("linear"), "{eval}");
    let again =
        empssl(folder.path(), &["data", "pack", "folder", "--data", "tree", "--out", "packs", "--split", "test"]);
    assert!(stdout(&succeeds(again)).ends_with("every pixel as in the source, already up to date\n"));
}

#[test]
fn a_recipe_shrinks_and_another_recipe_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 100);
    let recipe = crate::recipe("synthetic/smoke.toml");
    let pack = ["data", "pack", "folder", "--data", "tree", "--out", "packs", "--split", "train"];
    let shrunk = [&pack[..], &["--recipe", recipe.to_str().unwrap(), "--encoding", "jpeg", "--quality", "90"]].concat();
    let text = stdout(&succeeds(empssl(folder.path(), &shrunk)));
    assert!(text.contains("images shrunk to short sides of 64 pixels"), "{text}");
    let large = ["--set", "patches.side=64"];
    let arguments =
        [&["--dataset", "folder", "--data", "packs", "--set", "training.batch_size=4", "--out", "run"][..], &large]
            .concat();
    let sentence = refuses(&train(folder.path(), &arguments), 3);
    assert!(sentence.contains("short side of 64 pixels, the recipe needs 128"), "{sentence}");
    assert!(!folder.path().join("run").exists());
    let large = fs::read_to_string(&recipe).unwrap().replace("side = 32", "side = 64");
    fs::write(folder.path().join("large.toml"), large).unwrap();
    let show = ["data", "show", "folder", "--data", "packs", "--recipe", "large.toml", "--out", "x.png"];
    assert!(refuses(&empssl(folder.path(), &show), 3).contains("the recipe needs 128"));
    let quality = empssl(folder.path(), &[&pack[..], &["--quality", "0"]].concat());
    assert_eq!(quality.status.code(), Some(2), "{}", stderr(&quality));
}

#[test]
fn bad_packs_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 40);
    succeeds(empssl(folder.path(), &["data", "pack", "folder", "--data", "tree", "--out", "packs"]));
    let path = folder.path().join("packs/folder-train.pack");
    let good = fs::read(&path).unwrap();
    let info = || refuses(&empssl(folder.path(), &["data", "info", "folder", "--data", "packs"]), 3);
    fs::write(&path, &good[..good.len() - 7]).unwrap();
    assert!(info().contains("truncated pack packs/folder-train.pack"), "{}", info());
    let mut damaged = good.clone();
    damaged[5000] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let verified = empssl(folder.path(), &["data", "verify", "folder", "--data", "packs"]);
    assert!(refuses(&verified, 3).contains("1 of 2 checks of folder failed"));
    assert!(stdout(&verified).contains("BAD   packs/folder-train.pack: damaged pack"), "{}", stdout(&verified));

    fs::write(&path, &good).unwrap();
    succeeds(empssl(folder.path(), &["data", "verify", "folder", "--data", "packs"]));
    fs::copy(&path, folder.path().join("tree/folder-train.pack")).unwrap();
    fs::remove_file(folder.path().join("tree/train/cat/0.png")).unwrap();
    let stale = empssl(folder.path(), &["data", "verify", "folder", "--data", "tree"]);
    refuses(&stale, 3);
    assert!(stdout(&stale).contains("stale pack tree/folder-train.pack"), "{}", stdout(&stale));
    let sentence =
        refuses(&empssl(folder.path(), &["data", "pack", "folder", "--data", "tree", "--out", "/dev/null/x"]), 6);
    assert!(sentence.contains("/dev/null/x"), "{sentence}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_no_pack() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 200);
    // The limit is in units of 1,024 bytes; the signal that would end the program is ignored, as shells allow.
    let program = env!("CARGO_BIN_EXE_empssl");
    let script = format!("trap '' XFSZ; ulimit -f 64; exec {program} data pack folder --data tree --out packs");
    let output = Command::new("bash").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
    let sentence = refuses(&output, 6);
    assert!(sentence.contains("packs/folder-train.pack"), "{sentence}");
    assert_eq!(fs::read_dir(folder.path().join("packs")).unwrap().count(), 0);
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
    succeeds(empssl(folder.path(), &["data", "pack", "synthetic", "--out", "packs"]));
    let found = stdout(&succeeds(empssl(folder.path(), &["data", "info", "--data", "packs"])));
    assert!(found.contains("synthetic"), "{found}");
    succeeds(empssl(folder.path(), &["data", "verify", "--data", "packs/synthetic-test.pack"]));
    succeeds(train(folder.path(), &["--dataset", "auto", "--data", "packs", "--max-steps", "1", "--out", "run"]));
    let recipe = fs::read_to_string(folder.path().join("run/recipe.toml")).unwrap();
    assert!(recipe.contains("dataset = \"synthetic\""), "{recipe}");

    let sentence = refuses(&empssl(folder.path(), &["data", "info"]), 3);
    assert!(sentence.contains("no folder with a data set at data: check the path (--data DIR)"), "{sentence}");
    let sentence = refuses(&empssl(folder.path(), &["data", "info", "cifar10", "--data", "packs"]), 3);
    assert!(
        sentence.ends_with("what is there is synthetic (`train --dataset synthetic`, `data ... synthetic`)"),
        "{sentence}"
    );
    fs::write(folder.path().join("packs/mnist-test.pack"), "").unwrap();
    let sentence = refuses(&empssl(folder.path(), &["data", "info", "--data", "packs"]), 3);
    assert!(
        sentence.contains("could be opened as synthetic or mnist") && sentence.contains("train --dataset NAME"),
        "{sentence}"
    );
    fs::create_dir(folder.path().join("empty")).unwrap();
    let sentence = refuses(&empssl(folder.path(), &["data", "show", "--data", "empty", "--out", "x.png"]), 3);
    assert!(sentence.contains("no data set recognised at empty: looked for"), "{sentence}");
}
