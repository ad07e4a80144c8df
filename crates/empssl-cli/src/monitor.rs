//! How good the features of a run are becoming, while it goes on: weighted kNN on labelled training images.
//!
//! Training learns without labels and is not told the result, so its bits are those of a run that nobody monitors.

use std::time::{Duration, Instant};

use empssl_data::{Dataset, PatchLoader, View};
use empssl_eval::{BankOptions, KnnMonitor};
use empssl_model::{Mode, Network};
pub(crate) use empssl_report::metrics::Check;
use empssl_torch::catch;
use tch::{Device, Kind, Tensor};

use crate::commands::eval::sets::share;
use crate::commands::{NO_EPOCH, encode};
use crate::config::Run;
use crate::error::CliError;

/// Labelled images of a check; all of a set that has fewer.
const IMAGES: usize = 1000;
/// The fewest that can be scored.
const FEWEST: usize = 5;
/// The share of a run's time that its checks may take.
const SHARE: f64 = 0.02;
/// What the sizes of the checks are chosen for, so that a machine on which they cost more stays within [`SHARE`].
const PLANNED_SHARE: f64 = 0.015;
/// The fewest and the most checks of a run.
const CHECKS: [u64; 2] = [10, 50];
/// Patches of each image where a run is short, and where it is long.
const PATCHES: [u64; 2] = [1, 4];
/// A step passes each of its patches forward once and backward at twice the cost.
const PASSES: u64 = 3;
/// Images of a batch when the patches are cut.
const BATCH: usize = 100;

/// What is trained, as far as the costs go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    /// Steps of the whole run.
    pub(crate) n_steps: u64,
    /// Steps that were taken before.
    pub(crate) first_step: u64,
    /// Patches that pass through the network in a step.
    pub(crate) patches_a_step: u64,
    /// Patches that are in the network at once.
    pub(crate) patches_at_once: i64,
}

/// Looks at the features now and then.
pub(crate) struct Monitor {
    knn: KnnMonitor,
    pace: Pace,
}

impl Monitor {
    /// A monitor on a share of the training images, `None` where they have no labels or are too few. It looks every so
    /// many steps or, unasked, as often as its share of the time allows.
    pub(crate) fn new(
        run: &Run,
        set: &Dataset,
        seed: u64,
        device: Device,
        workers: usize,
        every: Option<u64>,
        job: Job,
    ) -> Result<Option<Self>, CliError> {
        let began = Instant::now();
        let images = set.len().min(IMAGES);
        if set.labels().is_none() || images < FEWEST {
            let lack = if images < FEWEST { "are too few" } else { "have no labels" };
            eprintln!("note: the images {lack}, so no kNN says how good their features are becoming");
            return Ok(None);
        }
        let plan = Plan::new(images as u64, &job);
        let set = set.subset(&share(set.len(), IMAGES, seed))?;
        let draws = (seed, NO_EPOCH);
        let config = encode::in_order(View::Grid { flip: false }, plan.n_patches as usize, BATCH, draws, workers);
        let options = BankOptions {
            n_classes: set.class_names().len() as i64,
            device,
            kind: Kind::Float,
            patches_per_call: encode::patches_per_call(run, device).min(job.patches_at_once),
        };
        let knn = KnnMonitor::new(PatchLoader::new(&set, &run.sampler, &config)?, &run.config.evaluation.knn, options)?;
        let rhythm = every.map_or(Rhythm::Within { checks: plan.checks, passes: plan.passes }, Rhythm::Every);
        Ok(Some(Self { knn, pace: Pace::new(rhythm, job, began.elapsed()) }))
    }

    /// Whether to look at the features after this step.
    pub(crate) fn is_due(&self, step: u64) -> bool {
        self.pace.is_due(step, self.pace.began.elapsed())
    }

    /// Looks at them.
    pub(crate) fn check(&mut self, step: u64, network: &Network) -> Result<Check, CliError> {
        let began = Instant::now();
        let extractor = |patches: &Tensor| network.encode(patches, Mode::Eval);
        let accuracy = catch(|| self.knn.score(&extractor))??;
        let time = began.elapsed();
        self.pace.took(step, time);
        Ok(Check {
            knn_top1: accuracy.top1,
            knn_top5: accuracy.top5,
            images: self.knn.n_images(),
            patches: self.knn.n_patches(),
            seconds: time.as_secs_f64(),
        })
    }
}

/// How many checks of which size a run can afford, by its work alone: the same on every machine.
#[derive(Debug, PartialEq)]
struct Plan {
    n_patches: u64,
    checks: u64,
    /// Patches passed forward in a check.
    passes: u64,
}

impl Plan {
    fn new(images: u64, job: &Job) -> Self {
        let affordable = PLANNED_SHARE * PASSES as f64 * job.n_steps as f64 * job.patches_a_step as f64;
        let [few, many] = PATCHES;
        let n_patches = if (CHECKS[0] * images * many) as f64 <= affordable { many } else { few };
        let passes = images * n_patches;
        Self { n_patches, checks: ((affordable / passes as f64) as u64).clamp(CHECKS[0], CHECKS[1]), passes }
    }
}

/// When a check is due.
#[derive(Debug, Clone, Copy)]
enum Rhythm {
    /// Every so many steps, and after the last.
    Every(u64),
    /// So many checks, evenly over the run, as soon as each would leave them all within [`SHARE`] of the time.
    Within { checks: u64, passes: u64 },
}

/// Spaces the checks of a process.
struct Pace {
    rhythm: Rhythm,
    job: Job,
    began: Instant,
    /// The last check's step, or the first of this process.
    last: u64,
    /// Checks so far.
    done: u32,
    /// What they took.
    checking: Duration,
    /// What it took to get ready.
    preparing: Duration,
}

impl Pace {
    fn new(rhythm: Rhythm, job: Job, preparing: Duration) -> Self {
        let (began, checking) = (Instant::now(), Duration::ZERO);
        Self { rhythm, job, began, last: job.first_step, done: 0, checking, preparing }
    }

    fn is_due(&self, step: u64, elapsed: Duration) -> bool {
        let n_steps = self.job.n_steps;
        match self.rhythm {
            Rhythm::Every(steps) => step.is_multiple_of(steps) || step == n_steps,
            Rhythm::Within { checks, passes } => {
                let planned = |step: u64| (u128::from(step) * u128::from(checks) / u128::from(n_steps)) as u64;
                planned(step) > planned(self.last) && self.is_affordable(step, passes, elapsed)
            }
        }
    }

    fn is_affordable(&self, step: u64, passes: u64, elapsed: Duration) -> bool {
        let a_step = elapsed / u32::try_from(step - self.job.first_step).unwrap_or(u32::MAX).max(1);
        let expected = match self.done {
            0 => a_step.mul_f64(passes as f64 / (PASSES * self.job.patches_a_step) as f64),
            done => self.checking / done,
        };
        self.preparing + self.checking + expected <= elapsed.mul_f64(SHARE)
    }

    fn took(&mut self, step: u64, time: Duration) {
        (self.last, self.done, self.checking) = (step, self.done + 1, self.checking + time);
    }
}

#[cfg(test)]
mod tests {
    use empssl_torch::operators;

    use super::*;

    fn job(n_steps: u64, patches_a_step: u64) -> Job {
        Job { n_steps, first_step: 0, patches_a_step, patches_at_once: 64 }
    }

    #[test]
    fn short_runs_get_few_small_checks_and_long_ones_more_and_larger_ones() {
        let plan = |n_steps, patches_a_step| Plan::new(1000, &job(n_steps, patches_a_step));
        assert_eq!(plan(60, 200), Plan { n_patches: 1, checks: 10, passes: 1000 });
        assert_eq!(plan(500, 400), Plan { n_patches: 1, checks: 10, passes: 1000 });
        assert_eq!(plan(500, 2000), Plan { n_patches: 4, checks: 11, passes: 4000 });
        assert_eq!(plan(5000, 20_000), Plan { n_patches: 4, checks: 50, passes: 4000 });
        assert_eq!(Plan::new(10, &job(60, 200)), Plan { n_patches: 4, checks: 13, passes: 40 });
    }

    /// The steps of the checks of a run whose steps take a second each, and checks of so many seconds.
    fn checks(rhythm: Rhythm, job: Job, cost: f64) -> Vec<u64> {
        let mut pace = Pace::new(rhythm, job, Duration::ZERO);
        let (mut elapsed, mut steps) = (Duration::ZERO, Vec::new());
        for step in job.first_step + 1..=job.n_steps {
            elapsed += Duration::from_secs(1);
            if pace.is_due(step, elapsed) {
                let time = Duration::from_secs_f64(cost);
                elapsed += time;
                pace.took(step, time);
                steps.push(step);
            }
        }
        steps
    }

    #[test]
    fn checks_are_spread_evenly_where_they_are_cheap_and_spaced_where_they_are_not() {
        let within = Rhythm::Within { checks: 10, passes: 1000 };
        let cheap = checks(within, job(500, 400), 0.8);
        assert_eq!(cheap, (1..=10).map(|check| 50 * check).collect::<Vec<_>>());
        // Expected at 0.83 seconds by its share of a step's work, found to cost 2: two hundredths allow five.
        let dear = checks(within, job(500, 400), 2.0);
        assert_eq!(dear, [50, 198, 296, 394, 492]);
        assert!(2.0 * dear.len() as f64 <= SHARE * (500.0 + 2.0 * dear.len() as f64));
        // One that would take more than its share of the whole run is never begun.
        assert!(checks(within, job(60, 200), 1.7).is_empty());
    }

    #[test]
    fn a_resumed_run_goes_on_with_the_checks_that_are_left() {
        let resumed = Job { first_step: 230, ..job(500, 400) };
        assert_eq!(checks(Rhythm::Within { checks: 10, passes: 1000 }, resumed, 0.4), [272, 300, 350, 400, 450, 500]);
        assert_eq!(checks(Rhythm::Every(100), resumed, 90.0), [300, 400, 500]);
        assert_eq!(checks(Rhythm::Every(200), job(500, 400), 90.0), [200, 400, 500]);
    }

    #[test]
    fn a_check_writes_to_nothing_of_the_network_and_draws_nothing() {
        let set = crate::commands::encode::tests::synthetic();
        let run = crate::commands::encode::tests::smoke();
        let network = crate::commands::train::initial_network(&run, 5, Device::Cpu).unwrap();
        let state = || network.state_dict().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect::<Vec<_>>();
        let before = state();
        let mut monitor = Monitor::new(&run, &set, 5, Device::Cpu, 1, Some(2), job(9, 400)).unwrap().unwrap();
        assert!(monitor.is_due(2) && !monitor.is_due(3) && monitor.is_due(9));
        let (check, names) = operators::recorded(|| monitor.check(2, &network)).unwrap();
        let check = check.unwrap();
        assert_eq!((check.images, check.patches), (60, 1));
        assert!(check.knn_top1 <= check.knn_top5 && (5.0..=100.0).contains(&check.knn_top5), "{check:?}");
        assert_eq!(state(), before, "weights, running statistics and counts");
        let draws = |name: &String| {
            ["rand", "normal", "uniform", "bernoulli", "dropout", "multinomial", "exponential"]
                .iter()
                .any(|word| name.contains(word))
        };
        assert!(names.iter().any(|name| name.contains("conv")), "{names:?}");
        assert_eq!(names.iter().filter(|name| draws(name)).collect::<Vec<_>>(), Vec::<&String>::new());
        let again = monitor.check(4, &network).unwrap();
        assert_eq!((again.knn_top1, again.knn_top5), (check.knn_top1, check.knn_top5));
    }
}
