//! `empssl data pack` and `verify` where packs and their sources change, break, or stand alone.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::data::tree;
use crate::{empssl, refuses, stdout, succeeds};

/// `empssl data pack folder` of the tree, into the tree.
fn pack_beside(folder: &Path, more: &[&str]) -> Output {
    let arguments = ["data", "pack", "folder", "--data", "tree", "--out", "tree"];
    empssl(folder, &[&arguments[..], more].concat())
}

fn verify(folder: &Path, root: &str) -> Output {
    empssl(folder, &["data", "verify", "folder", "--data", root])
}

#[test]
fn a_pack_beside_its_source_is_made_anew_when_the_source_changes() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 70);
    let recipe = crate::recipe("synthetic/smoke.toml");
    let shrinking = ["--recipe", recipe.to_str().unwrap(), "--encoding", "jpeg"];
    succeeds(pack_beside(folder.path(), &shrinking));
    let again = stdout(&succeeds(pack_beside(folder.path(), &shrinking)));
    assert_eq!(again.matches("already up to date").count(), 2, "{again}");
    let raw = stdout(&succeeds(pack_beside(folder.path(), &[])));
    assert_eq!(raw.matches("every pixel as in the source\n").count(), 2, "{raw}");

    let class = folder.path().join("tree/train/cat");
    fs::copy(class.join("0.png"), class.join("new.png")).unwrap();
    let info = || empssl(folder.path(), &["data", "info", "folder", "--data", "tree"]);
    let sentence = refuses(&info(), 3);
    assert!(
        sentence.contains("stale pack tree/folder-train.pack") && sentence.contains("train/cat is not"),
        "{sentence}"
    );
    let healed = stdout(&succeeds(pack_beside(folder.path(), &[])));
    assert!(
        healed.starts_with("tree/folder-train.pack: 7 images") && healed.matches("already").count() == 1,
        "{healed}"
    );
    let text = stdout(&succeeds(info()));
    assert!(text.contains("images   7\n") && text.matches("made of").count() == 2, "{text}");
    succeeds(verify(folder.path(), "tree"));
}

#[test]
fn an_image_with_other_pixels_and_the_same_size_is_found() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 40);
    for name in ["train", "test"] {
        // Without compression the pixels alone tell two images apart.
        let path = folder.path().join("tree").join(name).join("cat/0.png");
        image::RgbImage::from_pixel(40, 40, image::Rgb([7, 8, 9])).save(path).unwrap();
    }
    succeeds(pack_beside(folder.path(), &[]));
    let path = folder.path().join("tree/train/cat/0.png");
    let bytes = fs::metadata(&path).unwrap().len();
    image::RgbImage::from_pixel(40, 40, image::Rgb([9, 8, 7])).save(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes, "the size does not tell");
    let output = verify(folder.path(), "tree");
    refuses(&output, 3);
    assert!(stdout(&output).contains("(image 0 has other pixels)"), "{}", stdout(&output));
}

#[test]
fn damaged_pixels_stop_whoever_uses_them_and_the_pack_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 40);
    succeeds(pack_beside(folder.path(), &[]));
    let path = folder.path().join("tree/folder-train.pack");
    let mut bytes = fs::read(&path).unwrap();
    bytes[5000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let sentence = refuses(&empssl(folder.path(), &["data", "info", "folder", "--data", "tree"]), 3);
    assert!(sentence.contains("damaged pack tree/folder-train.pack: bytes 4096 to"), "{sentence}");
    let text = stdout(&succeeds(pack_beside(folder.path(), &[])));
    assert_eq!(text.matches("already up to date").count(), 1, "{text}");
    succeeds(verify(folder.path(), "tree"));
}

#[test]
fn one_pack_alone_is_checked_and_packed_alone() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 40);
    succeeds(pack_beside(folder.path(), &["--split", "train"]));
    fs::rename(folder.path().join("tree/folder-train.pack"), folder.path().join("folder-train.pack")).unwrap();
    let text = stdout(&succeeds(verify(folder.path(), "folder-train.pack")));
    assert!(text.ends_with("note  folder test: there is no such pack beside it\n"), "{text}");
    let pack = |data: &str, out: &str| empssl(folder.path(), &["data", "pack", "folder", "--data", data, "--out", out]);
    let text = stdout(&succeeds(pack("folder-train.pack", "again")));
    assert_eq!(text.lines().count(), 1, "{text}");
    let sentence = refuses(&pack("again", "more"), 3);
    assert!(sentence.contains("there is only a pack; give again/folder-train.pack itself"), "{sentence}");
    let sentence = refuses(&pack("tree", "folder-train.pack"), 6);
    assert!(sentence.contains("the file folder-train.pack is in the way"), "{sentence}");
}

#[test]
fn a_setting_that_cannot_work_is_no_bad_data() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 70);
    let recipe = crate::recipe("synthetic/smoke.toml");
    succeeds(pack_beside(folder.path(), &["--recipe", recipe.to_str().unwrap()]));
    let arguments = ["data", "pack", "folder", "--data", "tree/folder-train.pack", "--out", "packs"];
    assert!(refuses(&empssl(folder.path(), &arguments), 4).contains("were shrunk already"));
}

/// Ctrl-C while an image is being read that takes for ever: a pipe that nobody writes to.
#[cfg(unix)]
#[track_caller]
fn interrupted_while_decoding(arguments: &[&str]) {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    let folder = tempfile::tempdir().unwrap();
    // Images that are not small are decoded once, and only to see whether they are good.
    tree(folder.path(), 70);
    let pipe = folder.path().join("tree/train/dog/pipe.png");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = crate::command(folder.path(), arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Opens as soon as the program reads.
    let writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    crate::signal(child.id(), "INT");
    std::thread::sleep(Duration::from_millis(300));
    drop(writer);
    let output = child.wait_with_output().unwrap();
    assert!(refuses(&output, 130).contains("stopped at folder train"));
    assert_eq!((stdout(&output), folder.path().join("packs/folder-train.pack").exists()), (String::new(), false));
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_verify() {
    interrupted_while_decoding(&["data", "verify", "folder", "--data", "tree"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_pack_while_it_opens() {
    let arguments = ["data", "pack", "folder", "--data", "tree", "--out", "packs", "--on-bad-image", "skip"];
    interrupted_while_decoding(&arguments);
}
