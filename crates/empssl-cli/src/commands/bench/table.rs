//! The measured step as a table for the terminal.

use empssl_torch::failure::Bytes;

use super::StepReport;
use crate::config::word;
use crate::print::output;

pub(super) fn print(report: &StepReport) {
    lines(report).iter().for_each(|line| output(line.trim_end()));
}

fn lines(report: &StepReport) -> Vec<String> {
    let mut lines = vec![heading(report)];
    lines.push(format!("{:<12}{:>12}{:>12}{:>9}{:>13}", "phase", "median ms", "p90 ms", "share", "of products"));
    let measured = &report.measured;
    for phase in &measured.phases {
        // Only some memory modes recompute anything.
        if phase.phase != "recompute" || phase.operations > 0.0 {
            let rate = phase.of_product_rate.map_or(String::new(), |fraction| format!("{fraction:.2}"));
            let (median, p90) = (1e3 * phase.seconds.median, 1e3 * phase.seconds.p90);
            lines.push(format!("{:<12}{median:>12.3}{p90:>12.3}{:>8.2}%{rate:>13}", phase.phase, 100.0 * phase.share));
        }
    }
    let (median, p90) = (1e3 * measured.step_seconds.median, 1e3 * measured.step_seconds.p90);
    let fraction = if measured.overlapped_step_seconds.is_none() { measured.of_product_rate } else { of_step(report) };
    lines.push(format!("{:<12}{median:>12.3}{p90:>12.3}{:>8.2}%{fraction:>13.2}", "step", 100.0));
    lines.extend(overlapped(report));
    lines.push(format!("{:.1} patches/s, {} patches a step", measured.patches_per_s, measured.patches));
    lines.push(products(report));
    lines.extend(memory(report));
    lines
}

fn heading(report: &StepReport) -> String {
    let (machine, training) = (&report.machine, &report.recipe.training);
    format!(
        "{}: {} x {} patches of {} px a step, {}, {}, memory = {}; {} on {}, {} threads, {} workers; {} steps after {}",
        report.name,
        training.n_patches,
        training.batch_size,
        report.recipe.patches.side,
        word(training.precision),
        word(training.layout),
        training.memory,
        report.data.name,
        machine.device_name,
        machine.threads,
        report.workers,
        report.measured.each_step_seconds.len(),
        report.warmup
    )
}

/// The fraction that the step taken apart achieves.
fn of_step(report: &StepReport) -> f64 {
    let measured = &report.measured;
    measured.operations / measured.step_seconds.median / measured.product_rate.operations_per_s
}

fn overlapped(report: &StepReport) -> Option<String> {
    let measured = &report.measured;
    let milliseconds = 1e3 * measured.overlapped_step_seconds?;
    let (name, fraction) = ("overlapped", measured.of_product_rate);
    Some(format!("{name:<12}{milliseconds:>12.3}{:>34.2}  (no waiting for the device within a step)", fraction))
}

fn products(report: &StepReport) -> String {
    let measured = &report.measured;
    let (size, rate) = (measured.product_rate.size, measured.product_rate.operations_per_s);
    format!(
        "products of {size} x {size} matrices: {:.1} GFLOP/s; a step needs {:.1} GFLOP",
        rate / 1e9,
        measured.operations / 1e9
    )
}

fn memory(report: &StepReport) -> Option<String> {
    let host = report.peak_bytes.host.map(|bytes| format!("{} of the process", Bytes(bytes)));
    let device = report.peak_bytes.device.map(|bytes| format!("{} of tensors on the device", Bytes(bytes)));
    let peaks: Vec<String> = [device, host].into_iter().flatten().collect();
    (!peaks.is_empty()).then(|| format!("peak memory: {}", peaks.join(", ")))
}
