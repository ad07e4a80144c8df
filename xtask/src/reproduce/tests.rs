//! The chain against programs that stand in for cargo's build and for `empssl`.

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
    Args { device: None, out: None, ..Args::synthetic("quick", PathBuf::new()) }
}

#[test]
fn unknown_names_are_refused_with_those_that_exist() {
    let (_folder, workspace) = checkout();
    let refusal = |args: Args| recipe_file(&args, &workspace).unwrap_err().to_string();
    let message = refusal(Args { recipe: "fast".to_owned(), ..args() });
    assert_eq!(message, "there is no recipe `fast` in configs/synthetic/; there are: quick, smoke");
    let message = refusal(Args { dataset: "cifar".to_owned(), ..args() });
    assert_eq!(message, "there is no data set `cifar` in configs/; there are: cifar10, synthetic");
    assert!(recipe_file(&args(), &workspace).unwrap().ends_with("configs/synthetic/quick.toml"));
}

#[test]
fn a_real_set_needs_a_folder_that_exists() {
    let cifar = |data: Option<&str>| Args { dataset: "cifar10".to_owned(), data: data.map(PathBuf::from), ..args() };
    let message = check_data(&cifar(None)).unwrap_err().to_string();
    assert!(message.contains("--data DIR"), "{message}");
    let failure = check_data(&cifar(Some("/no/such/folder"))).unwrap_err();
    assert_eq!(
        (failure.code, failure.to_string().as_str()),
        (Code::Usage, "--data /no/such/folder: there is no such folder")
    );
    check_data(&cifar(Some("/"))).unwrap();
    check_data(&args()).unwrap();
}

#[test]
fn runs_are_numbered_and_never_overwritten() {
    let (_folder, workspace) = checkout();
    let made = |args: &Args| run_folder(args, &workspace).unwrap();
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
    assert_eq!(run_folder(&Args { out: Some(fresh.clone()), ..args() }, &workspace).unwrap(), fresh);
}

#[test]
fn every_argument_reaches_the_program_and_no_other_does() {
    let [recipe, folder] = ["r.toml", "runs/a"].map(Path::new);
    let program = Program { path: "/target/release/empssl".into(), commit: Some("abc".to_owned()) };
    let shown = |args: &Args| process::shown(&training(args, recipe, folder, &program));
    assert_eq!(shown(&args()), "empssl train --dataset synthetic --recipe r.toml --seed 0 --out runs/a");
    let full = Args {
        dataset: "cifar10".to_owned(),
        recipe: "quick".to_owned(),
        data: Some("d".into()),
        partial: true,
        device: Some("cuda:1".to_owned()),
        seed: 5,
        on_bad_image: Some(OnBadImage::Skip),
        workers: Some(3),
        out: None,
    };
    assert_eq!(
        shown(&full),
        "empssl train --dataset cifar10 --recipe r.toml --data d --partial --seed 5 --on-bad-image skip \
         --device cuda:1 --workers 3 --out runs/a"
    );
    let evaluation = evaluation(&full, folder, &program);
    assert_eq!(process::shown(&evaluation), "empssl eval runs/a --device cuda:1 --workers 3");
    assert!(evaluation.get_envs().any(|(name, value)| name == "EMPSSL_COMMIT" && value.is_some_and(|v| v == "abc")));
}

#[test]
fn a_missed_bar_fails_the_check() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/run");
    let mut report = Report::read(&fixture).unwrap();
    let failure = judge(&report).unwrap_err();
    assert_eq!((failure.code, failure.to_string().as_str()), (Code::Check, "not met: kNN: trained minus raw pixels"));
    report.bars.retain(|bar| bar.holds);
    judge(&report).unwrap();
}

/// A program that stands in for `empssl`: training writes the fixture's files into the folder after `--out`.
fn stand_in(folder: &Path, evaluation: &str) -> Program {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/run");
    let path = folder.join("empssl");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = eval ] && {{ {evaluation}; }}\nfor out; do :; done\ncp {}/* \"$out\"\n",
        fixture.display()
    );
    process::write_script(&path, &script);
    Program { path, commit: None }
}

#[test]
fn a_run_is_trained_evaluated_rendered_and_judged() {
    let (_folder, workspace) = checkout();
    let run = run_folder(&args(), &workspace).unwrap();
    let program = stand_in(workspace.root(), "exit 0");
    let failure = perform(&args(), Path::new("r.toml"), &run, &program).unwrap_err();
    assert_eq!((failure.code, failure.to_string().as_str()), (Code::Check, "not met: kNN: trained minus raw pixels"));
    assert!(run.join("report.html").is_file() && run.join("report.md").is_file());
}

#[test]
fn a_failed_evaluation_says_where_the_run_is() {
    let (_folder, workspace) = checkout();
    let run = run_folder(&args(), &workspace).unwrap();
    let program = stand_in(workspace.root(), "exit 3");
    let failure = perform(&args(), Path::new("r.toml"), &run, &program).map_err(|f| keep_run(f, &run)).unwrap_err();
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
    let run = run_folder(&args(), &workspace).unwrap();
    let failure = keep_run(Failure::new(Code::Child, "it failed"), &run);
    assert_eq!(failure.to_string(), "it failed");
    assert!(!run.exists());
}
