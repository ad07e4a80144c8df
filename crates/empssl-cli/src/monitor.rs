//! How good the features of a run are becoming, while it goes on: weighted kNN on labelled training images.
//!
//! Training learns without labels and does not see the result, so its bits are those of a run that nobody monitors.

use std::time::Instant;

use empssl_data::{Dataset, PatchLoader, View};
use empssl_eval::{BankOptions, KnnMonitor};
use empssl_model::{Mode, Network};
pub(crate) use empssl_report::metrics::Check;
use empssl_torch::catch;
use tch::{Device, Kind, Tensor};

use crate::config::Run;
use crate::error::CliError;
use crate::images::NO_EPOCH;
use crate::images::share;
use crate::network;
use crate::print;

/// Labelled images of a check; all of a set that has fewer.
const IMAGES: usize = 1000;
/// The fewest that can be scored.
const FEWEST: usize = 5;
/// Checks of a run when nobody asks for others.
const CHECKS: u64 = 10;
/// Patches of each image.
const PATCHES: usize = 1;
/// Images of a batch when the patches are cut.
const BATCH: usize = 100;

/// What is trained.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    /// Steps of the whole run.
    pub(crate) n_steps: u64,
    /// Patches that are in the network at once.
    pub(crate) patches_at_once: i64,
}

/// Looks at the features now and then.
pub(crate) struct Monitor {
    knn: KnnMonitor,
    n_steps: u64,
    every: Option<u64>,
}

impl Monitor {
    /// A monitor on a share of the training images, `None` where they have no labels or are too few. It looks every so
    /// many steps, by default after every tenth of the run.
    pub(crate) fn new(
        run: &Run,
        set: &Dataset,
        seed: u64,
        device: Device,
        workers: usize,
        every: Option<u64>,
        job: Job,
    ) -> Result<Option<Self>, CliError> {
        let images = set.len().min(IMAGES);
        if set.labels().is_none() || images < FEWEST {
            let lack = if images < FEWEST { "are too few" } else { "have no labels" };
            print::note(format_args!("the images {lack}, so no kNN says how good their features are becoming"));
            return Ok(None);
        }
        let set = set.subset(&share(set.len(), IMAGES, seed))?;
        let config = network::in_order(View::Grid { flip: false }, PATCHES, BATCH, (seed, NO_EPOCH), workers);
        let options = BankOptions {
            n_classes: set.class_names().len() as i64,
            device,
            kind: Kind::Float,
            patches_per_call: network::patches_per_call(run, device).min(job.patches_at_once),
        };
        let knn = KnnMonitor::new(PatchLoader::new(&set, &run.sampler, &config)?, &run.config.evaluation.knn, options)?;
        Ok(Some(Self { knn, n_steps: job.n_steps, every }))
    }

    /// Whether to look at the features after this step.
    pub(crate) fn is_due(&self, step: u64) -> bool {
        is_due(step, self.n_steps, self.every)
    }

    /// Looks at them.
    pub(crate) fn check(&self, network: &Network) -> Result<Check, CliError> {
        let began = Instant::now();
        let extractor = |patches: &Tensor| network.encode(patches, Mode::Eval);
        let accuracy = catch(|| self.knn.score(&extractor))??;
        Ok(Check {
            knn_top1: accuracy.top1,
            knn_top5: accuracy.top5,
            images: self.knn.n_images(),
            patches: self.knn.n_patches(),
            seconds: began.elapsed().as_secs_f64(),
        })
    }
}

/// The last step of a run is always due.
fn is_due(step: u64, n_steps: u64, every: Option<u64>) -> bool {
    let tenth = |step: u64| u128::from(step) * u128::from(CHECKS) / u128::from(n_steps);
    match every {
        Some(every) => step.is_multiple_of(every) || step == n_steps,
        None => tenth(step) > tenth(step - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_due_every_tenth_of_a_run_or_as_asked_and_at_its_end() {
        let due = |n_steps, every| (1..=n_steps).filter(|&step| is_due(step, n_steps, every)).collect::<Vec<_>>();
        assert_eq!(due(500, None), (1..=10).map(|check| 50 * check).collect::<Vec<_>>());
        assert_eq!(due(25, None), [3, 5, 8, 10, 13, 15, 18, 20, 23, 25]);
        assert_eq!(due(4, None), [1, 2, 3, 4]);
        assert_eq!(due(500, Some(200)), [200, 400, 500]);
    }

    #[test]
    fn a_check_writes_to_nothing_of_the_network_and_draws_nothing() {
        let set = crate::network::tests::synthetic();
        let run = crate::network::tests::smoke();
        let network = crate::network::initial_network(&run, 5, Device::Cpu).unwrap();
        let state = || network.state_dict().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect::<Vec<_>>();
        let before = state();
        let job = Job { n_steps: 9, patches_at_once: 64 };
        let monitor = Monitor::new(&run, &set, 5, Device::Cpu, 1, Some(2), job).unwrap().unwrap();
        assert!(monitor.is_due(2) && !monitor.is_due(3) && monitor.is_due(9));
        let check = monitor.check(&network).unwrap();
        assert_eq!((check.images, check.patches), (60, 1));
        assert!(check.knn_top1 <= check.knn_top5 && (5.0..=100.0).contains(&check.knn_top5), "{check:?}");
        assert_eq!(state(), before, "weights, running statistics and counts");
        let draw_after = |n_checks: usize| {
            tch::manual_seed(3);
            (0..n_checks).for_each(|_| assert!(monitor.check(&network).is_ok()));
            Tensor::rand([8], (Kind::Float, Device::Cpu))
        };
        // Other tests draw from libtorch's generator too, so one time in which they do not is enough.
        assert!((0..50).any(|_| draw_after(1) == draw_after(0)), "a check draws from libtorch's generator");
        let again = monitor.check(&network).unwrap();
        assert_eq!((again.knn_top1, again.knn_top5), (check.knn_top1, check.knn_top5));
    }
}
