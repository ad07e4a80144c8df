//! One pass of an encoder over the images of a split: what it loads, and how it computes.

use empssl_data::{DataError, Dataset, PatchBatch, PatchLoader};
use empssl_eval::BankOptions;
use empssl_torch::processes::ProcessGroup;
use tch::{Device, Kind};

use crate::commands::encode;
use crate::config::{EvalView, Run};
use crate::error::CliError;

/// A pass, the same on every rank.
pub(super) struct Pass<'a> {
    pub(super) run: &'a Run,
    pub(super) set: &'a Dataset,
    pub(super) seed: u64,
    pub(super) view: EvalView,
    pub(super) n_patches: usize,
    pub(super) n_classes: i64,
    pub(super) device: Device,
    pub(super) workers: usize,
}

impl Pass<'_> {
    /// Every batch, or those that fall to this rank: each `world`-th from its own first one on.
    pub(super) fn loader(
        &self,
        group: Option<&ProcessGroup>,
    ) -> Result<impl Iterator<Item = Result<PatchBatch, DataError>>, CliError> {
        let batch_size = self.run.config.evaluation.batch_size;
        let loader = encode::in_order(self.view.view(), self.n_patches, batch_size, self.seed, self.workers);
        let (first, step) = group.map_or((0, 1), |group| (group.rank(), group.world()));
        Ok(PatchLoader::new(self.set, &self.run.sampler, &loader)?.skip(first).step_by(step))
    }

    pub(super) fn options(&self) -> BankOptions {
        BankOptions {
            n_classes: self.n_classes,
            device: self.device,
            kind: Kind::Float,
            patches_per_call: encode::patches_per_call(self.run, self.device),
        }
    }
}
