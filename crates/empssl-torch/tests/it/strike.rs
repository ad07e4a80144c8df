//! Blows that end a rank or halt it, for tests of what the others say.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::time::Duration;

/// What a busy machine may take beyond a time-out.
pub(crate) const SLACK: Duration = Duration::from_secs(4);

pub(crate) fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success());
}

/// Waits until a rank has begun, which it says.
pub(crate) fn await_begun(child: &mut Child) {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("begun")), "it ended before it began");
}
