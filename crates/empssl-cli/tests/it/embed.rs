//! Features for people: `empssl embed` and `empssl neighbours`.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::refusals::tree;
use crate::{empssl, refuses, stderr, stdout, succeeds, train};

/// A run of four steps on a tree of two classes of five images each, `tree/train/{cat,dog}/{0..4}.png`.
fn trained(folder: &Path) {
    tree(folder, 5);
    succeeds(train(folder, &["--dataset", "folder", "--data", "tree", "--out", "run", "--no-monitor"]));
}

fn embed(folder: &Path, arguments: &[&str]) -> Output {
    empssl(folder, &[&["embed", "--device", "cpu", "--threads", "1"], arguments].concat())
}

fn neighbours(folder: &Path, arguments: &[&str]) -> Output {
    empssl(folder, &[&["neighbours", "--device", "cpu", "--threads", "1"], arguments].concat())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

/// The numbers of a .npy file, and the text of its header.
fn npy(path: &Path) -> (String, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    let length = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    (String::from_utf8_lossy(&bytes[10..length]).into_owned(), floats(&bytes[length..]))
}

#[test]
fn every_form_holds_the_same_rows_in_the_order_of_the_inputs() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path());
    // One of another size, and not square.
    image::RgbImage::from_fn(90, 70, |x, y| image::Rgb([x as u8, y as u8, 3]))
        .save(folder.path().join("x.jpg"))
        .unwrap();
    let inputs = ["x.jpg", "tree/test/dog", "tree/test/cat/4.png"];
    let write = |checkpoint: &str, out: &str, more: &[&str]| {
        let arguments = [&inputs[..], &["--checkpoint", checkpoint, "--out", out], more].concat();
        stdout(&succeeds(embed(folder.path(), &arguments)))
    };
    assert_eq!(write("run", "a.npy", &[]), "a.npy\na.paths.txt\n");
    let (header, rows) = npy(&folder.path().join("a.npy"));
    assert!(header.contains("'<f4'") && header.contains("(7, 64)"), "{header}");
    let names = fs::read_to_string(folder.path().join("a.paths.txt")).unwrap();
    let dogs: String = (0..5).map(|index| format!("tree/test/dog/{index}.png\n")).collect();
    assert_eq!(names, format!("x.jpg\n{dogs}tree/test/cat/4.png\n"));
    assert!(rows.iter().all(|number| number.is_finite()) && rows.iter().any(|&number| number != rows[0]));
    // Cats and dogs of one number are one picture.
    assert_eq!(rows[5 * 64..6 * 64], rows[6 * 64..]);
    assert_ne!(rows[4 * 64..5 * 64], rows[6 * 64..]);

    // The checkpoint file alone is as good as its folder, and elsewhere too.
    fs::copy(folder.path().join("run/checkpoint.safetensors"), folder.path().join("alone.safetensors")).unwrap();
    write("alone.safetensors", "b.safetensors", &[]);
    let bytes = fs::read(folder.path().join("b.safetensors")).unwrap();
    let length = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..length]).unwrap();
    assert_eq!(header["features"]["shape"], serde_json::json!([7, 64]));
    assert_eq!(header["__metadata__"]["view"], "2 patches in fixed places");
    assert_eq!(floats(&bytes[length..]), rows);
    write("run/checkpoint.safetensors", "c.csv", &[]);
    let table = fs::read_to_string(folder.path().join("c.csv")).unwrap();
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("path,0,1,2,"));
    let (mut found, mut paths) = (Vec::new(), String::new());
    for line in lines {
        let (path, numbers) = line.split_once(',').unwrap();
        paths += &format!("{path}\n");
        found.extend(numbers.split(',').map(|number| number.parse::<f32>().unwrap()));
    }
    assert_eq!((found, paths), (rows.clone(), names));

    for (features, width) in [("backbone", 32), ("projection", 32)] {
        write("run", "d.npy", &["--features", features, "--patches", "4"]);
        let (header, _) = npy(&folder.path().join("d.npy"));
        assert!(header.contains(&format!("(7, {width})")), "{features}: {header}");
    }
    let mut seen = vec![rows];
    for view in [&["--view", "whole"][..], &["--view", "published"], &["--patches", "9"]] {
        write("run", "d.npy", view);
        let (_, rows) = npy(&folder.path().join("d.npy"));
        assert!(!seen.contains(&rows), "{view:?}");
        seen.push(rows);
    }
}

#[test]
fn what_cannot_be_embedded_is_refused_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path());
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir(at("mixed")).unwrap();
    fs::copy(at("tree/test/cat/1.png"), at("mixed/a.png")).unwrap();
    fs::write(at("mixed/b.png"), "no picture").unwrap();
    let refusal = |code, inputs: &str, more: &[&str]| {
        let arguments = [&[inputs, "--checkpoint", "run", "--out", "x.npy"], more].concat();
        let sentence = refuses(&embed(folder.path(), &arguments), code);
        assert!(!at("x.npy").exists() && !at("x.paths.txt").exists(), "{sentence}");
        sentence
    };
    assert!(refusal(3, "empty", &[]).contains("empty"));
    assert!(refusal(3, "absent", &[]).contains("absent"));
    let sentence = refusal(3, "mixed", &[]);
    assert!(sentence.contains("mixed/b.png") && sentence.contains("--on-bad-image skip"), "{sentence}");
    assert!(refusal(4, "mixed/a.png", &["--patches", "7"]).contains("`n_patches` is 7"));
    let none = embed(folder.path(), &["--checkpoint", "run", "--out", "x.npy"]);
    assert!(stderr(&none).contains("FILE|DIR") && none.status.code() == Some(2));
    let text = embed(folder.path(), &["mixed/a.png", "--checkpoint", "run", "--out", "x.txt"]);
    assert!(refuses(&text, 2).contains("name a file that ends in .npy, .safetensors or .csv"));

    let arguments = ["mixed", "--checkpoint", "run", "--out", "x.csv", "--on-bad-image", "skip"];
    let output = succeeds(embed(folder.path(), &arguments));
    assert!(stderr(&output).contains("left out mixed/b.png"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(at("x.csv")).unwrap().lines().count(), 2);
}

#[test]
fn a_checkpoint_that_is_none_or_of_another_architecture_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path());
    let at = |name: &str| folder.path().join(name);
    let refusal = |checkpoint: &str, code| {
        let arguments = ["tree/test/cat/1.png", "--checkpoint", checkpoint, "--out", "x.npy"];
        refuses(&embed(folder.path(), &arguments), code)
    };
    let mut bytes = fs::read(at("run/checkpoint.safetensors")).unwrap();
    for (from, to) in [(&b"hidden = 64"[..], &b"hidden = 48"[..]), (b"\"crc32\"", b"\"other\"")] {
        let place = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[place..place + to.len()].copy_from_slice(to);
    }
    fs::write(at("other.safetensors"), bytes).unwrap();
    let sentence = refusal("other.safetensors", 1);
    assert!(sentence.contains("pre_feature.0.weight") && sentence.contains("48"), "{sentence}");
    succeeds(empssl(folder.path(), &["export", "run", "--out", "weights.safetensors"]));
    assert!(refusal("weights.safetensors", 6).contains("weights.safetensors"));
    assert!(refusal("absent.safetensors", 6).contains("absent.safetensors"));
    assert!(refusal("tree", 6).contains("holds no run"));
    assert!(!at("x.npy").exists());
}

#[test]
fn neighbours_are_drawn_and_told_with_their_classes() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path());
    let arguments = ["tree/train/dog/3.png", "--checkpoint", "run", "--out", "n.png", "--count", "4"];
    let told = stdout(&succeeds(neighbours(folder.path(), &arguments)));
    let lines: Vec<&str> = told.lines().collect();
    // The third cat and the third dog are one picture; which comes first is a matter of the last bit of their features,
    // which a processor may compute otherwise in another row of a batch.
    let mut first = [lines[0], lines[1]];
    first.sort_unstable();
    assert_eq!((first, lines[4]), (["1.0000  cat  (3)", "1.0000  dog  (8)"], "n.png"), "{told}");
    assert_eq!(lines.len(), 5);
    let picture = image::open(folder.path().join("n.png")).unwrap().to_rgb8();
    assert!(picture.width() > 6 * 128 && picture.pixels().any(|pixel| pixel.0 == [0; 3]), "there are words on it");

    // Images without labels are told by their files; the checkpoint file knows its folder's images.
    let flat = folder.path().join("flat");
    fs::create_dir(&flat).unwrap();
    for index in 0..5 {
        let from = folder.path().join(format!("tree/train/cat/{index}.png"));
        fs::copy(from, flat.join(format!("{index}.png"))).unwrap();
    }
    let more = ["x.png", "--dataset", "folder", "--data", "flat", "--count", "1", "--among", "3", "--out", "n.png"];
    fs::copy(flat.join("2.png"), folder.path().join("x.png")).unwrap();
    let told = stdout(&succeeds(neighbours(folder.path(), &[&more[..], &["--checkpoint", "run"]].concat())));
    assert!(told.lines().next().unwrap().contains(".png  ("), "{told}");
    let file = ["x.png", "--checkpoint", "run/checkpoint.safetensors", "--out", "n.png", "--count", "1"];
    assert_eq!(stdout(&succeeds(neighbours(folder.path(), &file))), "1.0000  cat  (2)\nn.png\n");
}

#[test]
fn what_has_no_neighbours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path());
    let at = |name: &str| folder.path().join(name);
    let refusal = |code, image: &str, checkpoint: &str| {
        let arguments = [image, "--checkpoint", checkpoint, "--out", "n.png"];
        let sentence = refuses(&neighbours(folder.path(), &arguments), code);
        assert!(!at("n.png").exists(), "{sentence}");
        sentence
    };
    fs::write(at("bad.png"), "no picture").unwrap();
    assert!(refusal(6, "tree", "run").contains("it is a folder; name one image"));
    assert!(refusal(3, "absent.png", "run").contains("absent.png"));
    assert!(refusal(3, "bad.png", "run").contains("bad.png"));
    fs::copy(at("run/checkpoint.safetensors"), at("alone.safetensors")).unwrap();
    let sentence = refusal(6, "tree/test/cat/1.png", "alone.safetensors");
    assert!(
        sentence.contains("does not say what images it was trained on") && sentence.contains("--data"),
        "{sentence}"
    );
    fs::rename(at("tree/train"), at("moved")).unwrap();
    assert!(refusal(3, "tree/test/cat/1.png", "run").contains("--data DIR"));
}

#[test]
fn features_do_not_depend_on_the_order_of_the_images_where_patches_are_drawn_at_random() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path());
    let rows = |inputs: [&str; 3]| {
        let more = ["--checkpoint", "run", "--view", "published", "--patches", "3", "--out", "a.npy"];
        succeeds(embed(folder.path(), &[&inputs[..], &more].concat()));
        let numbers = npy(&folder.path().join("a.npy")).1;
        numbers.chunks(64).map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    // Cats and dogs of one number are one picture.
    let [one, two, twin] = ["tree/test/cat/1.png", "tree/test/cat/2.png", "tree/test/dog/1.png"];
    let forwards = rows([one, two, twin]);
    let mut backwards = rows([twin, two, one]);
    backwards.reverse();
    assert_eq!(forwards, backwards);
    assert_eq!(forwards[0], forwards[2]);
    assert_ne!(forwards[0], forwards[1]);
}
