//! The texts of `--help`: whoever changes one sees the change.

use std::path::Path;

use crate::{empssl, stdout, succeeds};

fn help(arguments: &[&str]) -> String {
    stdout(&succeeds(empssl(Path::new("."), arguments)))
}

#[test]
fn help_texts() {
    insta::assert_snapshot!("help", help(&["--help"]));
    for command in ["train", "eval", "export", "data", "doctor", "completions"] {
        insta::assert_snapshot!(format!("help-{command}"), help(&[command, "--help"]));
    }
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = help(&["completions", shell]);
        assert!(["train", "eval", "export", "doctor"].iter().all(|command| script.contains(command)), "{shell}");
    }
}

#[test]
fn the_doctor_reports_what_runs() {
    let text = help(&["doctor", "--device", "cpu"]);
    for word in ["libtorch      2.11.0", "libtorch_cpu.so", "CUDA ", "device        cpu", "TF32 ", "threads "] {
        assert!(text.contains(word), "{text}");
    }
}
