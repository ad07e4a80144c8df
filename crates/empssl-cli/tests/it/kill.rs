//! Runs that are killed at any moment end as a run that nobody disturbed.
//!
//! The short form kills three runs at chosen moments. `cargo xtask test --kill` kills twenty at random ones:
//! `EMPSSL_KILLS` says how many, `EMPSSL_KILL_SEED` repeats a choice.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::chain::{json, steps};
use crate::{command, draw_images, empssl, stderr, succeeds, training};

const STEPS: u64 = 40;
/// Five steps an epoch.
const IMAGES: u32 = 40;

/// When a run is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So many milliseconds after this step was logged.
    Step(u64, u64),
    /// While a checkpoint or snapshot is being written, after this step was logged.
    Write(u64),
}

/// Arguments of the run: eight epochs, a checkpoint of some megabytes every three steps.
fn arguments<'a>(recipe: &'a Path, out: &'a str) -> Vec<&'a str> {
    let changes = [
        "training.length={epochs=8}",
        "training.batch_size=8",
        "training.snapshot_epochs=[1,4]",
        "network.hidden=1024",
        "network.projection=512",
    ];
    let mut arguments = training(recipe, &changes);
    arguments.extend(["--dataset", "folder", "--data", "images", "--log-every", "1", "--checkpoint-every", "3"]);
    arguments.extend(["--out", out]);
    arguments
}

/// Checkpoints that are being written.
fn temporaries(run: &Path) -> Vec<PathBuf> {
    let is_temporary = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with('.') && name.contains(".safetensors.") && name.ends_with(".tmp")
    };
    let folders = [run.to_path_buf(), run.join("snapshots")];
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    files.map(|entry| entry.path()).filter(is_temporary).collect()
}

/// Whether the moment has come; a process that is writing is halted, so that it still is when it is killed.
fn has_come(moment: Moment, run: &Path, child: &Child) -> bool {
    let logged = |step: u64| run.join("metrics.jsonl").is_file() && n_lines(run) >= step;
    match moment {
        Moment::Step(step, milliseconds) => {
            let has_come = logged(step);
            if has_come {
                std::thread::sleep(Duration::from_millis(milliseconds));
            }
            has_come
        }
        Moment::Write(step) => {
            if temporaries(run).is_empty() || !logged(step) {
                return false;
            }
            crate::signal(child.id(), "STOP");
            let is_writing = !temporaries(run).is_empty();
            if !is_writing {
                crate::signal(child.id(), "CONT");
            }
            is_writing
        }
    }
}

fn n_lines(run: &Path) -> u64 {
    fs::read_to_string(run.join("metrics.jsonl")).unwrap().matches('\n').count() as u64
}

/// Trains and kills; how many steps were logged by then.
fn train_and_kill(folder: &Path, arguments: &[&str], out: &str, moment: Moment) -> u64 {
    let run = folder.join(out);
    let mut child = command(folder, arguments).stderr(Stdio::null()).spawn().unwrap();
    while !has_come(moment, &run, &child) {
        assert!(child.try_wait().unwrap().is_none(), "{moment:?} never came");
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let is_torn = !temporaries(&run).is_empty();
    assert!(is_torn || matches!(moment, Moment::Step(..)), "{moment:?}: killed too late");
    n_lines(&run)
}

/// The records without what clocks decide.
fn timeless_metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let timeless = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        for key in ["seconds", "patches_per_s", "waited"] {
            record.as_object_mut().unwrap().remove(key).unwrap();
        }
        record
    };
    text.lines().map(timeless).collect()
}

/// Every checkpoint of the run, by name: weights, statistics, momentum and position, byte for byte.
fn checkpoints(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = files(run.to_owned()).chain(files(run.join("snapshots"))).filter(|path| path.is_file());
    let saved = all.filter(|path| path.to_string_lossy().contains(".safetensors"));
    saved.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

#[track_caller]
fn assert_same_run(run: &Path, whole: &Path, moment: Moment) {
    let (found, expected) = (checkpoints(run), checkpoints(whole));
    assert!(found.keys().eq(expected.keys()), "{moment:?}: {:?}", found.keys());
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{moment:?}: {name} differs");
    }
    assert_eq!(steps(run), (1..=STEPS).collect::<Vec<_>>(), "{moment:?}");
    assert_eq!(timeless_metrics(run), timeless_metrics(whole), "{moment:?}");
    let identity = json(&run.join("run.json"));
    assert_eq!(identity["training"]["finished"], true, "{moment:?}");
    assert_eq!(identity["training"]["steps"], STEPS, "{moment:?}");
    assert!(identity["training"]["seconds"].as_f64().unwrap() > 0.0, "{moment:?}");
    let segments = identity["segments"].as_array().unwrap();
    assert_eq!(segments.len(), 2, "{moment:?}");
    assert_eq!((&segments[0]["from_step"], &segments[1]["to_step"]), (&0.into(), &STEPS.into()), "{moment:?}");
    assert_eq!(segments[0]["to_step"], segments[1]["from_step"], "{moment:?}");
    assert!(segments[0]["ended"].is_null() && segments[1]["ended"].is_string(), "{moment:?}");
}

/// Random numbers that are good enough to choose moments (a linear congruential generator of D. Knuth's).
fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

/// The moments asked for: random ones by number, else three that between them leave a checkpoint and lines after it,
/// nothing at all, and a torn file.
fn moments() -> Vec<Moment> {
    let Ok(n) = std::env::var("EMPSSL_KILLS") else {
        return vec![Moment::Step(17, 0), Moment::Step(1, 0), Moment::Write(7)];
    };
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut state = std::env::var("EMPSSL_KILL_SEED").map_or_else(|_| now(), |seed| seed.parse().unwrap());
    println!("EMPSSL_KILL_SEED={state}");
    let moment = |index: u64| match index % 2 {
        0 => Moment::Step(1 + random(&mut state, STEPS - 2), random(&mut state, 40)),
        _ => Moment::Write(1 + random(&mut state, STEPS - 10)),
    };
    (0..n.parse().expect("EMPSSL_KILLS is a number")).map(moment).collect()
}

#[test]
fn a_killed_run_ends_as_one_that_nobody_disturbed() {
    let folder = tempfile::tempdir().unwrap();
    draw_images(folder.path(), IMAGES);
    let recipe = crate::recipe("synthetic/smoke.toml");
    succeeds(empssl(folder.path(), &arguments(&recipe, "whole")));
    let whole = folder.path().join("whole");
    assert_eq!(checkpoints(&whole).len(), 4, "two and two snapshots");
    for (index, moment) in moments().into_iter().enumerate() {
        let out = format!("killed-{index}");
        let logged = train_and_kill(folder.path(), &arguments(&recipe, &out), &out, moment);
        let resume = ["train", "--resume", &out, "--device", "cpu", "--threads", "1", "--workers", "2"];
        let more = ["--log-every", "1", "--checkpoint-every", "3"];
        let output = succeeds(empssl(folder.path(), &[&resume[..], &more[..]].concat()));
        let run = folder.path().join(&out);
        assert_same_run(&run, &whole, moment);
        let from = &json(&run.join("run.json"))["segments"][1]["from_step"];
        println!("killed at {moment:?} with {logged} steps logged: went on from step {from}");
        assert_eq!(stderr(&output).contains("no checkpoint was saved yet"), *from == 0, "{}", stderr(&output));
        fs::remove_dir_all(run).unwrap();
    }
}
