//! The texts of `--help`: whoever changes one sees the change.

use std::path::Path;

use crate::{empssl, stdout, succeeds};

fn help(arguments: &[&str]) -> String {
    stdout(&succeeds(empssl(Path::new("."), arguments)))
}

#[test]
fn help_texts() {
    insta::assert_snapshot!("help", help(&["--help"]));
    let commands = [
        "train",
        "eval",
        "import",
        "export",
        "recipe",
        "runs",
        "embed",
        "neighbours",
        "data",
        "bench",
        "doctor",
        "completions",
    ];
    for command in commands {
        insta::assert_snapshot!(format!("help-{command}"), help(&[command, "--help"]));
    }
    insta::assert_snapshot!("help-bench-step", help(&["bench", "step", "--help"]));
    for command in ["list", "fetch", "verify", "info", "show"] {
        insta::assert_snapshot!(format!("help-data-{command}"), help(&["data", command, "--help"]));
    }
}

#[test]
fn the_names_of_all_sets_are_told() {
    let text = help(&["train", "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(&format!(": {}, or auto", empssl_data::sets::names().join(", "))), "{text}");
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = help(&["completions", shell]);
        assert!(
            ["train", "eval", "export", "runs", "doctor"].iter().all(|command| script.contains(command)),
            "{shell}"
        );
    }
}

#[test]
fn the_doctor_reports_what_runs() {
    let text = help(&["doctor", "--device", "cpu"]);
    for word in ["libtorch      2.11.0", "libtorch_cpu.so", "CUDA ", "NCCL ", "device        cpu", "TF32 ", "threads "]
    {
        assert!(text.contains(word), "{text}");
    }
    let nccl = text.lines().find(|line| line.starts_with("NCCL")).unwrap();
    let without_cuda = nccl == "NCCL          not usable: it connects CUDA devices";
    assert_eq!(without_cuda, text.contains("CUDA          not usable"), "{text}");
}

#[test]
fn the_doctor_says_which_memory_modes_fit_a_recipe() {
    let recipe = crate::recipe("cifar10/one-epoch.toml");
    let doctor = |set: &str| help(&["doctor", "--device", "cpu", "--recipe", recipe.to_str().unwrap(), "--set", set]);
    let text = doctor("training.n_patches=1000000");
    assert!(text.contains("recipe        one-epoch: 1000000 x 100 patches a step, has memory = \"whole\""), "{text}");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("  ")).collect();
    assert!(lines[0].contains("\"whole\"") && lines[0].contains("TiB") && lines[0].ends_with("does not fit"), "{text}");
    assert!(lines[1].contains("\"by-stage\"") && lines[2].contains("{ by-patches = 500000 }"), "{text}");
    let text = doctor("network.base_width=1");
    assert!(text.lines().filter(|line| line.starts_with("  ")).all(|line| line.ends_with("  fits")), "{text}");
}
