//! What a step takes in each memory mode: measured in processes of their own, against the estimate and one another.

use std::time::Instant;

use empssl_golden::processes;
use empssl_loss::{EmpSslLoss, EmpSslLossConfig};
use empssl_model::{Network, NetworkConfig, ResNetConfig, Stem};
use empssl_train::memory::StepMemory;
use empssl_train::{BatchNormStats, Lars, LarsConfig, MemoryMode, StepPlan};
use tch::{Device, Kind, Tensor};

/// Carries a [`Job`] into the process that does it.
const JOB: &str = "EMPSSL_MEASURE_STEP";
const SIDE: i64 = 32;

/// A step to be measured.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Job {
    memory: MemoryMode,
    n: i64,
    b: i64,
    base_width: i64,
    hidden: i64,
    projection: i64,
    steps: u32,
}

impl Job {
    /// Activations of half a megabyte a patch beside few weights.
    fn small(memory: MemoryMode, n: i64) -> Self {
        Self { memory, n, b: 4, base_width: 8, hidden: 32, projection: 16, steps: 1 }
    }

    fn network(self) -> NetworkConfig {
        let resnet = ResNetConfig { base_width: self.base_width, ..ResNetConfig::resnet18(Stem::Cifar) };
        NetworkConfig { resnet, hidden: self.hidden, projection: self.projection }
    }

    fn estimate(self) -> u64 {
        let need = StepMemory::estimate(&self.network(), SIDE as usize, Kind::Float, Kind::Float);
        need.total(self.memory, self.n as usize, self.b as usize)
    }

    /// The steps on some patches: network, optimizer and all.
    fn run(self) {
        let network = Network::new(&self.network(), 1, Kind::Float, Device::Cpu).unwrap();
        let mut lars = Lars::new(network.parameters(), &LarsConfig::paper()).unwrap();
        let loss = EmpSslLoss::new(&EmpSslLossConfig::paper()).unwrap();
        let (shape, numbers) = ([self.n, self.b, 3, SIDE, SIDE], Tensor::arange(251, (Kind::Uint8, Device::Cpu)));
        let count: i64 = shape.iter().product();
        let patches = numbers.repeat([count / 251 + 1]).narrow(0, 0, count).view(shape);
        let plan = StepPlan { memory: self.memory, norms: BatchNormStats::Batch, tf32: false };
        for _ in 0..self.steps {
            lars.zero_grad();
            let _ = plan.backward(&network, &loss, &patches, None).unwrap();
            lars.step(0.1).unwrap();
        }
    }

    /// Bytes that the job adds to a process at its peak, and the seconds of a step; `None` where the system tells no
    /// peaks.
    fn measure(self) -> Option<(u64, f64)> {
        let job = serde_json::to_string(&self).unwrap();
        // Blocks of every size go back to the system at once, as glibc does with the large ones of a real step.
        let variables = [(JOB, job.as_str()), ("MALLOC_MMAP_THRESHOLD_", "65536")];
        let text = processes::run_test("memory::a_job_that_another_test_gave", &variables);
        let line = text.lines().find_map(|line| line.strip_prefix("measured "))?;
        let (bytes, seconds) = line.split_once(' ')?;
        Some((bytes.parse().ok()?, seconds.parse().ok()?))
    }
}

/// A field of `/proc/self/status`, in bytes.
fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

/// The other half of [`Job::measure`]; on its own it does nothing.
#[test]
fn a_job_that_another_test_gave() {
    let Ok(job) = std::env::var(JOB) else { return };
    let job: Job = serde_json::from_str(&job).unwrap();
    // Threads, code and the tables of the kernels are in memory before anything is counted.
    Job { steps: 1, ..Job::small(MemoryMode::Whole, 2) }.run();
    let reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let (Some(before), true) = (status("VmRSS:"), reset) else { return };
    let began = Instant::now();
    job.run();
    let seconds = began.elapsed().as_secs_f64() / f64::from(job.steps);
    println!("\nmeasured {} {seconds}", status("VmHWM:").unwrap_or_default().saturating_sub(before));
}

#[test]
fn ten_times_the_patches_fit_by_patches_and_every_estimate_is_near_its_peak() {
    let jobs = [
        Job::small(MemoryMode::Whole, 20),
        Job::small(MemoryMode::ByStage, 20),
        Job::small(MemoryMode::ByPatches(20), 200),
    ];
    let mut peaks = Vec::new();
    for job in jobs {
        let Some((peak, seconds)) = job.measure() else {
            eprintln!("skipped: this system does not tell the peak memory of a process");
            return;
        };
        let ratio = peak as f64 / job.estimate() as f64;
        println!("{:?}, n {}: {} MiB, {ratio:.2} of the estimate, {seconds:.2} s", job.memory, job.n, peak >> 20);
        assert!((0.8..1.2).contains(&ratio), "{:?}: {peak} bytes are {ratio} of the estimate", job.memory);
        peaks.push(peak as f64);
    }
    assert!(peaks[1] < 0.95 * peaks[0], "by stage: {peaks:?}");
    assert!(peaks[2] < 1.3 * peaks[0], "by patches: {peaks:?}");
}
