//! How much memory a step takes, and what to say when there is too little.
//!
//! The estimate counts what libtorch keeps for the backward pass of a residual network: the output of every
//! convolution (which its batch normalisation needs) and of every activation (which the next convolution needs), and
//! for every parameter its value, gradient and momentum.

use empssl_model::{Network, NetworkConfig};
use empssl_torch::failure::Bytes;
use empssl_torch::memory::device_memory;
use empssl_torch::{ShimError, TorchFailure};
use tch::{Device, Kind};

use crate::config::TrainConfig;
use crate::error::TrainError;

/// What a training step needs at its peak, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepMemory {
    /// Whatever the number of patches: parameters, gradients, momentum.
    pub fixed: u64,
    /// For each patch of the step.
    pub per_patch: u64,
}

impl StepMemory {
    /// The estimate for a network of numbers of `kind` on patches of side `side`.
    pub fn estimate(network: &NetworkConfig, side: usize, kind: Kind) -> Self {
        let bytes = kind.elt_size_in_bytes() as u64;
        let fixed = 3 * bytes * network.n_parameters() as u64;
        let per_patch = 2 * bytes * network.activation_elements(side as i64) as u64;
        Self { fixed, per_patch }
    }

    /// The peak for so many patches of so many images.
    pub fn total(&self, n_patches: usize, batch_size: usize) -> u64 {
        let patches = (n_patches as u64).saturating_mul(batch_size as u64);
        self.fixed.saturating_add(self.per_patch.saturating_mul(patches))
    }

    /// The setting that would fit into `room` bytes with at most so many patches a step, as a sentence.
    fn advice(&self, config: &TrainConfig, room: u64, most_patches: u64) -> String {
        let patches = (room.saturating_sub(self.fixed) / self.per_patch.max(1)).min(most_patches);
        let n = patches / config.batch_size as u64;
        let b = patches / config.n_patches as u64;
        let room = Bytes(room);
        if n >= 1 {
            format!("about {room} are free, which n_patches = {n} would fit")
        } else if b >= 2 {
            format!("about {room} are free, which batch_size = {b} would fit")
        } else {
            format!("about {room} are free, which is too little for any setting of this network; use a narrower one")
        }
    }
}

/// Refuses a run whose steps cannot fit, before the operating system would kill it for trying.
///
/// # Errors
/// [`TrainError::OutOfMemory`] with what is needed, what is free and the setting that would fit.
pub fn demand_room(need: StepMemory, config: &TrainConfig, device: Device) -> Result<(), TrainError> {
    let Some(room) = room(device)? else { return Ok(()) };
    if need.total(config.n_patches, config.batch_size) <= room {
        return Ok(());
    }
    let needed = Bytes(need.total(config.n_patches, config.batch_size));
    let failure = TorchFailure::OutOfMemory { needed, free: Some(Bytes(room)) };
    Err(out_of_memory(failure, need.advice(config, room, u64::MAX), config))
}

/// Turns what libtorch threw during a step into an error; memory that ran out gets the setting that would fit.
pub(crate) fn explain(failure: TorchFailure, config: &TrainConfig, network: &Network, side: usize) -> TrainError {
    if !matches!(failure, TorchFailure::OutOfMemory { .. }) {
        return TrainError::Torch(failure);
    }
    let need = StepMemory::estimate(network.config(), side, network.kind());
    // What just failed cannot be what fits, whatever the estimate says.
    let most_patches = (config.n_patches * config.batch_size) as u64 * 9 / 10;
    let advice = match room(network.device()) {
        Ok(Some(room)) => need.advice(config, room, most_patches),
        _ => "use fewer patches (n_patches) or images (batch_size) a step".to_owned(),
    };
    out_of_memory(failure, advice, config)
}

fn out_of_memory(failure: TorchFailure, advice: String, config: &TrainConfig) -> TrainError {
    let (n_patches, batch_size) = (config.n_patches, config.batch_size);
    TrainError::OutOfMemory { n_patches, batch_size, failure, advice }
}

/// Bytes that a step could still take on `device`; `None` where nobody tells.
fn room(device: Device) -> Result<Option<u64>, ShimError> {
    match device_memory(device)? {
        // What libtorch caches and does not use is as good as free.
        Some(memory) => Ok(Some(memory.free + memory.reserved.saturating_sub(memory.allocated))),
        None => Ok(available_host_bytes()),
    }
}

fn available_host_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use empssl_model::{ResNetConfig, Stem};

    use super::*;
    use crate::config::tests::config;

    const GIB: u64 = 1 << 30;

    fn paper() -> StepMemory {
        let network = NetworkConfig { resnet: ResNetConfig::resnet18(Stem::Cifar), hidden: 4096, projection: 1024 };
        StepMemory::estimate(&network, 32, Kind::Float)
    }

    #[test]
    fn a_patch_of_the_papers_network_keeps_about_five_megabytes() {
        // 614,400 convolution outputs of 4 bytes, each kept before and after its normalisation, and the head's vectors.
        let per_patch = paper().per_patch;
        assert!((4_700_000..5_200_000).contains(&per_patch), "{per_patch}");
        assert_eq!(paper().fixed, 3 * 4 * 34_263_104);
    }

    #[test]
    fn the_advice_names_a_setting_that_fits() {
        let mut config = config();
        (config.n_patches, config.batch_size) = (200, 100);
        assert!(paper().advice(&config, 20 * GIB, u64::MAX).ends_with("which n_patches = 42 would fit"));
        assert!(paper().advice(&config, 2 * GIB, u64::MAX).ends_with("which n_patches = 3 would fit"));
        config.n_patches = 20;
        assert!(paper().advice(&config, GIB * 3 / 4, u64::MAX).ends_with("which batch_size = 3 would fit"));
        assert!(paper().advice(&config, 1, u64::MAX).contains("too little for any setting"));
    }

    #[test]
    fn the_advice_after_a_failure_is_smaller_than_what_failed_and_tells_what_is_free() {
        let mut config = config();
        (config.n_patches, config.batch_size) = (20, 100);
        let advice = paper().advice(&config, 20 * GIB, 20 * 100 * 9 / 10);
        assert_eq!(advice, "about 20.00 GiB are free, which n_patches = 18 would fit");
    }

    #[test]
    fn a_step_larger_than_the_machine_is_refused_with_both_numbers() {
        let mut config = config();
        demand_room(paper(), &config, Device::Cpu).unwrap();
        (config.n_patches, config.batch_size) = (1_000_000, 1_000);
        let error = demand_room(paper(), &config, Device::Cpu).unwrap_err().to_string();
        assert!(error.starts_with("out of memory at 1000000 patches x 1000 images a step: "), "{error}");
        assert!(error.contains("TiB more were needed") && error.contains("GiB were free"), "{error}");
        assert!(error.contains("would fit"), "{error}");
    }
}
