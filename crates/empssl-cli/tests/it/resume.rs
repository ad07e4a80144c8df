//! What stops a run, what it goes on from, and what it refuses.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::chain::{json, steps};
use crate::{empssl, refuses, stderr, succeeds, train};

const RESUME: [&str; 9] = ["train", "--resume", "run", "--device", "cpu", "--threads", "1", "--log-every", "1"];

/// A finished run of four steps with checkpoints of the third and the fourth.
fn finished_run(folder: &Path) {
    succeeds(train(folder, &["--out", "run", "--log-every", "1", "--checkpoint-every", "3"]));
}

/// Changes the first character of a text in a checkpoint's header; without its checksum, or the file would be damaged.
fn say_in_header(file: &Path, key: &str, character: u8) {
    let mut bytes = fs::read(file).unwrap();
    let place = |bytes: &[u8], key: &str| {
        let key = format!("\"{key}\":\"");
        bytes.windows(key.len()).position(|window| window == key.as_bytes()).map(|at| at + key.len())
    };
    let at = place(&bytes, key).unwrap();
    bytes[at] = character;
    if let Some(checksum) = place(&bytes, "crc32") {
        bytes[checksum - 8..checksum - 3].copy_from_slice(b"other");
    }
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_resumed_run_demands_its_own_recipe_where_it_shapes_the_result() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(train(folder.path(), &["--out", "run", "--max-steps", "2"]));
    let change = |change| empssl(folder.path(), &[&RESUME[..], &["--set", change]].concat());
    let sentence = refuses(&change("schedule.lr=0.2"), 6);
    assert!(sentence.contains("checkpoint.safetensors"), "{sentence}");
    assert!(sentence.contains("another recipe: `schedule.lr` is 0.3 there and 0.2 here; put back"), "{sentence}");
    let recipe = folder.path().join("run/recipe.toml");
    let text = fs::read_to_string(&recipe).unwrap();
    fs::write(&recipe, text.replace("n_patches = 2\nbatch_size = 8", "n_patches = 3\nbatch_size = 8")).unwrap();
    let sentence = refuses(&empssl(folder.path(), &RESUME), 6);
    assert!(sentence.contains("`training.n_patches` is 2 there and 3 here"), "{sentence}");
    fs::write(&recipe, text).unwrap();
    succeeds(change("evaluation.knn.k=[7]"));
    assert!(fs::read_to_string(&recipe).unwrap().contains("k = [7]"), "the change is stored");
    assert_eq!(json(&folder.path().join("run/run.json"))["segments"][1]["changes"][0], "evaluation.knn.k=[7]");
}

/// The step that a checkpoint's header tells of.
fn has_step(file: &Path, step: u64) -> bool {
    let text = format!("\"step\":\"{step}\"");
    fs::read(file).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_resumed_run_keeps_its_options_until_they_are_changed_and_a_trials_limit_for_one_call() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let options = ["--log-every", "1", "--checkpoint-every", "2", "--monitor-every", "3", "--deterministic"];
    let more = ["--set", "training.length={steps=6}", "--max-steps", "1", "--out", "run"];
    succeeds(train(folder.path(), &[&options[..], &more].concat()));
    let resume = |more: &[&str]| succeeds(empssl(folder.path(), &[&["train", "--resume", "run"], more].concat()));
    resume(&["--max-steps", "5"]);
    assert_eq!(steps(&run), [1, 2, 3, 4, 5]);
    assert!(has_step(&run.join("checkpoint.previous.safetensors"), 4), "a checkpoint every two steps");
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let checked: Vec<bool> = metrics.lines().map(|line| line.contains("\"monitor\"")).collect();
    // A trial ends with a check.
    assert_eq!(checked, [true, false, true, false, true]);
    resume(&["--log-every", "4", "--checkpoint-every", "10min", "--no-monitor", "--workers", "2", "--threads", "2"]);
    assert_eq!(steps(&run), [1, 2, 3, 4, 5, 6], "the limit of a trial is forgotten");
    let segments = json(&run.join("run.json"))["segments"].clone();
    assert_eq!(segments[0]["options"], segments[1]["options"]);
    let compute = serde_json::json!({ "device": "cpu", "threads": 1, "deterministic": true });
    let first = serde_json::json!({
        "compute": compute, "workers": 1, "log_every": 1, "monitor_every": 3, "no_monitor": false, "checkpoint_every": "2"
    });
    assert_eq!(segments[1]["options"], first);
    assert_eq!((&segments[1]["workers"], &segments[1]["machine"]["threads"]), (&1.into(), &1.into()));
    let compute = serde_json::json!({ "device": "cpu", "threads": 2, "deterministic": true });
    let changed = serde_json::json!({
        "compute": compute, "workers": 2, "log_every": 4, "monitor_every": null, "no_monitor": true,
        "checkpoint_every": "10min"
    });
    assert_eq!(segments[2]["options"], changed);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_warning_when_training_and_refused_when_scoring() {
    let folder = tempfile::tempdir().unwrap();
    finished_run(folder.path());
    let newest = folder.path().join("run/checkpoint.safetensors");
    let good = fs::read(&newest).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&newest, flipped).unwrap();
    let sentence = refuses(&empssl(folder.path(), &["eval", "run", "--device", "cpu"]), 6);
    assert!(sentence.contains("it is damaged: its crc32 is"), "{sentence}");
    fs::write(&newest, &good[..good.len() / 2]).unwrap();
    let sentence = refuses(&empssl(folder.path(), &["eval", "run", "--device", "cpu"]), 6);
    assert!(sentence.contains("truncated"), "{sentence}");
    assert!(sentence.contains("`empssl train --resume run` goes on from the checkpoint before it, of step 3"));
    let output = succeeds(empssl(folder.path(), &RESUME));
    let text = stderr(&output);
    let warning = text.lines().find(|line| line.starts_with("warning: ")).unwrap();
    for part in ["checkpoint.safetensors is not a readable", "checkpoint.previous.safetensors, of step 3"] {
        assert!(warning.contains(part), "{warning}");
    }
    assert_eq!(fs::read(&newest).unwrap(), good, "the step that was lost gives the same bits again");
    assert!(folder.path().join("run/checkpoint.damaged.safetensors").is_file());
    assert_eq!(steps(&folder.path().join("run")), [1, 2, 3, 4]);
}

#[test]
fn another_thread_count_and_another_libtorch_are_told() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(train(folder.path(), &["--out", "run", "--max-steps", "2"]));
    say_in_header(&folder.path().join("run/checkpoint.safetensors"), "libtorch_version", b'1');
    let resume = ["train", "--resume", "run", "--device", "cpu", "--threads", "2"];
    let text = stderr(&succeeds(empssl(folder.path(), &resume)));
    for note in ["note: 2 threads now, 1 before: ", "note: libtorch 2."] {
        assert!(text.lines().any(|line| line.starts_with(note) && line.ends_with("bits may differ")), "{text}");
    }
    let segments = json(&folder.path().join("run/run.json"))["segments"].clone();
    assert_eq!((&segments[0]["machine"]["threads"], &segments[1]["machine"]["threads"]), (&1.into(), &2.into()));
}

#[test]
fn a_checkpoint_of_another_format_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    finished_run(folder.path());
    let file = folder.path().join("run/checkpoint.safetensors");
    for (version, cure) in [(b'1', "the older empssl"), (b'9', "the newer empssl")] {
        say_in_header(&file, "format_version", version);
        let sentence = refuses(&empssl(folder.path(), &RESUME), 6);
        assert!(sentence.contains("its format is version") && sentence.contains(cure), "{sentence}");
    }
}

#[test]
fn snapshots_are_scored_as_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    // One step an epoch.
    crate::refusals::tree(folder.path(), 5);
    let more = ["--dataset", "folder", "--data", "tree", "--out", "run", "--set", "training.snapshot_epochs=[1]"];
    let probe = ["--set", "evaluation.probe.batch_size=4", "--set", "evaluation.knn.k=[3]"];
    succeeds(train(folder.path(), &[&more[..], &probe[..]].concat()));
    let eval = |snapshot| empssl(folder.path(), &["eval", "run", "--device", "cpu", "--snapshot", snapshot]);
    succeeds(eval("1"));
    let report = json(&folder.path().join("run/snapshots/epoch-0001.report.json"));
    assert!(report["title"].as_str().unwrap().ends_with(", snapshot after 1 epoch"), "{}", report["title"]);
    assert_eq!((&report["model"]["steps"], &report["model"]["epochs"]), (&1.into(), &1.0.into()));
    assert_eq!((&report["model"]["patches_seen"], &report["training_finished"]), (&16.into(), &false.into()));
    assert!(report["seconds"]["train"].as_f64().unwrap() > 0.0);
    assert!(!folder.path().join("run/report.json").exists());
    let sentence = refuses(&eval("2"), 6);
    assert!(sentence.contains("no snapshot after 2 epochs; its recipe has snapshot_epochs = [1]"), "{sentence}");
    let export = ["export", "run", "--snapshot", "1", "--out", "w.safetensors"];
    succeeds(empssl(folder.path(), &export));
    let more = ["--dataset", "folder", "--data", "tree", "--set", "training.snapshot_epochs=[5]"];
    assert!(refuses(&train(folder.path(), &more), 4).contains("epochs that the run completes"));
}

/// Training that goes on until it is stopped, into `run`, after its second step; `before` is put before the program.
fn endless(folder: &Path, before: &[&str], more: &[&str]) -> Child {
    let words = [before, &[env!("CARGO_BIN_EXE_empssl"), "train", "--device", "cpu", "--threads", "1"]].concat();
    let mut command = Command::new(words[0]);
    command.current_dir(folder).args(&words[1..]).args(["--workers", "1", "--log-every", "1", "--out", "run"]);
    command.args(["--set", "training.length={steps=100000}", "--set", "training.batch_size=8"]).args(more);
    let recipe = crate::recipe("synthetic/smoke.toml");
    let mut child = command.arg("--recipe").arg(recipe).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = folder.join("run/metrics.jsonl");
    let begun = || fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= 2);
    while !begun() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let child = endless(folder.path(), &[], &[]);
    // A second process is kept out, and told by whom.
    let resume = ["train", "--resume", "run", "--device", "cpu"];
    let recipe = crate::recipe("synthetic/smoke.toml");
    let force = ["train", "--recipe", recipe.to_str().unwrap(), "--out", "run", "--force", "--device", "cpu"];
    for arguments in [&resume[..], &force[..]] {
        let sentence = refuses(&empssl(folder.path(), arguments), 6);
        assert!(sentence.contains(&format!("run is in use by process {} on ", child.id())), "{sentence}");
    }
    crate::signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    let sentence = refuses(&output, 130);
    assert!(sentence.contains("stopped by Ctrl-C at step") && sentence.contains("--resume run"), "{sentence}");
    let run = json(&folder.path().join("run/run.json"));
    assert_eq!(run["training"]["finished"], false);
    assert!(run["training"]["steps"].as_u64().unwrap() >= 2, "{}", stderr(&output));
    assert!(folder.path().join("run/checkpoint.safetensors").is_file());

    // Its score is that of the steps it took, whatever was planned.
    succeeds(empssl(folder.path(), &["eval", "run", "--device", "cpu", "--threads", "1"]));
    let report = json(&folder.path().join("run/report.json"));
    assert_eq!(report["model"]["steps"], run["training"]["steps"]);
    assert!(report["seconds"]["train"].as_f64().unwrap() > 0.0);
}

#[cfg(unix)]
#[test]
fn a_second_signal_ends_a_run_in_the_middle_of_a_step() {
    let folder = tempfile::tempdir().unwrap();
    // A step of some seconds.
    let slow = ["--set", "training.n_patches=4", "--set", "network.base_width=32", "--set", "training.batch_size=100"];
    let recipe = crate::recipe("synthetic/smoke.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_empssl"));
    command.current_dir(folder.path()).args(["train", "--device", "cpu", "--threads", "2", "--out", "run", "--recipe"]);
    let mut child = command.arg(recipe).args(slow).stderr(Stdio::piped()).spawn().unwrap();
    while !folder.path().join("run/metrics.jsonl").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    crate::signal(child.id(), "INT");
    std::thread::sleep(Duration::from_millis(50));
    crate::signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(!folder.path().join("run/checkpoint.safetensors").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn other_signals_are_called_by_name_and_nohup_is_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = endless(folder.path(), &["nohup"], &[]);
    crate::signal(child.id(), "HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "the end of the terminal ended the run");
    crate::signal(child.id(), "TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(stderr(&output).contains("stopped by SIGTERM at step"), "{}", stderr(&output));
}

#[test]
fn a_run_without_a_checkpoint_keeps_its_recipe_too() {
    let folder = tempfile::tempdir().unwrap();
    finished_run(folder.path());
    let run = folder.path().join("run");
    for name in ["checkpoint.safetensors", "checkpoint.previous.safetensors"] {
        fs::remove_file(run.join(name)).unwrap();
    }
    let resume = ["train", "--resume", "run", "--device", "cpu", "--threads", "1"];
    let sentence = refuses(&empssl(folder.path(), &[&resume[..], &["--set", "schedule.lr=0.01"]].concat()), 6);
    assert!(sentence.contains("`schedule.lr` is 0.3 there and 0.01 here"), "{sentence}");
    fs::remove_file(run.join("run.json")).unwrap();
    let sentence = refuses(&empssl(folder.path(), &resume), 6);
    assert!(sentence.contains("ended before it began") && sentence.contains("--force"), "{sentence}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_checkpoint_before_it() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(train(folder.path(), &["--out", "run", "--max-steps", "2"]));
    let file = folder.path().join("run/checkpoint.safetensors");
    let before = fs::read(&file).unwrap();
    // The limit is in units of 1,024 bytes; the signal that would end the program is ignored, as shells allow.
    let script = format!(
        "trap '' XFSZ; ulimit -f 64; exec {} train --resume run --device cpu --threads 1 --checkpoint-every 3",
        env!("CARGO_BIN_EXE_empssl")
    );
    let output = std::process::Command::new("bash").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
    let sentence = refuses(&output, 6);
    for part in ["the checkpoint of step 3 was not saved", "checkpoint.safetensors: File too large", "is untouched"] {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert_eq!(fs::read(&file).unwrap(), before, "the checkpoint before it is intact");
    let left: Vec<_> = fs::read_dir(folder.path().join("run")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{left:?}");
    assert!(left.iter().all(|name| *name != "checkpoint.previous.safetensors"), "{left:?}");
    // With room again the run goes on to the bits of one that never lacked it.
    succeeds(empssl(folder.path(), &RESUME));
    succeeds(train(folder.path(), &["--out", "whole"]));
    assert_eq!(fs::read(&file).unwrap(), fs::read(folder.path().join("whole/checkpoint.safetensors")).unwrap());
}
