//! Features once, scores many: what is kept, what is taken again, what is refused, and what `empssl runs` shows of it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::chain::json;
use crate::refusals::tree;
use crate::{empssl, refuses, stderr, stdout, succeeds, train};

/// A folder with a small tree of two classes and a run on it, `run`.
pub(crate) fn trained(seed: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 6);
    train_in(folder.path(), "run", seed);
    folder
}

fn train_in(folder: &Path, out: &str, seed: &str) {
    let set = ["--set", "evaluation.probe.batch_size=4"];
    let arguments = ["--dataset", "folder", "--data", "tree", "--out", out, "--seed", seed];
    succeeds(train(folder, &[&arguments[..], &set].concat()));
}

fn eval(folder: &Path, more: &[&str]) -> std::process::Output {
    empssl(folder, &[&["eval", "run", "--device", "cpu", "--threads", "1"], more].concat())
}

/// Everything in a report that does not depend on time.
fn accuracies(folder: &Path) -> Vec<Value> {
    let report = json(&folder.join("run/report.json"));
    let all = ["rows", "test_curve"].map(|key| report[key].as_array().unwrap().clone()).concat();
    all.iter().map(|row| row["top1"].clone()).collect()
}

fn banks(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("run/features")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".lock");
    names.sort();
    names
}

#[test]
fn features_are_computed_once_and_the_curve_costs_one_pass() {
    let folder = trained("0");
    let first = succeeds(eval(folder.path(), &[]));
    assert!(!stderr(&first).contains("features taken from"), "{}", stderr(&first));
    let table = stdout(&first);
    assert!(table.contains("published  linear") && table.contains("ms an image"), "{table}");
    let views = ["grid-1", "grid-4", "grid-flip-2", "published", "whole-1"];
    let mut expected: Vec<String> = views
        .iter()
        .flat_map(|view| ["test", "train"].map(|split| format!("trained-{view}.{split}.safetensors")))
        .collect();
    expected.extend(["test", "train"].map(|split| format!("untrained-published.{split}.safetensors")));
    assert_eq!(banks(folder.path()), expected, "pixels are not kept, and nothing unfinished is left");

    let report = json(&folder.path().join("run/report.json"));
    let points: Vec<String> = report["test_curve"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| {
            format!("{} {} {}", point["view"].as_str().unwrap(), point["n_patches"], point["probe"].as_str().unwrap())
        })
        .collect();
    let places = ["published 1", "published 2", "grid 1", "grid 4", "grid-flip 2", "whole 1"];
    assert_eq!(
        points,
        places.iter().flat_map(|place| ["linear", "knn"].map(|probe| format!("{place} {probe}"))).collect::<Vec<_>>()
    );
    let row = &report["rows"][0];
    assert!(row["chosen_on_test"].as_f64().unwrap() >= row["top1"].as_f64().unwrap());
    assert_eq!(report["rows"][1]["chosen_on_test"], Value::Null);

    let (before, modified) = (accuracies(folder.path()), modified(folder.path()));
    for flags in [&[][..], &["--features", "reuse"]] {
        let again = succeeds(eval(folder.path(), flags));
        assert_eq!(stderr(&again).matches("note: features taken from run/features/").count(), 12, "{}", stderr(&again));
        assert_eq!(accuracies(folder.path()), before);
    }
    assert_eq!(self::modified(folder.path()), modified, "no file was written again");
    let report = json(&folder.path().join("run/report.json"));
    assert_eq!(report["features"].as_array().unwrap().iter().filter(|file| file["reused"] == true).count(), 12);
    succeeds(eval(folder.path(), &["--features", "fresh"]));
    assert_eq!(accuracies(folder.path()), before);
    assert_ne!(self::modified(folder.path()), modified);
}

fn modified(folder: &Path) -> Vec<std::time::SystemTime> {
    let path = |name: &String| folder.join("run/features").join(name);
    banks(folder).iter().map(|name| fs::metadata(path(name)).unwrap().modified().unwrap()).collect()
}

/// Puts something else in the place of a bank.
type Spoil<'a> = Box<dyn Fn() + 'a>;

#[test]
fn features_of_another_state_other_images_or_a_damaged_file_are_refused_or_computed_again() {
    let folder = trained("0");
    train_in(folder.path(), "other", "1");
    succeeds(eval(folder.path(), &[]));
    let good = accuracies(folder.path());
    let bank = folder.path().join("run/features/trained-published.test.safetensors");
    let own = fs::read(&bank).unwrap();
    let other_run = empssl(folder.path(), &["eval", "other", "--device", "cpu", "--threads", "1"]);
    succeeds(other_run);
    let cases: [(&str, Spoil<'_>); 4] = [
        (
            "`encoder` is ",
            Box::new(|| copy(&folder.path().join("other/features/trained-published.test.safetensors"), &bank)),
        ),
        (
            "`split` is train there and test here",
            Box::new(|| copy(&bank.with_file_name("trained-published.train.safetensors"), &bank)),
        ),
        ("truncated", Box::new(|| fs::write(&bank, &own[..own.len() - 8]).unwrap())),
        (
            "damaged: its crc32",
            Box::new(|| {
                let mut bytes = own.clone();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(&bank, bytes).unwrap();
            }),
        ),
    ];
    for (named, spoil) in cases {
        spoil();
        let sentence = refuses(&eval(folder.path(), &["--features", "reuse"]), 6);
        assert!(sentence.contains("trained-published.test.safetensors") && sentence.contains(named), "{sentence}");
        let mended = succeeds(eval(folder.path(), &[]));
        assert!(stderr(&mended).contains(named) && stderr(&mended).contains("computed again"), "{}", stderr(&mended));
        assert_eq!(accuracies(folder.path()), good);
        succeeds(eval(folder.path(), &["--features", "reuse"]));
    }
    fs::remove_file(&bank).unwrap();
    assert!(refuses(&eval(folder.path(), &["--features", "reuse"]), 6).contains("cannot read run/features/trained"));
    let more = ["--features", "reuse", "--set", "evaluation.n_patches=4", "--set", "evaluation.view=grid"];
    assert!(refuses(&eval(folder.path(), &more), 6).contains("untrained-grid-4"));
    let patches = refuses(&eval(folder.path(), &["--set", "training.n_patches=4"]), 6);
    assert!(patches.contains("`training.n_patches` is 2 there and 4 here"), "{patches}");
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
}

#[test]
fn a_lattice_that_the_table_is_from_is_a_point_of_the_curve_without_a_second_pass() {
    let folder = trained("0");
    let grid = ["--set", "evaluation.view=grid", "--set", "evaluation.n_patches=4"];
    let first = succeeds(eval(folder.path(), &grid));
    assert!(!stderr(&first).contains("features taken from"), "{}", stderr(&first));
    let report = json(&folder.path().join("run/report.json"));
    let points = report["test_curve"].as_array().unwrap();
    let point =
        |view: &str, n: u64| points.iter().find(|point| point["view"] == view && point["n_patches"] == n).unwrap();
    assert_eq!(point("grid", 4)["top1"], report["rows"][0]["top1"]);
    assert_eq!(point("published", 2)["probe"], "linear");
    assert_eq!(report["model"]["test_patches"], 4);
}

#[test]
fn other_outputs_are_kept_and_written_for_numpy() {
    let folder = trained("0");
    let curve = ["--set", "evaluation.curve.grid=[]", "--set", "evaluation.curve.grid_flip=[]"];
    let keep = ["--keep", "backbone,projection", "--npy", "arrays"];
    succeeds(eval(folder.path(), &[&curve[..], &keep].concat()));
    let shape = |name: &str| {
        let bytes = fs::read(folder.path().join("arrays").join(name)).unwrap();
        let text = String::from_utf8_lossy(&bytes[..128]).into_owned();
        text.split("'shape': ").nth(1).unwrap().split(", }").next().unwrap().to_owned()
    };
    for (name, expected) in [
        ("train-features.npy", "(12, 64)"),
        ("train-backbone.npy", "(12, 32)"),
        ("test-projection.npy", "(12, 32)"),
        ("test-labels.npy", "(12,)"),
        ("train-ids.npy", "(12,)"),
    ] {
        assert_eq!(shape(name), expected, "{name}");
    }
    // What was kept holds the features too, so it serves an evaluation that asks for them alone.
    let again = succeeds(eval(folder.path(), &[&curve[..], &["--features", "reuse"]].concat()));
    assert!(stderr(&again).contains("trained-published.train"), "{}", stderr(&again));
}

#[test]
fn one_image_and_a_class_that_is_absent_from_training_are_scored_and_told() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), 6);
    train_in(folder.path(), "run", "0");
    let one = ["--set", "evaluation.labelled_images=1", "--set", "evaluation.probe.batch_size=1"];
    let output = succeeds(eval(folder.path(), &one));
    assert!(stderr(&output).contains("note: 1 of 2 classes have no labelled training image ("), "{}", stderr(&output));
    let report = json(&folder.path().join("run/report.json"));
    assert_eq!((report["labelled"]["n_train"].as_u64(), report["rows"][0]["top1"].as_f64()), (Some(1), Some(50.0)));
    assert_eq!(report["labelled"]["absent_classes"].as_array().unwrap().len(), 1);
    let few = ["--set", "evaluation.labelled_images=1", "--set", "evaluation.probe.batch_size=100"];
    let sentence = refuses(&eval(folder.path(), &few), 4);
    let key = "`evaluation.probe.batch_size` must be at most the number of labelled training images, found 100 with 1";
    assert!(sentence.contains(key), "{sentence}");
}

#[test]
fn held_out_training_images_are_scored_in_place_of_the_test_images_and_the_report_says_so() {
    let folder = trained("0");
    let held_out = ["--set", "evaluation.scored_on=held-out", "--npy", "arrays"];
    succeeds(eval(folder.path(), &held_out));
    let report = json(&folder.path().join("run/report.json"));
    let title = report["title"].as_str().unwrap();
    assert!(title.ends_with(", scored on 2 held-out training images"), "{title}");
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["scored_on"] == "held-out" && row["n_test"] == 2), "{rows:?}");
    assert_eq!((&rows[0]["n_train"], &report["labelled"]["n_train_available"]), (&10.into(), &10.into()));
    assert_eq!(rows[0]["chosen_on_test"], Value::Null);
    let files = banks(folder.path());
    assert!(files.contains(&"trained-published.held-out.safetensors".to_owned()), "{files:?}");
    assert!(files.iter().all(|file| !file.contains(".test.")), "{files:?}");
    // A training image is learnt from or scored.
    let ids = |split: &str| {
        let bytes = fs::read(folder.path().join(format!("arrays/{split}-ids.npy"))).unwrap();
        bytes[128..].as_chunks::<8>().0.iter().map(|id| i64::from_le_bytes(*id)).collect::<Vec<_>>()
    };
    let mut all = [ids("train"), ids("held-out")].concat();
    all.sort_unstable();
    assert_eq!(all, (0..12).collect::<Vec<_>>());
}

#[test]
fn random_patches_of_one_split_tell_nothing_about_those_of_the_other() {
    let folder = tempfile::tempdir().unwrap();
    // One and the same picture, in every class and in both splits.
    tree(folder.path(), 1);
    let picture = fs::read(folder.path().join("tree/train/cat/0.png")).unwrap();
    for class in ["train/cat", "train/dog", "test/cat", "test/dog"] {
        (0..6).for_each(|index| fs::write(folder.path().join(format!("tree/{class}/{index}.png")), &picture).unwrap());
    }
    train_in(folder.path(), "run", "0");
    let rows = |split: &str, view: &str, n: &str| {
        let set = [format!("evaluation.view={view}"), format!("evaluation.n_patches={n}")];
        succeeds(eval(folder.path(), &["--npy", "arrays", "--set", &set[0], "--set", &set[1]]));
        let bytes = fs::read(folder.path().join(format!("arrays/{split}-features.npy"))).unwrap();
        bytes[128..].chunks(64 * 4).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let (train, test) = (rows("train", "published", "2"), rows("test", "published", "2"));
    assert_eq!((train.len(), test.len()), (12, 12));
    assert!(train.iter().all(|row| !test.contains(row)), "a test image has the patches of a training image");
    let whole = [rows("train", "whole", "1"), rows("test", "whole", "1")].concat();
    assert!(whole.iter().all(|row| *row == whole[0]));
}

#[test]
fn runs_are_listed_with_their_scores_and_cleaned_of_features_alone() {
    let folder = trained("3");
    let runs = |more: &[&str]| stdout(&succeeds(empssl(folder.path(), &[&["runs"], more].concat())));
    fs::create_dir(folder.path().join("runs")).unwrap();
    assert_eq!(runs(&[]), "no runs in runs\n");
    let listed = runs(&["."]);
    assert!(listed.contains("smoke, seed 3") && listed.contains("finished") && !listed.contains('%'), "{listed}");
    succeeds(eval(folder.path(), &[]));
    let listed: Value = serde_json::from_str(&runs(&[".", "--json"])).unwrap();
    let (run, report) = (&listed[0], json(&folder.path().join("run/report.json")));
    assert_eq!(
        (run["name"].as_str(), run["data"].as_str(), run["state"].as_str()),
        (Some("run"), Some("folder"), Some("finished"))
    );
    assert_eq!((run["step"].as_u64(), run["steps"].as_u64()), (Some(4), Some(4)));
    assert_eq!(run["last"]["linear"], report["rows"][0]["top1"]);
    assert_eq!(run["best"]["state"], "last");
    let bytes = |key: &str| run[key].as_u64().unwrap();
    let checkpoint = fs::metadata(folder.path().join("run/checkpoint.safetensors")).unwrap().len();
    assert!(bytes("checkpoint_bytes") >= checkpoint && bytes("feature_bytes") > 10_000, "{run}");
    assert!(runs(&["run"]).contains("in features, which `empssl runs --clean` removes"));

    let kept: Vec<(PathBuf, Vec<u8>)> = ["checkpoint.safetensors", "report.json", "run.json", "metrics.jsonl"]
        .map(|name| folder.path().join("run").join(name))
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let cleaned = runs(&["--clean", "run"]);
    assert!(cleaned.contains("12 files of features") && cleaned.contains("freed in all"), "{cleaned}");
    assert!(!folder.path().join("run/features").exists());
    kept.iter().for_each(|(path, bytes)| assert_eq!(fs::read(path).unwrap(), *bytes, "{}", path.display()));
    let again: Value = serde_json::from_str(&runs(&[".", "--clean", "--json"])).unwrap();
    assert_eq!((again[0]["freed_bytes"].as_u64(), again[0]["banks"].as_u64()), (Some(0), Some(0)));
    assert!(refuses(&empssl(folder.path(), &["runs", "--clean", "tree"]), 6).contains("holds no run"));
    assert!(
        refuses(&empssl(folder.path(), &["runs", "nowhere"]), 6).contains("cannot read the folder of runs nowhere")
    );
}
