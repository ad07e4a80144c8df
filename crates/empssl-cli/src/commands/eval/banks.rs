//! Feature banks of the labelled images.

use std::time::Instant;

use empssl_data::{Dataset, LoaderConfig, Order, PatchLoader, View};
use empssl_eval::{BankOptions, FeatureBank, FeatureExtractor};
use empssl_torch::catch;
use tch::{Device, Kind};

use super::sets::LabelledSets;
use crate::commands::{self, NO_EPOCH, PREFETCH};
use crate::config::Run;
use crate::error::CliError;
use crate::progress::Bar;
use crate::report::PeakBytes;

/// Most patches in one forward pass on a GPU.
const PATCHES_PER_CALL: i64 = 2000;
/// Largest feature map of a forward pass on the CPU, in bytes. Allocators hand larger blocks back to the system, and
/// fetching fresh pages for every layer then costs as much as computing it.
const CPU_MAP_BYTES: i64 = 16 << 20;

/// Features of one encoder, and what they cost.
pub(crate) struct Banks {
    pub(crate) train: FeatureBank,
    pub(crate) test: FeatureBank,
    pub(crate) seconds: f64,
    pub(crate) peaks: PeakBytes,
}

/// Makes the banks of any encoder from the same images.
pub(crate) struct BankMaker<'a> {
    pub(crate) run: &'a Run,
    pub(crate) sets: &'a LabelledSets,
    pub(crate) seed: u64,
    pub(crate) device: Device,
    pub(crate) workers: usize,
}

impl BankMaker<'_> {
    fn patches_per_call(&self) -> i64 {
        let side = self.run.sampler.side() as i64;
        let map = self.run.network.resnet.base_width * side * side * Kind::Float.elt_size_in_bytes() as i64;
        if self.device.is_cuda() { PATCHES_PER_CALL } else { (CPU_MAP_BYTES / map).max(1) }
    }

    pub(crate) fn banks(
        &self,
        extractor: &dyn FeatureExtractor,
        view: View,
        n_patches: usize,
    ) -> Result<Banks, CliError> {
        commands::reset_peaks(self.device)?;
        let started = Instant::now();
        let train = self.bank("training", &self.sets.train, extractor, view, n_patches)?;
        let test = self.bank("test", &self.sets.test, extractor, view, n_patches)?;
        Ok(Banks { train, test, seconds: started.elapsed().as_secs_f64(), peaks: commands::peaks(self.device)? })
    }

    fn bank(
        &self,
        name: &'static str,
        set: &Dataset,
        extractor: &dyn FeatureExtractor,
        view: View,
        n_patches: usize,
    ) -> Result<FeatureBank, CliError> {
        let loader = LoaderConfig {
            n_patches,
            batch_size: self.run.config.evaluation.batch_size,
            view,
            order: Order::Sequential,
            drop_last: false,
            seed: self.seed,
            epoch: NO_EPOCH,
            first_batch: 0,
            rank: 0,
            world: 1,
            n_workers: self.workers,
            prefetch: PREFETCH,
        };
        let loader = PatchLoader::new(set, &self.run.sampler, &loader)?;
        let options = BankOptions {
            n_classes: self.sets.n_classes,
            device: self.device,
            kind: Kind::Float,
            patches_per_call: self.patches_per_call(),
        };
        let mut bar = Bar::new("features", set.len() as u64, "images");
        let bank =
            catch(|| FeatureBank::build(name, extractor, loader, &options, &mut |done| bar.advance(done as u64)));
        bar.finish();
        Ok(bank??)
    }
}
