//! A frozen network on images other than those that it learnt from.

use std::fs;

use serde_json::Value;

use crate::chain::json;
use crate::refusals::tree;
use crate::{empssl, refuses, stderr, succeeds, train};

const EVAL: [&str; 5] = ["eval", "--device", "cpu", "--threads", "1"];

#[test]
fn a_run_and_its_checkpoint_alone_are_scored_on_another_set() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    tree(here, 6);
    succeeds(train(here, &["--out", "run", "--set", "evaluation.probe.batch_size=4"]));
    let flags = ["--checkpoint", "run", "--dataset", "folder", "--data", "tree"];
    let scored = succeeds(empssl(here, &[&EVAL[..], &flags].concat()));
    assert!(stderr(&scored).contains("a random patch shows 25 % of an image's area"), "{}", stderr(&scored));
    let report = json(&here.join("run/checkpoint.report-folder.json"));
    assert_eq!((&report["transfer"]["trained_on"], &report["dataset"]), (&"synthetic".into(), &"folder".into()));
    assert!(report["title"].as_str().unwrap().starts_with("EMP-SSL from synthetic to folder"), "{}", report["title"]);
    assert_eq!((&report["bars"], &report["published"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    assert!(!here.join("run/report.json").exists(), "the run's own report is another");

    fs::copy(here.join("run/checkpoint.safetensors"), here.join("alone.safetensors")).unwrap();
    let flags = ["--checkpoint", "alone.safetensors", "--dataset", "folder", "--data", "tree", "--out", "alone.json"];
    succeeds(empssl(here, &[&EVAL[..], &flags].concat()));
    let top1 =
        |report: &Value| report["rows"].as_array().unwrap().iter().map(|row| row["top1"].clone()).collect::<Vec<_>>();
    assert_eq!(top1(&json(&here.join("alone.json"))), top1(&report));
    let stored = succeeds(empssl(here, &[&EVAL[..], &flags].concat()));
    assert!(stderr(&stored).contains("features taken from alone.features"), "{}", stderr(&stored));
}

#[test]
fn a_transfer_names_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    succeeds(train(here, &["--out", "run"]));
    let refused = |arguments: &[&str], code, named: &str| {
        let output = empssl(here, arguments);
        refuses(&output, code);
        assert!(stderr(&output).contains(named), "{arguments:?}: {}", stderr(&output));
    };
    refused(&["eval"], 2, "RUN");
    refused(&["eval", "--checkpoint", "run"], 2, "--dataset");
    refused(&["eval", "run", "--dataset", "cifar10"], 2, "--dataset");
    refused(&["eval", "run", "--partial"], 2, "--partial");
    let file = ["eval", "--device", "cpu", "--dataset", "synthetic", "--checkpoint"];
    refused(&[&file[..], &["run/recipe.toml"]].concat(), 6, "recipe.toml");
    let snapshot = ["run/checkpoint.safetensors", "--snapshot", "1"];
    refused(&[&file[..], &snapshot].concat(), 6, "--snapshot names a state of a run");
    let absent = ["eval", "--device", "cpu", "--checkpoint", "run", "--dataset", "cifar10", "--data", "nowhere"];
    refused(&absent, 3, "nowhere");
}
