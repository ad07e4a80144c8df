//! The Python that tests hold our files and numbers against, where it has the packages.

use std::process::{Command, Output};

/// An interpreter that imports what a test needs.
#[derive(Debug)]
pub struct Python(String);

impl Python {
    /// The interpreter that `EMPSSL_PYTHON` names, by default `python3`, when it imports `packages`
    /// (`torch, torchvision`). Otherwise says why the test of `what` is skipped and returns `None`.
    pub fn with(packages: &str, what: &str) -> Option<Self> {
        let python = Self(std::env::var("EMPSSL_PYTHON").unwrap_or_else(|_| "python3".to_owned()));
        let reason = match python.output(&["-c", &format!("import {packages}")]) {
            Ok(output) if output.status.success() => return Some(python),
            Ok(output) => String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("it fails").to_owned(),
            Err(error) => error.to_string(),
        };
        eprintln!("skipped: {what}: {}: {reason}", python.0);
        None
    }

    /// What a call with these arguments prints.
    ///
    /// # Panics
    /// When the interpreter fails, with what it says.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments).expect("the interpreter ran a moment ago");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn output(&self, arguments: &[&str]) -> std::io::Result<Output> {
        Command::new(&self.0).args(arguments).output()
    }
}
