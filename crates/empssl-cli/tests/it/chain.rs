//! From generated images to a report, in seconds.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{empssl, refuses, stdout, succeeds, train};

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The steps that `metrics.jsonl` tells of; a line that is just being written is left out.
pub(crate) fn steps(run: &Path) -> Vec<u64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap()).collect()
}

#[test]
fn a_run_is_trained_scored_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("runs/synthetic-smoke-s0");
    succeeds(train(folder.path(), &["--log-every", "1"]));
    assert_eq!(steps(&run), [1, 2, 3, 4]);
    let table = stdout(&succeeds(empssl(folder.path(), &["eval", run.to_str().unwrap(), "--device", "cpu"])));
    assert!(table.contains("EMP-SSL on synthetic (generated images): recipe smoke, seed 0\n"), "{table}");

    let report = json(&run.join("report.json"));
    assert_eq!((&report["synthetic"], &report["partial"]), (&Value::Bool(true), &Value::Bool(false)));
    assert_eq!(report["published"].as_array().unwrap().len(), 0);
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<String> =
        rows.iter().map(|row| format!("{} {}", row["encoder"], row["probe"]).replace('"', "")).collect();
    let of_networks = ["linear", "knn", "knn", "knn", "knn", "linear-optimum", "few-labels", "few-labels"];
    let networks =
        ["trained", "untrained"].iter().flat_map(|encoder| of_networks.map(|score| format!("{encoder} {score}")));
    let pixels = ["linear", "knn", "knn", "knn", "knn", "linear-optimum"].map(|score| format!("pixels {score}"));
    assert_eq!(names, networks.chain(pixels).collect::<Vec<_>>());
    let (few, all): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(|row| row["probe"] == "few-labels");
    assert!(all.iter().all(|row| row["n_train"] == 500 && row["n_test"] == 2000), "one labelled subset for every row");
    assert!(few.iter().all(|row| row["n_seeds"] == 3 && row["top1_deviation"].is_f64()), "{few:?}");
    assert_eq!(few.iter().map(|row| row["n_train"].as_u64().unwrap()).collect::<Vec<_>>(), [10, 50, 10, 50]);
    let ks = rows[1..5].iter().map(|row| row["setting"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(ks, [20, 1, 5, 200].map(|k| format!("cosine, k {k}, T 0.07")), "the published k comes first");
    assert!(rows.iter().all(|row| row["scored_on"] == "test"));
    assert!(rows.iter().all(|row| row["top1"].as_f64().unwrap() <= row["top5"].as_f64().unwrap()));
    assert!(report["peak_bytes"]["host"].as_u64().unwrap() > 50 << 20);
    assert!(report["recipe_toml"].as_str().unwrap().contains("epochs = 2"), "the resolved recipe is stored");

    let scatter = fs::read_to_string(run.join("scatter.svg")).unwrap();
    assert_eq!(scatter.matches("<circle class=\"p\"").count(), 1000);
    assert!(scatter.contains("1000 of 2000 test images by the trained features, t-SNE"));

    for (part, first) in [("network", "backbone.conv1.weight"), ("backbone", "conv1.weight")] {
        let file = folder.path().join(format!("{part}.safetensors"));
        succeeds(empssl(
            folder.path(),
            &["export", run.to_str().unwrap(), "--part", part, "--out", file.to_str().unwrap()],
        ));
        let bytes = fs::read(&file).unwrap();
        let header: Value =
            serde_json::from_slice(&bytes[8..8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize]).unwrap();
        assert!(header.get(first).is_some(), "{part}");
        assert_eq!(header["__metadata__"]["dataset"], "synthetic");
    }
}

#[test]
fn a_trial_continues_to_the_same_weights_as_a_whole_run() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(train(folder.path(), &["--out", "whole", "--log-every", "1"]));
    succeeds(train(folder.path(), &["--out", "parts", "--log-every", "1", "--max-steps", "3"]));
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    assert_eq!(json(&parts.join("run.json"))["training"]["finished"], false);
    let resume = ["train", "--resume", "parts", "--device", "cpu", "--threads", "1", "--log-every", "1"];
    succeeds(empssl(folder.path(), &resume));
    assert_eq!(
        fs::read(whole.join("checkpoint.safetensors")).unwrap(),
        fs::read(parts.join("checkpoint.safetensors")).unwrap()
    );
    assert_eq!(steps(&parts), [1, 2, 3, 4]);
    assert_eq!(json(&parts.join("run.json"))["training"]["finished"], true);
}

#[test]
fn a_run_killed_after_its_last_checkpoint_keeps_its_seconds_and_its_moved_images() {
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    for index in 0..10 {
        fs::create_dir_all(&here).unwrap();
        let image = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8, index * 20]));
        image.save(here.join(format!("{index}.png"))).unwrap();
    }
    let arguments = ["--dataset", "folder", "--data", "here", "--out", "run", "--log-every", "1", "--max-steps", "2"];
    succeeds(train(folder.path(), &arguments));
    // What a kill leaves: lines after the last checkpoint, and a run.json that knows nothing of the training.
    let metrics = folder.path().join("run/metrics.jsonl");
    let text = fs::read_to_string(&metrics).unwrap();
    let line = |step: u64, seconds: f64| {
        let mut record: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        (record["step"], record["seconds"]) = (step.into(), seconds.into());
        format!("{record}\n")
    };
    fs::write(&metrics, line(1, 40.0) + &line(2, 80.0) + &line(3, 120.0) + "{\"step\":4,\"ep").unwrap();
    fs::rename(&here, &there).unwrap();
    let resume = ["train", "--resume", "run", "--device", "cpu", "--threads", "1", "--log-every", "1"];
    let sentence = refuses(&empssl(folder.path(), &resume), 3);
    assert!(sentence.contains("here") && sentence.contains("--data DIR"), "{sentence}");
    succeeds(empssl(folder.path(), &[&resume[..], &["--data", "there"]].concat()));
    assert_eq!(steps(&folder.path().join("run")), [1, 2, 3, 4]);
    let seconds = json(&folder.path().join("run/run.json"))["training"]["seconds"].as_f64().unwrap();
    assert!((80.0..110.0).contains(&seconds), "{seconds}");
}

#[test]
fn every_memory_mode_precision_and_layout_trains_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = |changes: &[&str]| {
        let set = changes.iter().flat_map(|change| ["--set", change]);
        let arguments: Vec<&str> = ["--out", "run", "--force", "--log-every", "1"].into_iter().chain(set).collect();
        succeeds(train(folder.path(), &arguments));
        let run = folder.path().join("run");
        let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
        (last["loss"].as_f64().unwrap(), json(&run.join("run.json"))["model"]["norm_patches"].as_u64().unwrap())
    };
    let (whole, all) = checkpoint(&["training.memory=whole"]);
    assert_eq!(all, 2);
    for same in ["training.memory=by-stage", "training.layout=channels-last", "training.precision=tf32"] {
        let (loss, at_once) = checkpoint(&[same]);
        assert!((loss - whole).abs() < 1e-3 * whole.abs() && at_once == 2, "{same}: {loss} against {whole}");
    }
    let (loss, at_once) = checkpoint(&["training.memory={by-patches=1}"]);
    assert!(loss != whole && (loss - whole).abs() < 0.2 * whole.abs() && at_once == 1, "{loss} against {whole}");
    let (loss, _) = checkpoint(&["training.precision=bf16"]);
    assert!(loss != whole && (loss - whole).abs() < 0.05 * whole.abs(), "{loss} against {whole}");
}
