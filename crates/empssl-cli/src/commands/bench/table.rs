//! The measured step as a table for the terminal.

use empssl_torch::failure::Bytes;

use super::StepReport;
use crate::config::word;
use crate::print::output;

pub(super) fn print(report: &StepReport) {
    output(heading(report));
    output(format_args!("{:<12}{:>12}{:>12}{:>9}{:>13}", "phase", "median ms", "p90 ms", "share", "of products"));
    let measured = &report.measured;
    for phase in &measured.phases {
        // Only some memory modes recompute anything.
        if phase.phase != "recompute" || phase.operations > 0.0 {
            let rate = phase.of_product_rate.map_or(String::new(), |fraction| format!("{fraction:.2}"));
            let (median, p90, share) = (1e3 * phase.seconds.median, 1e3 * phase.seconds.p90, 100.0 * phase.share);
            let line = format!("{:<12}{median:>12.3}{p90:>12.3}{share:>8.2}%{rate:>13}", phase.phase);
            output(line.trim_end());
        }
    }
    let (size, rate) = (measured.product_rate.size, measured.product_rate.operations_per_s);
    let (median, p90) = (1e3 * measured.step_seconds.median, 1e3 * measured.step_seconds.p90);
    // The fraction that the step achieves which was taken apart.
    let fraction = match measured.overlapped_step_seconds {
        None => measured.of_product_rate,
        Some(_) => measured.operations / measured.step_seconds.median / rate,
    };
    output(format_args!("{:<12}{median:>12.3}{p90:>12.3}{:>8.2}%{fraction:>13.2}", "step", 100.0));
    if let Some(seconds) = measured.overlapped_step_seconds {
        let (milliseconds, fraction) = (1e3 * seconds, measured.of_product_rate);
        output(format_args!(
            "{:<12}{milliseconds:>12.3}{fraction:>34.2}  (no waiting for the device within a step)",
            "overlapped"
        ));
    }
    output(format_args!("{:.1} patches/s, {} patches a step", measured.patches_per_s, measured.patches));
    output(format_args!(
        "products of {size} x {size} matrices: {:.1} GFLOP/s; a step needs {:.1} GFLOP",
        rate / 1e9,
        measured.operations / 1e9
    ));
    let host = report.peak_bytes.host.map(|bytes| format!("{} of the process", Bytes(bytes)));
    let device = report.peak_bytes.device.map(|bytes| format!("{} of tensors on the device", Bytes(bytes)));
    let peaks: Vec<String> = [device, host].into_iter().flatten().collect();
    if !peaks.is_empty() {
        output(format_args!("peak memory: {}", peaks.join(", ")));
    }
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
