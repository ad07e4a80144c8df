//! kNN on labelled training images while a run goes on.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::chain::steps;
use crate::{draw_images, empssl, stderr, succeeds, train, training};

/// What each line of `metrics.jsonl` says of the features: step and top-1.
fn checks(run: &Path) -> Vec<(u64, f64)> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| Some((line["step"].as_u64()?, line["monitor"]["knn_top1"].as_f64()?))).collect()
}

#[test]
fn a_monitored_run_ends_in_the_bits_of_one_that_is_not_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| folder.path().join(name);
    let text =
        stderr(&succeeds(train(folder.path(), &["--out", "watched", "--log-every", "3", "--monitor-every", "2"])));
    assert!(text.lines().any(|line| line.starts_with("training 4/4 steps") && line.contains("  kNN ")), "{text}");
    assert!(text.contains(" s of kNN)"), "{text}");
    assert_eq!(steps(&run("watched")), [1, 2, 3, 4], "a step with a check has a record");
    let watched = checks(&run("watched"));
    assert_eq!(watched.iter().map(|check| check.0).collect::<Vec<_>>(), [2, 4]);
    assert!(watched.iter().all(|check| (1.0..=100.0).contains(&check.1)), "{watched:?}");

    succeeds(train(folder.path(), &["--out", "plain", "--log-every", "3", "--no-monitor"]));
    assert_eq!((steps(&run("plain")), checks(&run("plain"))), (vec![1, 3, 4], vec![]));
    succeeds(train(folder.path(), &["--out", "parts", "--log-every", "1", "--monitor-every", "1", "--max-steps", "3"]));
    let resume = ["train", "--resume", "parts", "--device", "cpu", "--threads", "1", "--log-every", "1"];
    succeeds(empssl(folder.path(), &[&resume[..], &["--monitor-every", "2"]].concat()));
    assert_eq!(steps(&run("parts")), [1, 2, 3, 4]);
    let parts = checks(&run("parts"));
    assert_eq!(parts.iter().map(|check| check.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!((parts[1], parts[3]), (watched[0], watched[1]), "the same weights have the same neighbours");

    let bits = |name: &str| fs::read(run(name).join("checkpoint.safetensors")).unwrap();
    assert!(bits("watched") == bits("plain") && bits("parts") == bits("plain"));
}

#[test]
fn images_without_labels_are_not_monitored_and_others_after_every_tenth_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    draw_images(folder.path(), 12);
    let arguments = ["--dataset", "folder", "--data", "images", "--out", "flat", "--monitor-every", "1"];
    let text = stderr(&succeeds(train(folder.path(), &arguments)));
    assert_eq!(text.matches("note: the images have no labels, so no kNN says").count(), 1, "{text}");
    assert_eq!(checks(&folder.path().join("flat")), []);
    let recipe = crate::recipe("synthetic/smoke.toml");
    let arguments = training(&recipe, &["training.length={steps=12}", "training.batch_size=8"]);
    succeeds(empssl(folder.path(), &[&arguments[..], &["--out", "whole"]].concat()));
    let checked: Vec<u64> = checks(&folder.path().join("whole")).into_iter().map(|check| check.0).collect();
    assert_eq!(checked, [2, 3, 4, 5, 6, 8, 9, 10, 11, 12]);
}
