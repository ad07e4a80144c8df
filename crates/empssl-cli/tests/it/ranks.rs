//! Several processes train as one: what they leave, and what ends them.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use crate::chain::{json, steps};
use crate::{command, empssl, refuses, stderr, succeeds, training};

/// `empssl train` of so many steps of 8 images by the smoke recipe, with more arguments.
fn arguments<'a>(recipe: &'a Path, length: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = training(recipe, &[length, "training.batch_size=8"]);
    arguments.extend(["--log-every", "1", "--out", "run"]);
    arguments.extend(more);
    arguments
}

fn losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    text.lines().map(loss).collect()
}

#[track_caller]
fn assert_same_curve(a: &Path, b: &Path) {
    let (a, b) = (losses(a), losses(b));
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(&b).all(|(a, b)| ((a - b) / b).abs() <= 0.01), "{a:?} {b:?}");
}

const SIX: &str = "training.length={steps=6}";

#[test]
fn two_processes_train_as_one_and_go_on_as_one() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let recipe = crate::recipe("synthetic/smoke.toml");
    succeeds(empssl(one.path(), &arguments(&recipe, SIX, &[])));
    let output = succeeds(empssl(two.path(), &arguments(&recipe, SIX, &["--nproc", "2", "--max-steps", "4"])));
    let text = stderr(&output);
    assert!(text.contains("2 ranks, 2 of them on this host, share every batch; BatchNorm is global"), "{text}");
    assert!(text.contains("2 ranks: ") && text.contains(" collectives and "), "{text}");
    assert_eq!(text.matches("trained 4 steps").count(), 1, "only rank 0 prints: {text}");
    let run = two.path().join("run");
    let output = succeeds(empssl(
        two.path(),
        &["train", "--resume", "run", "--device", "cpu", "--threads", "1", "--log-every", "1"],
    ));
    assert!(stderr(&output).contains("note: 1 ranks now, 2 before"), "{}", stderr(&output));
    assert_same_curve(&run, &one.path().join("run"));
    assert_eq!(steps(&run), [1, 2, 3, 4, 5, 6]);
    let identity = json(&run.join("run.json"));
    assert_eq!((&identity["segments"][0]["ranks"], &identity["segments"][1]["ranks"]), (&2.into(), &1.into()));
    assert_eq!(identity["training"]["finished"], true);
}

/// As `torchrun --no-python` starts them.
#[test]
fn a_launchers_variables_make_ranks_and_per_rank_statistics_are_no_other_numbers_business() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = crate::recipe("synthetic/smoke.toml");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let arguments = arguments(&recipe, SIX, &["--set", "training.batch_norm=per-rank", "--max-steps", "3"]);
    let start = |rank: &str| {
        let mut command = command(folder.path(), &arguments);
        command.envs([("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")]);
        command.envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port)]);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let ranks = ["0", "1"].map(start);
    let outputs = ranks.map(|rank| succeeds(rank.wait_with_output().unwrap()));
    assert!(stderr(&outputs[0]).contains("BatchNorm is per-rank") && stderr(&outputs[1]).is_empty());
    let resume = ["train", "--resume", "run", "--device", "cpu", "--threads", "1"];
    let sentence = refuses(&empssl(folder.path(), &resume), 6);
    assert!(
        sentence.contains("was trained by 2 ranks") && sentence.contains("go on with as many, not with 1"),
        "{sentence}"
    );
    succeeds(empssl(folder.path(), &[&resume[..], &["--nproc", "2"]].concat()));
    assert_eq!(json(&folder.path().join("run/run.json"))["training"]["steps"], 6);
}

/// As `torchrun --no-python --nproc-per-node 1`: every collective, and nobody to add anything.
#[test]
fn a_group_of_one_trains_to_the_bits_of_a_process_alone() {
    let (alone, group) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let recipe = crate::recipe("synthetic/smoke.toml");
    succeeds(empssl(alone.path(), &arguments(&recipe, SIX, &[])));
    let mut rank = command(group.path(), &arguments(&recipe, SIX, &["--set", "training.batch_norm=per-rank"]));
    rank.envs([("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1")]);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let output = succeeds(rank.env("MASTER_PORT", port).output().unwrap());
    let text = stderr(&output);
    assert!(text.contains("1 ranks, 1 of them on this host") && text.contains("tensors go by Gloo"), "{text}");
    let losses = |folder: &tempfile::TempDir| losses(&folder.path().join("run"));
    assert_eq!(losses(&alone), losses(&group));
    let tensors = |folder: &tempfile::TempDir| {
        let bytes = fs::read(folder.path().join("run/checkpoint.safetensors")).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[header..].to_vec()
    };
    assert!(tensors(&alone) == tensors(&group), "weights, statistics or momentum differ");
}

/// Without a GPU there is none for a rank, and with one there are not a thousand.
#[test]
fn more_ranks_than_gpus_are_refused_before_any_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = crate::recipe("synthetic/smoke.toml");
    let mut arguments = arguments(&recipe, SIX, &["--nproc", "1000"]);
    let device = arguments.iter().position(|argument| *argument == "--device").unwrap();
    arguments[device + 1] = "cuda";
    let sentence = refuses(&empssl(folder.path(), &arguments), 5);
    let (none, few) = ("no NVIDIA driver is loaded", "1000 ranks on this host need a GPU each, and it has ");
    assert!(sentence.contains(none) || sentence.contains(few), "{sentence}");
}

#[test]
fn what_cannot_be_started_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = crate::recipe("synthetic/smoke.toml");
    let refused = |variables: &[(&str, &str)], more: &[&str], code| {
        let mut command = command(folder.path(), &arguments(&recipe, SIX, more));
        refuses(&command.envs(variables.iter().copied()).output().unwrap(), code)
    };
    let sentence = refused(&[("RANK", "0")], &[], 2);
    assert!(sentence.contains("RANK is set but WORLD_SIZE is not; torchrun sets"), "{sentence}");
    let odd = [("RANK", "2"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "1")];
    let sentence = refused(&odd, &[], 2);
    assert!(sentence.contains("RANK is `2`, expected a number below 2, which is WORLD_SIZE"), "{sentence}");
    let all = odd.map(|(name, value)| (name, if name == "RANK" { "1" } else { value }));
    let sentence = refused(&all, &["--nproc", "2"], 2);
    assert!(sentence.contains("leave one of them out"), "{sentence}");
    let output = empssl(folder.path(), &arguments(&recipe, SIX, &["--nproc", "3", "--dist-timeout", "20"]));
    let text = stderr(&output);
    assert!(text.contains("`batch_size` must be a multiple of the number of ranks, found 8 with 3 ranks"), "{text}");
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(!folder.path().join("run").exists(), "nothing was touched");
}

/// Starts a long run of two ranks, and waits until it has saved.
fn endless(folder: &Path) -> (Child, Vec<u32>) {
    let recipe = crate::recipe("synthetic/smoke.toml");
    let more = ["--nproc", "2", "--checkpoint-every", "3"];
    let mut parent = command(folder, &arguments(&recipe, "training.length={steps=100000}", &more));
    let mut parent = parent.stderr(Stdio::piped()).spawn().unwrap();
    while !folder.join("run/checkpoint.previous.safetensors").exists() {
        assert!(parent.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ranks = ranks_of(&parent);
    assert_eq!(ranks.len(), 2);
    (parent, ranks)
}

/// The ranks that a process has started, by their numbers.
pub(crate) fn ranks_of(parent: &Child) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", parent.id())).unwrap();
    let mut ranks: Vec<u32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    ranks.sort_by_key(|pid| rank_of(*pid));
    ranks
}

fn rank_of(process: u32) -> String {
    let variables = fs::read(format!("/proc/{process}/environ")).unwrap();
    let mut variables = variables.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    variables.find_map(|variable| variable.strip_prefix("RANK=").map(str::to_owned)).unwrap()
}

/// The run has ended, no process is left, and what it saved is good.
#[track_caller]
fn ended_well(folder: &Path, parent: Child, ranks: &[u32]) -> Output {
    let output = parent.wait_with_output().unwrap();
    assert!(ranks.iter().all(|rank| !Path::new(&format!("/proc/{rank}")).exists()), "{}", stderr(&output));
    let saved = json(&folder.join("run/run.json"))["segments"][0]["ranks"].clone();
    assert_eq!(saved, 2);
    let resume = ["train", "--resume", "run", "--device", "cpu", "--threads", "1", "--workers", "1"];
    let goes_on = succeeds(empssl(folder, &[&resume[..], &["--max-steps", "1"]].concat()));
    assert!(!stderr(&goes_on).contains("damaged"), "{}", stderr(&goes_on));
    output
}

#[test]
fn a_killed_rank_ends_the_run_with_its_number_and_leaves_a_good_checkpoint() {
    for (signal, number) in [("KILL", 9), ("ABRT", 6)] {
        let folder = tempfile::tempdir().unwrap();
        let (parent, ranks) = endless(folder.path());
        crate::signal(ranks[1], signal);
        let output = ended_well(folder.path(), parent, &ranks);
        let sentence = refuses(&output, 1);
        assert!(sentence.starts_with(&format!("error: rank 1: was ended by signal {number}")), "{sentence}");
        assert!(sentence.ends_with("all others were ended"), "{sentence}");
    }
}

#[test]
fn a_rank_that_returns_an_error_ends_the_run_with_its_number_and_its_last_line() {
    let folder = tempfile::tempdir().unwrap();
    crate::refusals::tree(folder.path(), 8);
    fs::write(folder.path().join("tree/train/dog/9.jpg"), b"\xff\xd8\xff\xe0 no picture").unwrap();
    let recipe = crate::recipe("synthetic/smoke.toml");
    let more = ["--nproc", "2", "--dataset", "folder", "--data", "tree"];
    let output = empssl(folder.path(), &arguments(&recipe, "training.length={epochs=4}", &more));
    let sentence = refuses(&output, 3);
    let text = stderr(&output);
    // The image is read by both, and either may be the first to say so.
    let own_words = "error: rank 0: ended with exit code 3; its own words are above";
    let last_line =
        "error: rank 1: ended with exit code 3, and its last line is `rank 1: error: bad image tree/train/dog/";
    assert!(sentence.starts_with(own_words) || sentence.starts_with(last_line), "{text}");
    assert!(text.contains(": error: bad image tree/train/dog/9.jpg"), "{text}");
}

#[test]
fn ctrl_c_stops_all_ranks_after_one_step_and_they_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (parent, ranks) = endless(folder.path());
    crate::signal(parent.id(), "INT");
    let output = ended_well(folder.path(), parent, &ranks);
    let sentence = refuses(&output, 130);
    assert!(sentence.contains("as rank 0 says above"), "{sentence}");
    assert_eq!(stderr(&output).matches("stopped by Ctrl-C at step").count(), 1, "{}", stderr(&output));
    let run = json(&folder.path().join("run/run.json"));
    let logged = losses(&folder.path().join("run")).len() as u64;
    assert_eq!(run["segments"][0]["to_step"].as_u64().unwrap(), logged);
}

#[test]
fn ranks_do_not_outlive_the_process_that_started_them() {
    let folder = tempfile::tempdir().unwrap();
    let (mut parent, ranks) = endless(folder.path());
    parent.kill().unwrap();
    parent.wait().unwrap();
    let is_left = |rank: &u32| {
        let status = fs::read_to_string(format!("/proc/{rank}/status")).unwrap_or_default();
        !status.is_empty() && !status.contains("State:\tZ")
    };
    while ranks.iter().any(is_left) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let run = json(&folder.path().join("run/run.json"));
    assert!(run["segments"][0]["ended"].is_string(), "they saved what was learnt");
}
