//! Where the time of a step goes, as the program tells it.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::{empssl, recipe, refuses, stdout, succeeds};

/// `empssl bench step` by the smoke recipe with small batches, and more arguments.
fn bench(folder: &Path, more: &[&str]) -> Output {
    let recipe = recipe("synthetic/smoke.toml");
    let fixed = ["bench", "step", "--device", "cpu", "--threads", "1", "--workers", "1", "--recipe"];
    let sized = [recipe.to_str().unwrap(), "--set", "training.batch_size=8"];
    empssl(folder, &[&fixed[..], &sized, more].concat())
}

fn numbers(phases: &[Value], key: impl Fn(&Value) -> &Value) -> Vec<f64> {
    phases.iter().map(|phase| key(phase).as_f64().unwrap_or(f64::NAN)).collect()
}

#[test]
fn the_shares_of_a_step_add_up_and_nothing_but_the_json_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let table = stdout(&succeeds(bench(folder.path(), &["--steps", "4", "--warmup", "1", "--json", "step.json"])));
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["step.json"]);

    let report: Value = serde_json::from_slice(&fs::read(folder.path().join("step.json")).unwrap()).unwrap();
    let measured = &report["measured"];
    let phases = measured["phases"].as_array().unwrap();
    let names: Vec<&str> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(names, ["data wait", "copy", "forward", "loss", "recompute", "backward", "optimizer", "other"]);
    let shares: f64 = numbers(phases, |phase| &phase["share"]).iter().sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    let step = measured["step_seconds"]["mean"].as_f64().unwrap();
    let means: f64 = numbers(phases, |phase| &phase["seconds"]["mean"]).iter().sum();
    assert!((means / step - 1.0).abs() < 1e-9, "{means} of {step}");
    assert_eq!(measured["each_step_seconds"].as_array().unwrap().len(), 4);

    let operations: f64 = numbers(phases, |phase| &phase["operations"]).iter().sum();
    assert_eq!(operations, measured["operations"].as_f64().unwrap());
    let busy = |name: &str| &phases[names.iter().position(|other| *other == name).unwrap()]["of_product_rate"];
    assert!(busy("forward").as_f64().unwrap() > 0.0 && busy("recompute").is_null() && busy("copy").is_null());
    let (per_second, median) = (&measured["patches_per_s"], measured["step_seconds"]["median"].as_f64().unwrap());
    // Reading a number from JSON may move its last bit.
    assert!((per_second.as_f64().unwrap() * median / 16.0 - 1.0).abs() < 1e-12);
    assert!(measured["overlapped_step_seconds"].is_null(), "nothing overlaps on a CPU");
    assert!(measured["product_rate"]["operations_per_s"].as_f64().unwrap() > 1e8);

    assert_eq!(report["recipe"]["training"]["batch_size"], 8);
    assert_eq!((&report["machine"]["device"], &report["machine"]["threads"]), (&"cpu".into(), &1.into()));
    assert!(report["machine"]["versions"]["libtorch"].as_str().unwrap().starts_with("2.11"));
    assert!(report["command"].as_str().unwrap().contains("--steps 4"));
    assert!(report["peak_bytes"]["host"].as_u64().is_none_or(|bytes| bytes > 1 << 20));
    for line in ["data wait ", "optimizer ", "step ", "16 patches a step", "GFLOP/s", "100.00%"] {
        assert!(table.contains(line), "{table}");
    }
    assert!(!table.contains("recompute "), "{table}");
}

#[test]
fn what_a_memory_mode_recomputes_is_a_phase_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let table = |memory: &str| {
        let set = format!("training.memory={memory}");
        stdout(&succeeds(bench(folder.path(), &["--steps", "1", "--warmup", "0", "--set", &set])))
    };
    for memory in ["by-stage", "{by-patches=1}"] {
        let table = table(memory);
        assert!(table.contains("\nrecompute ") && table.contains("memory = ") && table.contains("by-"), "{table}");
    }
}

#[test]
fn a_bench_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |more: &[&str], code| refuses(&bench(folder.path(), more), code);
    assert!(refused(&["--steps", "0"], 2).contains("0 is not in 1..=1000000"));
    assert!(refused(&["--set", "training.n_patch=3"], 4).contains("did you mean `n_patches`?"));
    assert!(refused(&["--dataset", "cifar10"], 3).contains("--data DIR"));
    assert!(refused(&["--set", "training.batch_size=20000"], 4).contains("at most the number of images"));
    assert!(refused(&["--set", "training.n_patches=1000000"], 1).contains("out of memory"));
    let few = ["--steps", "1", "--warmup", "0", "--json", "absent/step.json"];
    assert!(refused(&few, 6).contains("cannot write absent/step.json"));
}
