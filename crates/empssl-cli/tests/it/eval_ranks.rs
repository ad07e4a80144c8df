//! Several processes score a run as one: the same features, the same scores, and what ends them.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::chain::json;
use crate::features::trained;
use crate::ranks::ranks_of;
use crate::refusals::tree;
use crate::{command, empssl, stderr, stdout, succeeds, train};

const EVAL: [&str; 7] = ["eval", "--device", "cpu", "--threads", "1", "--workers", "1"];

fn eval(folder: &Path, more: &[&str]) -> Output {
    empssl(folder, &[&EVAL[..], more].concat())
}

/// The run of `folder` again, under another name and without features.
fn copy_run(folder: &Path, name: &str) {
    let (from, to) = (folder.join("run"), folder.join(name));
    fs::create_dir_all(&to).unwrap();
    for file in ["checkpoint.safetensors", "recipe.toml", "run.json", "metrics.jsonl"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

/// Header and numbers of every file of features, but for the time that they took and the checksum over it.
fn features(run: &Path) -> BTreeMap<String, (Value, Vec<u8>)> {
    let entries = fs::read_dir(run.join("features")).unwrap().map(|entry| entry.unwrap());
    let banks = entries.filter(|entry| entry.file_name() != ".lock");
    let read = |entry: fs::DirEntry| {
        let bytes = fs::read(entry.path()).unwrap();
        let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..data]).unwrap();
        let metadata = header["__metadata__"].as_object_mut().unwrap();
        assert!(metadata.remove("seconds").is_some() && metadata.remove("crc32").is_some(), "{metadata:?}");
        (entry.file_name().into_string().unwrap(), (header, bytes[data..].to_vec()))
    };
    banks.map(read).collect()
}

/// Everything in a report but time, memory and machine.
fn scores(report: &Path) -> Vec<Value> {
    let mut report = json(report);
    let tables = ["rows", "probe_curve", "test_curve", "knn_grid", "tried", "labelled", "model"];
    let mut tables: Vec<Value> = tables.iter().map(|key| report[key].take()).collect();
    for row in tables.iter_mut().filter_map(Value::as_array_mut).flatten().filter_map(Value::as_object_mut) {
        for key in ["seconds", "peak_bytes"] {
            row.remove(key);
        }
    }
    tables
}

#[test]
fn one_two_and_four_processes_leave_the_same_features_and_scores() {
    let folder = trained("0");
    let here = folder.path();
    // Three batches of twelve images: four processes have none for one of them.
    let more = ["--keep", "backbone", "--set", "evaluation.batch_size=4", "--nproc"];
    let [one, two, four] = ["1", "2", "4"].map(|world| {
        let run = format!("run-{world}");
        copy_run(here, &run);
        let output = succeeds(eval(here, &[&[run.as_str()][..], &more, &[world]].concat()));
        let (table, said) = (stdout(&output), stderr(&output));
        assert_eq!(table.matches("EMP-SSL on").count(), 1, "one voice is enough: {table}");
        assert_eq!(said.contains(&format!("{world} ranks, {world} of them on this host")), world != "1", "{said}");
        let run = here.join(run);
        assert!(run.join("scatter.svg").is_file());
        assert_eq!(json(&run.join("report.json"))["processes"]["evaluate"].to_string(), world);
        (features(&run), scores(&run.join("report.json")))
    });
    assert_eq!(one.0.len(), 12, "{:?}", one.0.keys());
    assert!(two == one, "two processes give something else");
    assert!(four == one, "four processes give something else");
    // What is there is taken by any number of processes.
    let again =
        succeeds(eval(here, &["run-1", "--nproc", "2", "--features", "reuse", "--set", "evaluation.batch_size=4"]));
    assert_eq!(stderr(&again).matches("note: features taken from run-1/features/").count(), 12, "{}", stderr(&again));
    assert_eq!(scores(&here.join("run-1/report.json")), one.1);
}

/// Keys that leave out whatever a test is not about.
const PLAIN: [&str; 12] = [
    "--set",
    "evaluation.curve.published=[]",
    "--set",
    "evaluation.curve.grid=[]",
    "--set",
    "evaluation.curve.grid_flip=[]",
    "--set",
    "evaluation.curve.whole=false",
    "--set",
    "evaluation.labelled_images=200",
    "--set",
    "evaluation.scores.optimum_iterations=5",
];

/// With two thousand test images there are two pieces to look for neighbours in.
#[test]
fn neighbours_are_dealt_out_and_blows_leave_nothing_half_done() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    succeeds(train(here, &["--out", "run", "--no-monitor"]));
    for (struck, blow) in [(Some(1), "KILL"), (Some(0), "KILL"), (None, "INT")] {
        strike(here, struck, blow);
    }
    let reports = ["1", "2"].map(|world| {
        succeeds(eval(here, &[&["run", "--nproc", world, "--features", "fresh"][..], &PLAIN].concat()));
        (features_of(here), scores(&here.join("run/report.json")))
    });
    assert!(reports[0] == reports[1], "two processes give something else");
}

/// The files that are whole, after what a killed process left is removed.
fn features_of(here: &Path) -> BTreeMap<String, (Value, Vec<u8>)> {
    for entry in fs::read_dir(here.join("run/features")).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_name().to_string_lossy().ends_with(".tmp") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    features(&here.join("run"))
}

/// Ends one of two processes, or their parent, while they compute features.
#[track_caller]
fn strike(here: &Path, struck: Option<usize>, blow: &str) {
    let _ = fs::remove_dir_all(here.join("run/features"));
    // A batch is short beside the time-out, and there are many.
    let long = ["run", "--nproc", "2", "--dist-timeout", "5"];
    let set = ["--set", "evaluation.n_patches=200", "--set", "evaluation.batch_size=10"];
    let mut parent = command(here, &[&EVAL[..], &long, &set, &PLAIN[..8]].concat());
    let mut parent = parent.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let names = || {
        let entries = fs::read_dir(here.join("run/features")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let is_writing = |name: &String| {
        name.ends_with(".tmp") && fs::metadata(here.join("run/features").join(name)).is_ok_and(|file| file.len() > 0)
    };
    while !names().iter().any(is_writing) {
        assert!(parent.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ranks = ranks_of(&parent);
    let began = Instant::now();
    crate::signal(struck.map_or(parent.id(), |rank| ranks[rank]), blow);
    let output = parent.wait_with_output().unwrap();
    let text = stderr(&output);
    assert!(began.elapsed() < Duration::from_secs(5 + 6), "{:?}: {text}", began.elapsed());
    assert!(ranks.iter().all(|rank| !Path::new(&format!("/proc/{rank}")).exists()), "{text}");
    assert!(names().iter().all(|name| name.starts_with('.')), "half a file has its name: {:?}", names());
    let Some(struck) = struck else {
        assert_eq!(output.status.code(), Some(130), "{text}");
        assert!(text.contains("stopped; features that are complete are kept"), "{text}");
        return;
    };
    let (left, of) = (1 - struck, ranks[struck]);
    let named = format!("rank {left}: error: rank {struck} (process {of} on ");
    assert!(text.contains(&named) && text.contains("has given no sign of life for "), "{text}");
    assert!(text.contains(&format!("error: rank {struck} was ended by signal 9; all others were ended")), "{text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
    if struck != 0 {
        assert_eq!(names(), [".lock"], "rank 0 cleans up");
    }
}

/// Two processes as `torchrun --no-python` starts them, each with its own folder and arguments.
fn launched(folders: [&Path; 2], arguments: [&[&str]; 2]) -> [Output; 2] {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let ranks = [0, 1].map(|rank| {
        let mut command = command(folders[rank], &[&EVAL[..], arguments[rank], &["--dist-timeout", "20"]].concat());
        let rank = &*rank.to_string();
        command.envs([("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")]);
        command.envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port)]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    ranks.map(|rank| rank.wait_with_output().unwrap())
}

#[test]
fn a_launchers_processes_score_a_transfer_and_must_be_alike() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let here = folder.path();
    tree(here, 6);
    tree(elsewhere.path(), 6);
    succeeds(train(here, &["--out", "run", "--no-monitor", "--set", "evaluation.probe.batch_size=4"]));
    fs::create_dir(elsewhere.path().join("run")).unwrap();
    for file in ["checkpoint.safetensors", "recipe.toml", "run.json", "metrics.jsonl"] {
        fs::copy(here.join("run").join(file), elsewhere.path().join("run").join(file)).unwrap();
    }
    let flags = ["--checkpoint", "run", "--dataset", "folder", "--data", "tree", "--set", "evaluation.batch_size=4"];
    succeeds(eval(here, &[&flags[..], &["--out", "one.json"]].concat()));
    fs::remove_dir_all(here.join("run/features")).unwrap();
    let outputs = launched([here; 2], [&[&flags[..], &["--out", "two.json"]].concat(), &flags]).map(succeeds);
    assert!(stdout(&outputs[1]).is_empty() && stderr(&outputs[1]).is_empty(), "rank 1 has nothing to say");
    assert!(stderr(&outputs[0]).contains("note: trained on synthetic, scored on folder"), "{}", stderr(&outputs[0]));
    assert_eq!(scores(&here.join("two.json")), scores(&here.join("one.json")));
    assert!(!here.join("run/checkpoint.report-folder.json").exists(), "rank 1 writes nothing");

    let other = [&flags[..], &["--set", "evaluation.knn.k=3"]].concat();
    let outputs = launched([here; 2], [&flags, &other]);
    for (rank, output) in outputs.iter().enumerate() {
        let expected = format!("rank {rank}: error: rank 1 began with another recipe than rank 0");
        assert!(stderr(output).contains(&expected) && !output.status.success(), "{}", stderr(output));
    }
    fs::remove_dir_all(here.join("run/features")).unwrap();
    let outputs = launched([here, elsewhere.path()], [&flags; 2]);
    let sentence = "rank 0 has written it: every rank must be able to read the run's folder";
    assert!(outputs.iter().all(|output| stderr(output).contains(sentence)), "{}", stderr(&outputs[0]));
    assert_eq!(outputs[1].status.code(), Some(6), "{}", stderr(&outputs[1]));
}
