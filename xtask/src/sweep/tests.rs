//! Whole sweeps with a program that stands in for `empssl`.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use empssl_report::report::{Encoder, Probe};
use empssl_report::sweep::SweepReport;

use super::*;
use crate::reproduce;

/// Stands in for `empssl`: outlines a recipe, trains into the folder after `--out` or `--resume`, scores. It notes every
/// call in `calls`, and does what `misbehave` says when that matches.
const STAND_IN: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$* [$CUDA_VISIBLE_DEVICES]" >> "$here/calls"
command=$1; all="$*"
case "$command" in
recipe)
    n=4; for word; do case "$word" in training.n_patches=*) n=${word#*=};; esac; done
    norms=global; for word; do case "$word" in training.batch_norm=*) norms=${word#*=};; esac; done
    sed "s/\"N\"/$n/; s/CHANGED/$n/; s/NORMS/$norms/" "$here/outline.json"; exit 0;;
bench) exit 1;;
runs) exit 0;;
esac
if [ "$command" = train ]; then
    while [ $# -gt 0 ]; do case "$1" in --out|--resume) run=$2;; --seed) seed=$2;; esac; shift; done
    mkdir -p "$run/snapshots"
    if [ -n "$CUDA_VISIBLE_DEVICES" ]; then
        mkdir "$here/gpu-$CUDA_VISIBLE_DEVICES" || { echo "error: the GPU is taken" >&2; exit 9; }
        sleep 0.2; rmdir "$here/gpu-$CUDA_VISIBLE_DEVICES"
    fi
    if [ -e "$here/fail-$seed" ]; then echo "error: seed $seed is unlucky" >&2; exit 1; fi
    if [ -e "$here/slow" ] && ! [ -e "$run/run.json" ]; then
        sed 's/FINISHED/false/' "$here/run.json" > "$run/run.json"
        trap 'exit 130' TERM; while :; do sleep 0.05; done
    fi
    sed 's/FINISHED/true/' "$here/run.json" > "$run/run.json"
    cp "$here/metrics.jsonl" "$run/"
else
    out=$2/report.json
    case "$all" in *--snapshot*) out=$2/snapshots/epoch-0001.report.json;; esac
    case "$all" in *--checkpoint*) while [ $# -gt 0 ]; do [ "$1" = --out ] && out=$2; shift; done;; esac
    cp "$here/report.json" "$out"
fi
"#;

const OUTLINE: &str = r#"{"schema_version": 1, "recipe": "quick", "recipe_toml": "n_patches = CHANGED, batch_norm = NORMS", "dataset": "synthetic", "patch_side": 32, "parameters": 10,
  "precision": "fp32", "data": {"description": "made up", "synthetic": false, "partial_counts": null,
  "fingerprints": ["a", "b"]}, "training": {"n_patches": "N", "batch_size": 100, "steps": 60, "epochs": 2.0,
  "snapshot_epochs": [1], "batch_norm": "NORMS"}, "evaluation": {"n_patches": 2, "images": 2500,
  "untrained": {"patches": 5000, "bytes": 1048576}, "trained": {"patches": 12500, "bytes": 3145728},
  "pixel_bytes": 1048576},
  "published": [{"probe": "linear", "top1": 50.0, "epochs": 1.0, "source": "a paper", "note": ""}]}"#;

const RUN: &str = r#"{"schema_version": 1, "recipe": "quick", "seed": 0, "data": {"name": "synthetic", "source": {},
  "n_images": 9, "fingerprint": "a"}, "machine": {"device": "cpu", "device_name": "", "threads": 1, "versions": {"empssl":
  "0", "libtorch": "2"}, "commit": null}, "command": "", "model": {"parameters": 10, "patch_side": 32, "n_patches": 4,
  "test_patches": 2, "batch_size": 100, "steps": 60, "epochs": 2.0, "patches_seen": 24000}, "training": {"finished":
  FINISHED, "steps": 60, "seconds": 1.0, "patches_per_s": 1.0, "peak_bytes": {"host": null, "device": null}}}"#;

struct Bed {
    folder: tempfile::TempDir,
    workspace: Workspace,
    program: Program,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/empssl-report/fixtures/run");
        for name in ["report.json", "metrics.jsonl"] {
            fs::copy(fixture.join(name), folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("outline.json"), OUTLINE).unwrap();
        fs::write(folder.path().join("run.json"), RUN).unwrap();
        for recipe in ["quick", "one-epoch"] {
            fs::create_dir_all(workspace.join("configs/synthetic")).unwrap();
            fs::write(workspace.join(format!("configs/synthetic/{recipe}.toml")), "").unwrap();
        }
        let path = folder.path().join("empssl");
        process::tests::write_script(&path, STAND_IN);
        Self { program: Program { path, commit: None, revision: "r".to_owned() }, workspace, folder }
    }

    /// What a command line asks for.
    fn request(&self, line: &str) -> Request {
        let out = self.folder.path().join("runs").display().to_string();
        let args = Args::of_line(&line.split_whitespace().chain(["--out", &out]).collect::<Vec<_>>());
        reproduce::request(&args, args.sweep.table.clone(), &self.workspace).unwrap()
    }

    fn sweep<'a>(&self, request: &'a Request, gpus: &[&str]) -> Sweep<'a> {
        let machine = Machine { gpus: gpus.iter().map(|gpu| (*gpu).to_owned()).collect(), processors: 4 };
        let slots = slots::slots(&request.args, &machine).unwrap();
        Sweep::new(request, slots, self.program.clone(), &self.workspace).unwrap()
    }

    fn run(&self, request: &Request) -> Outcome {
        self.sweep(request, &[]).run(&|| 0)
    }

    /// How often the program was called so.
    fn calls(&self, word: &str) -> usize {
        let calls = fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default();
        calls.lines().filter(|line| line.starts_with(word)).count()
    }

    fn mark(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, "").unwrap();
        path
    }

    fn report(&self, request: &Request) -> SweepReport {
        serde_json::from_str(&fs::read_to_string(request.folder().join("report.json")).unwrap()).unwrap()
    }
}

#[test]
fn a_sweep_runs_every_cell_once_and_a_second_one_runs_none() {
    let bed = Bed::new();
    let request = bed.request("--seeds 2");
    bed.run(&request).unwrap();
    // Two seeds, each with the state after one epoch and the end.
    assert_eq!((bed.calls("train"), bed.calls("eval")), (2, 4));
    assert_eq!(bed.calls("runs --clean"), 2, "the features of a finished cell are not kept");
    bed.run(&request).unwrap();
    assert_eq!((bed.calls("train"), bed.calls("eval")), (2, 4), "nothing is run twice");
    let report = bed.report(&request);
    assert!(report.complete && report.cells.iter().all(|cell| cell.starts == 1 && cell.resumes == 0));
    let rows = &report.tables[0].rows;
    let shown: Vec<_> = rows.iter().map(|row| (row.epochs, row.n, row.published.len())).collect();
    assert_eq!(shown, [(1.0, 2, 1), (2.0, 2, 0)], "a published figure stands beside the state of its epochs alone");
    let beside = &rows[0].published[0];
    let ours =
        rows[0].scores.iter().find(|score| score.encoder == Encoder::Trained && score.probe == Probe::Linear).unwrap();
    assert!((beside.difference.unwrap() - (ours.top1.mean - 50.0)).abs() < 1e-9);
    assert_eq!((sweep_page::status(&rows[0]), ours.top1.std), ("n = 2, preliminary".to_owned(), Some(0.0)));
    for name in ["report.md", "report.html"] {
        let page = fs::read_to_string(request.folder().join(name)).unwrap();
        for text in ["50.0 %", "a paper", "n = 2, preliminary", "../../cells/synthetic-quick-s0-"] {
            assert!(page.contains(text), "{name} lacks `{text}`");
        }
    }
}

#[test]
fn more_seeds_add_cells_and_another_revision_makes_them_anew() {
    let mut bed = Bed::new();
    bed.run(&bed.request("--seeds 2")).unwrap();
    bed.run(&bed.request("--seeds 3")).unwrap();
    assert_eq!(bed.calls("train"), 3);
    bed.program.revision = "s".to_owned();
    bed.run(&bed.request("--seeds 2")).unwrap();
    assert_eq!(bed.calls("train"), 5);
    bed.run(&bed.request("--seeds 2 --set training.n_patches=8")).unwrap();
    assert_eq!(bed.calls("train"), 7);
    bed.run(&bed.request("--deterministic --keep-features")).unwrap();
    let calls = fs::read_to_string(bed.folder.path().join("calls")).unwrap();
    let deterministic: Vec<_> = calls.lines().filter(|line| line.contains("--deterministic")).collect();
    let count = |command: &str| deterministic.iter().filter(|line| line.starts_with(command)).count();
    assert_eq!((count("train"), count("eval")), (1, 2));
    assert_eq!((bed.calls("train"), bed.calls("runs --clean")), (8, 7), "features that are to be kept are kept");
}

#[test]
fn every_form_of_a_sweeps_report_says_how_many_of_how_many_test_images() {
    let bed = Bed::new();
    let counts = r#"{"train": {"found": 9, "expected": 9}, "test": {"found": 1017, "expected": 10000}}"#;
    let outline = OUTLINE.replace(r#""partial_counts": null"#, &format!(r#""partial_counts": {counts}"#));
    fs::write(bed.folder.path().join("outline.json"), outline).unwrap();
    let request = bed.request("");
    bed.run(&request).unwrap();
    let page = |name: &str| fs::read_to_string(request.folder().join(name)).unwrap();
    let shown =
        empssl_report::terminal::render(&sweep_page::page(&bed.report(&request), sweep_page::Curves::default()));
    let rows = [page("report.md"), page("report.html"), shown];
    for page in &rows {
        assert!(
            page.matches("synthetic, 1,017 of 10,000 test images").count() >= 2 && !page.contains("whole"),
            "{page}"
        );
    }
}

#[test]
fn a_failed_cell_stops_no_other_and_is_tried_again_only_on_request() {
    let bed = Bed::new();
    let unlucky = bed.mark("fail-0");
    let request = bed.request("--seeds 2");
    let failure = bed.run(&request).unwrap_err();
    assert_eq!(failure.code, Code::Child);
    assert!(failure.to_string().contains("1 of 2 cells failed"), "{failure}");
    let report = bed.report(&request);
    let found: Vec<_> = report.cells.iter().map(|cell| (cell.status, cell.error.as_deref())).collect();
    assert_eq!(found, [(Status::Failed, Some("training: seed 0 is unlucky")), (Status::Done, None)]);
    assert_eq!(sweep_page::status(&report.tables[0].rows[0]), "n = 1 of 2, preliminary");
    bed.run(&request).unwrap_err();
    assert_eq!(bed.calls("train"), 2, "without --retry it is left alone");
    fs::remove_file(unlucky).unwrap();
    bed.run(&bed.request("--seeds 2 --retry")).unwrap();
    assert_eq!(bed.calls("train"), 3);
    assert!(bed.report(&request).complete);
}

#[test]
fn an_interrupted_sweep_says_so_and_goes_on_where_it_stopped() {
    let bed = Bed::new();
    let slow = bed.mark("slow");
    let request = bed.request("--seeds 2");
    let asked = AtomicUsize::new(0);
    let sweep = bed.sweep(&request, &[]);
    let failure = thread::scope(|scope| {
        let running = scope.spawn(|| sweep.run(&|| asked.load(Ordering::SeqCst)).unwrap_err());
        while bed.calls("train") == 0 || !sweep.plan.cells[0].join("run.json").is_file() {
            thread::sleep(Duration::from_millis(20));
        }
        asked.store(1, Ordering::SeqCst);
        running.join().unwrap()
    });
    assert_eq!(failure.code, Code::Interrupted);
    assert!(failure.to_string().contains("0 of 2 cells done"), "{failure}");
    assert_eq!(bed.report(&request).cells[0].status, Status::Interrupted);
    fs::remove_file(slow).unwrap();
    bed.run(&request).unwrap();
    let report = bed.report(&request);
    let ways: Vec<_> = report.cells.iter().map(|cell| (cell.starts, cell.resumes)).collect();
    assert_eq!(ways, [(1, 1), (1, 0)], "the first cell went on, the second had not begun");
}

#[test]
fn cells_share_gpus_one_at_a_time() {
    let bed = Bed::new();
    let request = bed.request("--seeds 7");
    // The program fails where another one is on its GPU.
    bed.sweep(&request, &["0", "3", "5"]).run(&|| 0).unwrap();
    let calls = fs::read_to_string(bed.folder.path().join("calls")).unwrap();
    let on = |gpu: &str| calls.lines().filter(|line| line.starts_with("train") && line.ends_with(gpu)).count();
    let trained = ["[0]", "[3]", "[5]"].map(on);
    assert_eq!(trained.iter().sum::<usize>(), 7);
    assert!(trained.iter().all(|&cells| cells > 0), "a GPU stayed idle: {trained:?}");
}

#[test]
fn cells_of_several_processes_are_those_of_one_unless_each_normalises_by_itself() {
    let bed = Bed::new();
    let request = bed.request("--seeds 4 --gpus 2");
    bed.sweep(&request, &["0", "3", "5", "6", "7"]).run(&|| 0).unwrap();
    let calls = fs::read_to_string(bed.folder.path().join("calls")).unwrap();
    let begun: Vec<_> = calls.lines().filter(|line| line.starts_with("train") || line.starts_with("eval")).collect();
    assert_eq!(begun.len(), 4 + 8);
    let (trained, scored): (Vec<&str>, Vec<&str>) = begun.into_iter().partition(|line| line.starts_with("train"));
    let is_a_pair = |line: &&str| line.contains(" --nproc 2 ") && (line.ends_with("[0,3]") || line.ends_with("[5,6]"));
    assert!(trained.iter().all(is_a_pair), "{calls}");
    let is_the_first = |line: &&str| !line.contains("--nproc") && (line.ends_with("[0]") || line.ends_with("[5]"));
    assert!(scored.iter().all(is_the_first), "{calls}");
    bed.run(&bed.request("--seeds 4")).unwrap();
    assert_eq!(bed.calls("train"), 4, "one process makes the same figures");
    for (ranks, trained) in [(1, 6), (2, 8), (2, 8), (4, 10)] {
        bed.run(&bed.request(&format!("--seeds 2 --gpus {ranks} --set training.batch_norm=per-rank"))).unwrap();
        assert_eq!(bed.calls("train"), trained, "{ranks} processes");
    }
}

#[test]
fn a_cell_that_a_killed_sweeps_program_still_holds_is_waited_for() {
    let bed = Bed::new();
    let request = bed.request("");
    let sweep = bed.sweep(&request, &[]);
    let cell = &sweep.plan.cells[0];
    let held = cell.lock(|| panic!("nobody holds it yet")).unwrap();
    // A child that outlives its parent keeps what it was given as its standard input.
    let mut child = std::process::Command::new("sleep").arg("0.5").stdin(held).spawn().unwrap();
    sweep.run(&|| 0).unwrap();
    assert!(child.try_wait().unwrap().is_some(), "the cell was taken while it was held");
}

#[test]
fn tables_share_their_cells_and_vary_what_they_are_about() {
    let bed = Bed::new();
    let request = bed.request("--table one-epoch --table patches --table time --patches 4,8");
    let plan = Plan::new(&request, &bed.program, &bed.workspace).unwrap();
    // The stand-in resolves the recipe itself and its variant of 4 patches to the same.
    assert_eq!(plan.cells.len(), 2);
    assert_eq!(plan.tables.iter().map(|table| table.groups.len()).collect::<Vec<_>>(), [1, 2, 1]);
    let text = bed.sweep(&request, &[]).plan_text();
    assert!(text.contains("2 cells, 0 done; on cpu") && text.contains("48,000 patches to train"), "{text}");
    assert!(text.contains("time unknown") && text.contains("about an unknown time"), "no trial was possible: {text}");
}

#[test]
fn a_plan_tells_time_by_finished_cells() {
    let bed = Bed::new();
    bed.run(&bed.request("")).unwrap();
    let text = bed.sweep(&bed.request("--seeds 2"), &[]).plan_text();
    assert!(text.contains("2 cells, 1 done") && text.contains("as finished cells"), "{text}");
    assert!(text.contains("seed 0 done, seed 1 not begun"), "{text}");
    let cost = "24,000 patches to train, 30,000 to score in 2 states, 8 MiB of features while a cell is scored";
    assert!(text.contains(cost), "{text}");
}

#[test]
fn transfer_scores_the_end_on_the_other_sets() {
    let bed = Bed::new();
    fs::create_dir_all(bed.workspace.join("configs/other")).unwrap();
    fs::write(bed.workspace.join("configs/other/quick.toml"), "").unwrap();
    let table = "--recipe quick --table transfer --dataset synthetic";
    let alone = bed.request(table);
    let failure = Plan::new(&alone, &bed.program, &bed.workspace).map(|_| ()).unwrap_err();
    assert!(failure.to_string().contains("at least two sets"), "{failure}");
    let request = bed.request(&format!("{table} --dataset other=/"));
    let text = bed.sweep(&request, &[]).plan_text();
    // To the stand-in the two sets are one cell, so it has both as targets.
    assert!(text.contains("65,000 to score in 2 states and on other, synthetic, 18 MiB of features"), "{text}");
    bed.run(&request).unwrap();
    let calls = fs::read_to_string(bed.folder.path().join("calls")).unwrap();
    assert!(
        calls.lines().any(|line| line.starts_with("eval --checkpoint") && line.contains("--dataset other --data /")),
        "{calls}"
    );
    let rows = &bed.report(&request).tables[0].rows;
    assert!(rows.iter().any(|row| row.trained_on.is_some() && row.n == 1), "{rows:?}");
}
