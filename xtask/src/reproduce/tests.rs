//! The chain against programs that stand in for cargo's build and for `empssl`.

use super::images::OnBadImage;
use super::*;

/// A checkout with two recipes.
fn checkout() -> (tempfile::TempDir, Workspace) {
    let folder = tempfile::tempdir().unwrap();
    let workspace = Workspace::at(folder.path());
    for recipe in ["synthetic/quick", "synthetic/smoke", "cifar10/quick"] {
        let file = workspace.join(format!("configs/{recipe}.toml"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "dataset = \"x\"\n").unwrap();
    }
    (folder, workspace)
}

fn args() -> Args {
    Args::of_line(&["--recipe", "quick"])
}

/// The run of these arguments.
fn single<'a>(args: &'a Args, workspace: &Workspace) -> Single<'a> {
    Single::new(args, workspace).unwrap()
}

#[test]
fn unknown_names_are_refused_with_those_that_exist() {
    let (_folder, workspace) = checkout();
    let refusal = |dataset: &str, recipe: &str| recipe_file(dataset, recipe, &workspace).unwrap_err().to_string();
    assert_eq!(
        refusal("synthetic", "fast"),
        "there is no recipe `fast` in configs/synthetic/; there are: quick, smoke"
    );
    assert_eq!(refusal("cifar", "quick"), "there is no data set `cifar` in configs/; there are: cifar10, synthetic");
    assert!(recipe_file("synthetic", "quick", &workspace).unwrap().ends_with("configs/synthetic/quick.toml"));
}

#[test]
fn a_set_takes_its_own_folder_before_the_common_one() {
    let args = Args::of_line(&["--dataset", "cifar10=/a", "--dataset", "cifar100", "--data", "/b"]);
    let places: Vec<_> = args.sets().into_iter().map(|set| (set.name, set.dir.unwrap())).collect();
    assert_eq!(places, [("cifar10".to_owned(), PathBuf::from("/a")), ("cifar100".to_owned(), PathBuf::from("/b"))]);
    assert_eq!(Args::of_line(&[]).sets()[0].name, "synthetic");
}

#[test]
fn the_papers_tables_are_meant_only_on_a_gpu_and_only_where_nothing_is_named() {
    let (_folder, workspace) = checkout();
    fs::write(workspace.join("configs/cifar10/one-epoch.toml"), "").unwrap();
    let tables = |line: &[&str], has_gpu| Args::of_line(line).tables(has_gpu, &workspace);
    let cifar = ["--dataset", "cifar10"];
    assert_eq!(tables(&cifar, true), [Table::OneEpoch, Table::Main]);
    for (line, has_gpu) in [
        (&cifar[..], false),
        (&[], true),
        (&["--dataset", "cifar10", "--recipe", "quick"], true),
        (&["--dataset", "cifar10", "--device", "cpu"], true),
    ] {
        assert!(tables(line, has_gpu).is_empty(), "{line:?}");
    }
    assert_eq!(tables(&["--table", "time"], false), [Table::Time]);
}

#[test]
fn a_sweep_is_whatever_asks_for_more_than_one_run() {
    for line in [&["--seeds", "2"][..], &["--table", "main"], &["--jobs", "1"], &["--dry-run"], &["--retry"]] {
        assert_ne!(Args::of_line(line).sweep, SweepArgs::default(), "{line:?}");
    }
    let one = Args::of_line(&["--set", "training.n_patches=2", "--fetch"]);
    assert_eq!(one.sweep, SweepArgs::default());
}

#[test]
fn runs_are_numbered_and_never_overwritten() {
    let (_folder, workspace) = checkout();
    let made = |args: &Args| run_folder(&single(args, &workspace), &workspace).unwrap();
    let names = [made(&args()), made(&args()), made(&Args { seed: 3, ..args() })];
    let runs = workspace.join("runs");
    assert_eq!(names, ["synthetic-quick-s0", "synthetic-quick-s0-2", "synthetic-quick-s3"].map(|name| runs.join(name)));
}

#[test]
fn a_folder_that_holds_something_is_not_taken() {
    let (_folder, workspace) = checkout();
    let taken = Args { out: Some(workspace.join("configs")), ..args() };
    let failure = check_out(&taken).unwrap_err();
    assert!(failure.to_string().contains("is not empty: choose another --out"), "{failure}");
    let fresh = workspace.join("new/run");
    check_out(&Args { out: Some(fresh.clone()), ..args() }).unwrap();
    let asked = Args { out: Some(fresh.clone()), ..args() };
    assert_eq!(run_folder(&single(&asked, &workspace), &workspace).unwrap(), fresh);
}

#[test]
fn every_argument_reaches_the_program_and_no_other_does() {
    let (_folder, workspace) = checkout();
    let folder = Path::new("runs/a");
    let path = "/target/release/empssl".into();
    let program = Program { path, commit: Some("abc".to_owned()), revision: String::new() };
    let shown = |args: &Args| {
        let single = Single { file: "r.toml".into(), ..single(args, &workspace) };
        process::shown(&single.training(folder, &program))
    };
    assert_eq!(shown(&args()), "empssl train --recipe r.toml --dataset synthetic --seed 0 --out runs/a");
    let full = Args {
        dataset: vec!["cifar10".to_owned()],
        data: Some("/".into()),
        partial: true,
        device: Some("cuda:1".to_owned()),
        seed: 5,
        on_bad_image: Some(OnBadImage::Skip),
        workers: Some(3),
        gpus: 2,
        set: vec!["training.n_patches=2".to_owned()],
        ..args()
    };
    assert_eq!(
        shown(&full),
        "empssl train --recipe r.toml --dataset cifar10 --data / --partial --on-bad-image skip --seed 5 \
         --set training.n_patches=2 --device cuda:1 --workers 3 --nproc 2 --out runs/a"
    );
    let evaluation = single(&full, &workspace).evaluation(folder, &program);
    assert_eq!(process::shown(&evaluation), "empssl eval runs/a --device cuda:1 --workers 3");
    assert!(evaluation.get_envs().any(|(name, value)| name == "EMPSSL_COMMIT" && value.is_some_and(|v| v == "abc")));
}

#[test]
fn more_processes_than_gpus_are_refused_and_on_the_cpu_they_are_not() {
    let gpus = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let (two, none) = (Machine { gpus: gpus(&["0", "1"]), processors: 4 }, Machine { gpus: vec![], processors: 4 });
    let demand = |gpus, device: Option<&str>, machine| {
        let args = Args { gpus, device: device.map(str::to_owned), ..args() };
        slots(&args, machine).map(drop).map_err(|failure| failure.to_string())
    };
    assert_eq!(demand(3, None, &two), Err("--gpus 3 is more than the 2 GPUs there are (0, 1)".to_owned()));
    assert!(demand(2, Some("cuda:1"), &two).unwrap_err().contains("is one device"));
    for (n, device, machine) in [(2, None, &two), (3, Some("cpu"), &two), (3, None, &none), (1, Some("cuda:1"), &two)] {
        demand(n, device, machine).unwrap();
    }
}

#[test]
fn a_missed_bar_fails_the_check() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/empssl-report/fixtures/run");
    let mut report = RunReport::read(&fixture).unwrap();
    let failure = judge(&report).unwrap_err();
    assert_eq!((failure.code, failure.to_string().as_str()), (Code::Check, "not met: kNN: trained minus raw pixels"));
    report.bars.retain(|bar| bar.holds);
    judge(&report).unwrap();
}

/// A program that stands in for `empssl`: training writes the fixture's files into the folder after `--out`.
fn stand_in(folder: &Path, evaluation: &str) -> Program {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/empssl-report/fixtures/run");
    let path = folder.join("empssl");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = eval ] && {{ {evaluation}; }}\nfor out; do :; done\ncp {}/* \"$out\"\n",
        fixture.display()
    );
    process::tests::write_script(&path, &script);
    Program { path, commit: None, revision: String::new() }
}

#[test]
fn a_run_is_trained_evaluated_rendered_and_judged() {
    let (_folder, workspace) = checkout();
    let args = args();
    let single = single(&args, &workspace);
    let run = run_folder(&single, &workspace).unwrap();
    let program = stand_in(workspace.root(), "exit 0");
    let failure = single.perform(&run, &program).unwrap_err();
    assert_eq!((failure.code, failure.to_string().as_str()), (Code::Check, "not met: kNN: trained minus raw pixels"));
    assert!(run.join("report.html").is_file() && run.join("report.md").is_file());
}

#[test]
fn a_failed_evaluation_says_where_the_run_is() {
    let (_folder, workspace) = checkout();
    let args = args();
    let single = single(&args, &workspace);
    let run = run_folder(&single, &workspace).unwrap();
    let program = stand_in(workspace.root(), "exit 3");
    let failure = single.perform(&run, &program).map_err(|f| keep_run(f, &run)).unwrap_err();
    assert_eq!(failure.code, Code::Child);
    let message = failure.to_string();
    assert!(
        message.contains("empssl eval") && message.ends_with(&format!("; the run is in {}", run.display())),
        "{message}"
    );
}

#[test]
fn a_run_that_never_began_leaves_no_folder() {
    let (_folder, workspace) = checkout();
    let args = args();
    let single = single(&args, &workspace);
    let run = run_folder(&single, &workspace).unwrap();
    let failure = keep_run(Failure::new(Code::Child, "it failed"), &run);
    assert_eq!(failure.to_string(), "it failed");
    assert!(!run.exists());
}
