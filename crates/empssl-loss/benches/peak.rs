//! The memory that value and gradient of the objective take at their peak, in closed form and as published.
//!
//! Each figure comes from a fresh process: it computes a small case first, so that code, threads and the tables of the
//! kernels are in memory; makes the projections; starts a new peak (`/proc/self/clear_refs`); computes once, up to the
//! gradient in `z.grad()`; and prints by how much the largest resident memory since then (`VmHWM`) exceeds what was
//! resident before. The projections themselves are not in it, their gradient is. `floor` is that gradient alone.
//!
//! ```sh
//! cargo bench -p empssl-loss --bench peak
//! ```
//!
//! The published formula at n = 200 takes over ten seconds and several gigabytes, and runs only when asked for by name:
//! `-- reference/n200`. On a system that does not tell the peak of a process nothing is measured, and that is said.

mod common;

use std::env;
use std::process::Command;

use empssl_loss::{EmpSslLoss, EmpSslLossConfig};

use common::{SIZES, id, published, unit_rows};

/// Carries form and size into the process that is measured.
const JOB: &str = "EMPSSL_PEAK_JOB";
const FORMS: [&str; 2] = ["empssl", "reference"];

fn main() {
    match env::var(JOB) {
        Ok(job) => measured(&job),
        Err(_) => FORMS.iter().for_each(|form| SIZES.iter().for_each(|&size| report(form, size))),
    }
}

/// Measures one case in a process of its own, when the command line asks for it.
fn report(form: &str, size @ [n, b, d]: [i64; 3]) {
    let name = format!("{form}/{}", id(size));
    let filters: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let slow = form == "reference" && n >= 200;
    let asked = filters.iter().any(|filter| name.contains(filter.as_str()));
    if !(asked || filters.is_empty() && !slow) {
        return;
    }
    let program = env::current_exe().expect("a running program has a file");
    let output = Command::new(program).env(JOB, format!("{form} {n} {b} {d}")).output().expect("it starts again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    match text.trim().parse::<u64>() {
        Ok(bytes) => {
            let floor = (4 * n * b * d) as f64 / (1 << 20) as f64;
            println!("peak/{name:<28} {:>9.1} MiB   floor {floor:.1} MiB", bytes as f64 / (1 << 20) as f64);
        }
        Err(_) => println!("peak/{name}: this system does not tell the peak memory of a process"),
    }
}

/// The other half of [`report`].
fn measured(job: &str) {
    let (form, size) = job.split_once(' ').expect("form and size");
    let size: Vec<i64> = size.split(' ').map(|number| number.parse().expect("a number")).collect();
    let size: [i64; 3] = size.try_into().expect("n, b and d");
    compute(form, [2, 64, 128]);
    compute(form, [2, 128, 64]);
    let z = unit_rows(size).set_requires_grad(true);
    let reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let before = status("VmRSS:").filter(|_| reset);
    once(form, &z);
    if let (Some(before), Some(peak)) = (before, status("VmHWM:")) {
        println!("{}", peak.saturating_sub(before));
    }
}

fn compute(form: &str, size: [i64; 3]) {
    once(form, &unit_rows(size).set_requires_grad(true));
}

/// Value and gradient, the latter in `z.grad()`.
fn once(form: &str, z: &tch::Tensor) {
    let config = EmpSslLossConfig::paper();
    if form == FORMS[0] {
        let loss = EmpSslLoss::new(&config).expect("the published settings are valid");
        loss.backward(z).expect("the projections are valid");
    } else {
        published(z, &config).backward();
    }
    assert!(z.grad().defined());
}

/// A field of `/proc/self/status`, in bytes.
fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}
