//! `empssl bench step`: steps of a recipe, taken apart.

mod table;

use std::sync::atomic::AtomicBool;

use empssl_data::Split;
use empssl_train::measure::{PHASES, PhaseSeconds, ProductRate, StepClock, StepOperations, StepTimes, product_rate};
use empssl_train::{CheckpointPlan, Length, TrainConfig};
use serde::Serialize;
use tch::Device;

use crate::args::{BenchArgs, BenchCommand, BenchStepArgs};
use crate::config::{Precision, Run, RunConfig};
use crate::error::CliError;
use crate::host;
use crate::images::{ImageSource, run_of};
use crate::machine;
use crate::network::{batch_source, build_trainer};
use crate::report::{DataIdentity, Machine, PeakBytes, data_identity};
use crate::run::folder::write_json;

pub(crate) fn run(args: &BenchArgs) -> Result<(), CliError> {
    match &args.command {
        BenchCommand::Step(args) => step(args),
    }
}

fn step(args: &BenchStepArgs) -> Result<(), CliError> {
    let (run, images) = run_of(&args.recipe, &args.set, args.dataset.as_ref(), &args.images)?;
    let device = machine::prepare(&args.compute)?;
    let report = measure(run, args, images, device)?;
    table::print(&report);
    args.json.as_deref().map_or(Ok(()), |path| write_json(path, &report))
}

/// Takes the steps, and after them the measure that they are held against.
fn measure(run: Run, args: &BenchStepArgs, images: ImageSource, device: Device) -> Result<StepReport, CliError> {
    let began = host::utc_now();
    let dataset = images.open(Split::Train)?;
    let data = data_identity(&dataset, images);
    let clock = StepClock::new(device, args.warmup, args.steps);
    // So many steps that leave nothing behind.
    let (length, log_every) = (Length::Steps(clock.n_steps()), clock.n_steps());
    let config = TrainConfig { length, log_every, t_max: None, snapshot_epochs: Vec::new(), ..run.train_config(0) };
    let mut trainer = build_trainer(&run, config, &dataset, device, (1, 1))?;
    let source = batch_source(&run, dataset, args.workers);
    machine::reset_peaks(device)?;
    clock.during(|| trainer.run(&source, &CheckpointPlan::default(), &AtomicBool::new(false), &mut ()))?;
    let (times, peak_bytes) = (clock.finish()?, machine::peaks(device)?);

    let network = trainer.network();
    let tf32 = run.config.training.precision == Precision::Tf32;
    let rate = product_rate(device, network.activation_kind(), tf32)?;
    let training = &run.config.training;
    let (n, b) = (training.n_patches, training.batch_size);
    let operations = StepOperations::count(&run.config.network, run.sampler.side(), training.memory, n, b);
    Ok(StepReport {
        schema_version: 1,
        began,
        host: host::name(),
        command: host::command_line(),
        data,
        machine: machine::describe(device),
        processors: host::n_processors(),
        workers: source.n_workers,
        warmup: args.warmup,
        parameters: run.config.network.n_parameters(),
        measured: Measured::new(&times, &operations, rate, n * b),
        peak_bytes,
        name: run.recipe,
        recipe: run.config,
    })
}

/// What `--json` writes.
#[derive(Serialize)]
struct StepReport {
    schema_version: u32,
    began: String,
    host: String,
    command: String,
    /// The recipe's name.
    name: String,
    /// The recipe, with every key.
    recipe: RunConfig,
    data: DataIdentity,
    machine: Machine,
    processors: usize,
    workers: usize,
    warmup: u64,
    parameters: i64,
    measured: Measured,
    /// Of training alone.
    peak_bytes: PeakBytes,
}

/// The figures.
#[derive(Serialize)]
struct Measured {
    /// Every step that was taken apart, from the wait for its batch to the end of its update.
    each_step_seconds: Vec<f64>,
    step_seconds: Spread,
    phases: Vec<PhaseReport>,
    /// Mean of as many steps without waiting for the device within them; absent on a CPU, where nothing overlaps.
    overlapped_step_seconds: Option<f64>,
    patches: usize,
    /// By the overlapped step, or where there is none by the median one.
    patches_per_s: f64,
    /// Floating-point operations of a step, a multiplication and an addition being two.
    operations: f64,
    product_rate: RateReport,
    /// The step's operations per second, by the same step as `patches_per_s`, over the rate of products.
    of_product_rate: f64,
}

#[derive(Serialize)]
struct Spread {
    median: f64,
    p90: f64,
    mean: f64,
}

#[derive(Serialize)]
struct PhaseReport {
    phase: &'static str,
    seconds: Spread,
    /// Of the steps' whole time; all phases together make 1.
    share: f64,
    operations: f64,
    /// Its operations per second over the rate of products; absent where there are none.
    of_product_rate: Option<f64>,
}

#[derive(Serialize)]
struct RateReport {
    size: i64,
    operations_per_s: f64,
}

impl Measured {
    fn new(times: &StepTimes, operations: &StepOperations, rate: ProductRate, patches: usize) -> Self {
        let each: Vec<f64> = times.steps.iter().map(PhaseSeconds::whole).collect();
        let step = Spread::of(&each);
        let typical = times.overlapped.unwrap_or(step.median);
        let phases = (0..PHASES.len()).map(|phase| PhaseReport::new(phase, times, operations, rate)).collect();
        Self {
            step_seconds: step,
            phases,
            overlapped_step_seconds: times.overlapped,
            patches,
            patches_per_s: patches as f64 / typical,
            operations: operations.total(),
            product_rate: RateReport { size: rate.size, operations_per_s: rate.per_second },
            of_product_rate: operations.total() / typical / rate.per_second,
            each_step_seconds: each,
        }
    }
}

impl PhaseReport {
    /// That of one of the [`PHASES`].
    fn new(phase: usize, times: &StepTimes, operations: &StepOperations, rate: ProductRate) -> Self {
        let each: Vec<f64> = times.steps.iter().map(|step| step.each()[phase]).collect();
        let whole: f64 = times.steps.iter().map(PhaseSeconds::whole).sum();
        let (seconds, operations) = (Spread::of(&each), operations.each()[phase]);
        Self {
            phase: PHASES[phase],
            share: each.iter().sum::<f64>() / whole,
            of_product_rate: (operations > 0.0).then(|| operations / seconds.median / rate.per_second),
            operations,
            seconds,
        }
    }
}

impl Spread {
    /// Median, the smallest value that nine tenths do not exceed, and mean; of at least one value.
    fn of(seconds: &[f64]) -> Self {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (n, middle) = (sorted.len(), sorted.len() / 2);
        let median = if n.is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] };
        Self { median, p90: sorted[(n * 9).div_ceil(10) - 1], mean: sorted.iter().sum::<f64>() / n as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_of_few_and_of_many() {
        let of = |values: &[f64]| {
            let Spread { median, p90, mean } = Spread::of(values);
            [median, p90, mean]
        };
        assert_eq!(of(&[3.0]), [3.0; 3]);
        assert_eq!(of(&[4.0, 2.0]), [3.0, 4.0, 3.0]);
        assert_eq!(of(&[9.0, 1.0, 2.0]), [2.0, 9.0, 4.0]);
        let many: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(of(&many), [10.5, 18.0, 10.5]);
    }
}
