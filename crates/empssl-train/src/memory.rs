//! How much memory a step takes in each of its modes, and what to say when there is too little.
//!
//! The estimate counts what libtorch keeps for the backward pass of a residual network: the output of every
//! convolution (which its batch normalisation needs) and of every activation (which the next convolution needs); what
//! a backward pass works on besides; the inputs of the stages or the projections of all parts, where a mode keeps them;
//! and for every parameter its value, gradient and momentum, and the copy of the gradient that LARS scales.

use std::fs;
use std::path::{Path, PathBuf};

use empssl_model::{Network, NetworkConfig, StageElements};
use empssl_torch::failure::Bytes;
use empssl_torch::memory::device_memory;
use empssl_torch::{ShimError, TorchFailure};
use tch::{Device, Kind};

use crate::config::{MemoryMode, TrainConfig};
use crate::error::TrainError;

/// What a training step of a certain network needs at its peak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepMemory {
    stages: Vec<StageElements>,
    /// Bytes whatever the number of patches: parameters, gradients, momentum, scaled gradients.
    fixed: u64,
    /// Bytes of a patch as the loader cuts it.
    patch: u64,
    /// d
    projection: u64,
    /// Bytes of a weight and of an activation.
    sizes: [u64; 2],
}

impl StepMemory {
    /// Maps of a layer's size that are alive at once while a backward pass is in a stage, besides what was kept: the
    /// gradient of the stage's output, that of a shortcut, those on both sides of a normalisation and of a convolution,
    /// and the copies in which a convolution wants its operands.
    const WORK: u64 = 7;
    /// Tensors of the size of all projections that are alive at once in the objective, the projections included.
    const OBJECTIVE: u64 = 4;

    /// The estimate for a network with weights and activations of these kinds on patches of side `side`.
    pub fn estimate(network: &NetworkConfig, side: usize, weights: Kind, activations: Kind) -> Self {
        let sizes = [weights, activations].map(|kind| kind.elt_size_in_bytes() as u64);
        Self {
            stages: network.stage_elements(side as i64),
            fixed: 4 * sizes[0] * network.n_parameters() as u64,
            patch: 3 * (side * side) as u64,
            projection: network.projection as u64,
            sizes,
        }
    }

    /// The peak of a step of n patches of each of b images, in bytes.
    pub fn total(&self, memory: MemoryMode, n: usize, b: usize) -> u64 {
        let (n, b) = (n as u64, b as u64);
        let [weight, activation] = self.sizes;
        let (graph, of_patches) = match memory {
            MemoryMode::Whole => (self.whole(), n),
            MemoryMode::ByStage => (self.by_stage(), n),
            MemoryMode::ByPatches(part) => (self.whole(), part as u64),
        };
        let graph = activation * graph;
        let objective = weight * (Self::OBJECTIVE * self.projection + b.min(self.projection));
        let every_patch = (self.patch + objective).saturating_mul(n.saturating_mul(b));
        self.fixed.saturating_add(every_patch).saturating_add(graph.saturating_mul(of_patches.saturating_mul(b)))
    }

    /// Numbers of one patch at the worst moment of a backward pass that frees each layer once it is through with it.
    fn whole(&self) -> u64 {
        self.worst(|below| 2 * below.layers)
    }

    /// Numbers of one patch at the worst moment when only the inputs of the stages below are kept.
    fn by_stage(&self) -> u64 {
        self.worst(|below| below.input)
    }

    /// The largest over the stages of what is kept of all below it, and its own layers and work.
    fn worst(&self, kept: impl Fn(&StageElements) -> i64) -> u64 {
        let mut below = 0;
        let peaks = self.stages.iter().map(|stage| {
            let peak = below + stage.input as u64 + 2 * stage.layers as u64 + Self::WORK * stage.widest as u64;
            below += kept(stage) as u64;
            peak
        });
        peaks.max().unwrap_or_default()
    }

    /// The setting that would fit into `room` bytes and needs less than `limit`, as a sentence.
    fn advice(&self, config: &TrainConfig, room: u64, limit: u64) -> String {
        let fits = |memory, n, b| self.total(memory, n, b) <= room.min(limit);
        let mut ways = Vec::new();
        if let Some(mode) = self.smaller_mode(config, room.min(limit)) {
            let effect = match (mode, config.memory) {
                (MemoryMode::ByPatches(part), _) => format!("BatchNorm then sees {part} patches of each image at once"),
                (_, MemoryMode::ByPatches(_)) => "BatchNorm then sees all patches at once".to_owned(),
                (MemoryMode::Whole | MemoryMode::ByStage, _) => "the gradient stays the same".to_owned(),
            };
            ways.push(format!("memory = {mode} would fit ({effect})"));
        }
        // Parts must divide the patches, so fewer patches are tried in one piece.
        let (memory, with) = match config.memory {
            MemoryMode::ByPatches(_) => (MemoryMode::Whole, " with memory = \"whole\""),
            other => (other, ""),
        };
        if let Some(n) = largest(config.n_patches, |n| fits(memory, n, config.batch_size)) {
            ways.push(format!("n_patches = {n}{with} would fit"));
        } else if let Some(b) = largest(config.batch_size, |b| fits(memory, config.n_patches, b)).filter(|&b| b >= 2) {
            ways.push(format!("batch_size = {b}{with} would fit"));
        }
        let room = Bytes(room);
        match ways.is_empty() {
            true => format!(
                "about {room} are free, which is too little for any setting of this network; use a narrower one"
            ),
            false => format!("about {room} are free, for which {}", ways.join("; ")),
        }
    }

    /// The mode that would fit without changing the batch: the one with the same gradient first, then the largest
    /// parts.
    fn smaller_mode(&self, config: &TrainConfig, room: u64) -> Option<MemoryMode> {
        let (n, b) = (config.n_patches, config.batch_size);
        MemoryMode::all(n, b).skip(1).find(|&mode| self.total(mode, n, b) <= room)
    }
}

/// The largest number from 1 to before `end` that `fits`, when all smaller ones do too.
fn largest(end: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut known, mut end) = (0, end.max(1));
    while known + 1 < end {
        let middle = known + (end - known) / 2;
        if fits(middle) { known = middle } else { end = middle }
    }
    (known >= 1).then_some(known)
}

/// Refuses a run whose steps cannot fit, before the operating system would kill it for trying; `processes` with the same
/// needs share the device.
///
/// # Errors
/// [`TrainError::OutOfMemory`] with what is needed, what is free and the settings that would fit.
pub fn demand_room(
    need: &StepMemory,
    config: &TrainConfig,
    device: Device,
    processes: usize,
) -> Result<(), TrainError> {
    let Some(room) = room(device)?.map(|room| room / processes.max(1) as u64) else { return Ok(()) };
    let needed = need.total(config.memory, config.n_patches, config.batch_size);
    if needed <= room {
        return Ok(());
    }
    let failure = TorchFailure::OutOfMemory { needed: Bytes(needed), free: Some(Bytes(room)) };
    Err(out_of_memory(failure, need.advice(config, room, u64::MAX), config))
}

/// Turns what libtorch threw during a step into an error; memory that ran out gets the setting that would fit.
pub(crate) fn explain(error: TrainError, config: &TrainConfig, network: &Network, side: usize) -> TrainError {
    let failure = match error {
        TrainError::Torch(failure @ TorchFailure::OutOfMemory { .. }) => failure,
        other => return other,
    };
    let need = StepMemory::estimate(network.config(), side, network.kind(), network.activation_kind());
    // What just failed cannot be what fits, whatever the estimate says.
    let failed = need.total(config.memory, config.n_patches, config.batch_size);
    let advice = match room(network.device()) {
        Ok(Some(room)) => need.advice(config, room, failed / 10 * 9),
        _ => "use memory = \"by-stage\" or by-patches, fewer patches (n_patches) or images (batch_size) a step"
            .to_owned(),
    };
    out_of_memory(failure, advice, config)
}

fn out_of_memory(failure: TorchFailure, advice: String, config: &TrainConfig) -> TrainError {
    let (n_patches, batch_size) = (config.n_patches, config.batch_size);
    TrainError::OutOfMemory { n_patches, batch_size, failure, advice }
}

/// Bytes that a step could still take on `device`; `None` where nobody tells.
///
/// # Errors
/// When the device cannot be reached.
pub fn room(device: Device) -> Result<Option<u64>, ShimError> {
    match device_memory(device)? {
        // What libtorch caches and does not use is as good as free.
        Some(memory) => Ok(Some(memory.free + memory.reserved.saturating_sub(memory.allocated))),
        None => Ok(available_host_bytes(Path::new("/"))),
    }
}

/// What the machine has and the limits of the process's control groups leave, whichever is less.
fn available_host_bytes(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(control_group_bytes(root).map_or(kib << 10, |limit| limit.min(kib << 10)))
}

/// What the memory limits of the process's control group (version 2) and of those around it leave, as in containers
/// and batch jobs; `None` without a limit.
fn control_group_bytes(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let number = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let left = |group: &Path| {
        let folder = root.join("sys/fs/cgroup").join(group);
        Some(number(folder.join("memory.max"))?.saturating_sub(number(folder.join("memory.current"))?))
    };
    Path::new(own).ancestors().filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use empssl_model::{ResNetConfig, Stem};

    use super::*;
    use crate::config::tests::config;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_limit_of_a_container_or_a_batch_job_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let room = || available_host_bytes(root.path());
        assert_eq!(room(), None);
        write("proc/meminfo", "MemTotal:  16777216 kB\nMemAvailable:   8388608 kB\n");
        assert_eq!(room(), Some(8 * GIB));
        write("proc/self/cgroup", "12:memory:/old\n0::/slurm/job_7/step\n");
        assert_eq!(room(), Some(8 * GIB));
        write("sys/fs/cgroup/slurm/job_7/step/memory.max", "max\n");
        write("sys/fs/cgroup/slurm/job_7/step/memory.current", "1073741824\n");
        write("sys/fs/cgroup/slurm/job_7/memory.max", "4294967296\n");
        write("sys/fs/cgroup/slurm/job_7/memory.current", "1073741824\n");
        assert_eq!(room(), Some(3 * GIB));
        write("proc/self/cgroup", "0::/\n");
        write("sys/fs/cgroup/memory.max", "2147483648");
        write("sys/fs/cgroup/memory.current", "3221225472");
        assert_eq!(room(), Some(0));
    }

    fn paper() -> StepMemory {
        let network = NetworkConfig { resnet: ResNetConfig::resnet18(Stem::Cifar), hidden: 4096, projection: 1024 };
        StepMemory::estimate(&network, 32, Kind::Float, Kind::Float)
    }

    fn sized(n_patches: usize, batch_size: usize) -> TrainConfig {
        TrainConfig { n_patches, batch_size, ..config() }
    }

    #[test]
    fn a_patch_of_the_papers_network_keeps_about_five_megabytes() {
        // 614,400 convolution outputs of 4 bytes, each kept before and after its normalisation, and the heads' vectors.
        let per_patch = (paper().total(MemoryMode::Whole, 20, 100) - paper().fixed) / 2000;
        assert!((5_000_000..5_300_000).contains(&per_patch), "{per_patch}");
        assert_eq!(paper().fixed, 4 * 4 * 34_263_104);
    }

    #[test]
    fn each_mode_needs_less_than_the_one_before_it() {
        let modes = [20, 10, 4, 1].map(MemoryMode::ByPatches);
        let totals = [MemoryMode::Whole, MemoryMode::ByStage].into_iter().chain(modes);
        let totals: Vec<u64> = totals.map(|mode| paper().total(mode, 40, 100)).collect();
        assert!(totals.windows(2).all(|pair| pair[1] < pair[0]), "{totals:?}");
        let bf16 = StepMemory { sizes: [4, 2], ..paper() };
        let ratio = |mode| bf16.total(mode, 20, 100) as f64 / paper().total(mode, 20, 100) as f64;
        assert!((0.5..0.56).contains(&ratio(MemoryMode::Whole)), "{}", ratio(MemoryMode::Whole));
    }

    #[test]
    fn the_advice_names_the_mode_that_fits_first_then_a_smaller_batch() {
        let advice = |config: &TrainConfig, room| paper().advice(config, room, u64::MAX);
        let text = advice(&sized(20, 100), 9 * GIB);
        assert!(
            text.starts_with("about 9.00 GiB are free, for which memory = \"by-stage\" would fit (the gradient"),
            "{text}"
        );
        assert!(text.ends_with("; n_patches = 17 would fit"), "{text}");
        let text = advice(&sized(200, 100), 20 * GIB);
        assert!(
            text.contains("memory = { by-patches = 25 } would fit (BatchNorm then sees 25 patches of each"),
            "{text}"
        );
        let text = advice(&sized(20, 100), GIB * 3 / 4);
        assert!(text.ends_with("for which batch_size = 2 would fit"), "{text}");
        assert!(advice(&sized(20, 100), 1).contains("too little for any setting"));
    }

    #[test]
    fn what_is_advised_fits_and_the_next_larger_would_not() {
        let need = paper();
        let config = sized(200, 100);
        assert_eq!(need.smaller_mode(&config, 20 * GIB), Some(MemoryMode::ByPatches(25)));
        assert!(need.total(MemoryMode::ByPatches(25), 200, 100) <= 20 * GIB);
        assert!(need.total(MemoryMode::ByPatches(40), 200, 100) > 20 * GIB);
    }

    #[test]
    fn the_advice_after_a_failure_is_smaller_than_what_failed_and_tells_what_is_free() {
        let config = sized(20, 100);
        let failed = paper().total(MemoryMode::Whole, 20, 100);
        let advice = paper().advice(&config, 20 * GIB, failed / 10 * 9);
        assert!(advice.contains("20.00 GiB") && advice.ends_with("n_patches = 17 would fit"), "{advice}");
    }

    #[test]
    fn a_step_larger_than_the_machine_is_refused_with_both_numbers() {
        demand_room(&paper(), &config(), Device::Cpu, 1).unwrap();
        let error = demand_room(&paper(), &sized(1_000_000, 1_000), Device::Cpu, 1).unwrap_err().to_string();
        assert!(error.starts_with("out of memory at 1000000 patches x 1000 images a step: "), "{error}");
        assert!(error.contains("TiB more were needed") && error.contains("GiB were free"), "{error}");
        assert!(error.contains("would fit"), "{error}");
    }
}
