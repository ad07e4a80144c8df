//! The anonymous memory of a process that computes banks, keeps them on disk and scores them; `examples/bank_memory.rs`
//! does the same at full size.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use empssl_data::PatchBatch;
use empssl_eval::{
    BankFile, BankOptions, BankSpec, FEATURES, FeatureBank, Kept, KnnConfig, LinearProbe, LinearProbeConfig,
    LogisticProbe, LogisticProbeConfig, WeightedKnn,
};
use ndarray::Array5;
use tch::{Device, Kind, Tensor};

/// Images of a batch.
const BATCH: usize = 100;
const CLASSES: i64 = 10;
/// Pixels of a side of a patch.
const SIDE: usize = 4;

/// How much is computed.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Job {
    pub(crate) train: usize,
    pub(crate) test: usize,
    pub(crate) width: i64,
    pub(crate) epochs: usize,
}

/// Peaks of anonymous memory above what the process had before, in bytes, and seconds.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Measured {
    pub(crate) build: u64,
    pub(crate) build_and_score: u64,
    /// Of building, and of each score.
    pub(crate) seconds: [f64; 4],
    /// Of the published probe, the published neighbours and the probe without settings.
    pub(crate) top1: [f64; 3],
}

/// Does the job in this process; `None` where the system does not tell anonymous memory.
pub(crate) fn measure(job: Job, folder: &Path) -> Option<Measured> {
    // Threads, code and the tables of the kernels are in memory before anything is counted.
    let warm = Job { train: 2 * BATCH, test: BATCH, width: 16, epochs: 1 };
    let _ = banks(warm, folder).map(|[train, test]| score(warm, &train, &test));
    let watch = Watch::start()?;
    let began = Instant::now();
    let [train, test] = banks(job, folder)?;
    let (build, built) = (watch.peak(), began.elapsed());
    let (top1, scored) = score(job, &train, &test);
    let seconds = [built.as_secs_f64(), scored[0], scored[1], scored[2]];
    Some(Measured { build, build_and_score: watch.peak(), seconds, top1 })
}

/// Banks of random rows around a corner of a cube for each class.
fn banks(job: Job, folder: &Path) -> Option<[FeatureBank; 2]> {
    let n_inputs = (3 * SIDE * SIDE) as i64;
    let wild = (Tensor::arange(n_inputs * job.width, (Kind::Double, Device::Cpu)) * 12.9898).sin() * 43_758.545_3;
    let weight = (&wild - wild.floor() - 0.5).to_kind(Kind::Float).view([n_inputs, job.width]);
    let encoder = move |patches: &Tensor| patches.flatten(1, -1).matmul(&weight).relu();
    let options = BankOptions { n_classes: CLASSES, device: Device::Cpu, kind: Kind::Float, patches_per_call: 64 };
    let bank = |name: &str, images: usize| {
        let kept = Kept { outputs: vec![FEATURES.to_owned()], counts: vec![1] };
        let spec =
            BankSpec { identity: Default::default(), kept, ids: (0..images as i64).collect(), n_classes: CLASSES };
        let path = folder.join(format!("{name}.safetensors"));
        let file = BankFile::build(&path, name, &spec, &encoder, batches(images), &options, &mut |_| {}).unwrap();
        file.bank(name, FEATURES, 1, Device::Cpu).unwrap()
    };
    Some([bank("train", job.train), bank("test", job.test)])
}

/// Patches whose brightness is their class's, and noise.
fn batches(images: usize) -> impl Iterator<Item = Result<PatchBatch, empssl_data::DataError>> {
    (0..images).step_by(BATCH).map(move |first| {
        let indices: Vec<usize> = (first..images.min(first + BATCH)).collect();
        let labels: Vec<u32> = indices.iter().map(|index| (index % CLASSES as usize) as u32).collect();
        let patches = Array5::from_shape_fn((1, indices.len(), 3, SIDE, SIDE), |(_, image, channel, row, column)| {
            let noise = (indices[image] * 7919 + channel * 104_729 + row * 1_299_709 + column * 15_485_863) % 251;
            let class = labels[image] as usize;
            (noise / 2 + if (class + channel + row).is_multiple_of(CLASSES as usize / 2) { 110 } else { 5 * class })
                as u8
        });
        PatchBatch::new(patches, Some(labels), indices)
    })
}

/// Top-1 of each score, and what it took.
fn score(job: Job, train: &FeatureBank, test: &FeatureBank) -> ([f64; 3], [f64; 3]) {
    let mut began = Instant::now();
    let mut seconds = || std::mem::replace(&mut began, Instant::now()).elapsed().as_secs_f64();
    let config = LinearProbeConfig { epochs: job.epochs, ..LinearProbeConfig::published() };
    let (_, curve) = LinearProbe::new(&config, 0).unwrap().fit_with_curve(train, test).unwrap();
    let (linear, probed) = (curve.last().unwrap().top1, seconds());
    let knn = WeightedKnn::new(&KnnConfig::published()).unwrap().score(train, test).unwrap();
    let voted = seconds();
    let fit = LogisticProbe::new(&LogisticProbeConfig::usual(), 0).unwrap().fit(train).unwrap();
    let optimum = fit.probe.score(test).unwrap();
    ([linear, knn.top1, optimum.top1], [probed, voted, seconds()])
}

/// Looks at the anonymous memory of this process again and again.
struct Watch {
    before: u64,
    peak: Arc<AtomicU64>,
    goes_on: Arc<AtomicBool>,
}

impl Watch {
    fn start() -> Option<Self> {
        let before = anonymous()?;
        let (peak, goes_on) = (Arc::new(AtomicU64::new(before)), Arc::new(AtomicBool::new(true)));
        let (noted, on) = (Arc::clone(&peak), Arc::clone(&goes_on));
        thread::spawn(move || {
            while on.load(Ordering::Relaxed) {
                noted.fetch_max(anonymous().unwrap_or(0), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        Some(Self { before, peak, goes_on })
    }

    fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed).saturating_sub(self.before)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
    }
}

/// Bytes of this process that belong to no file.
fn anonymous() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("RssAnon:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use empssl_golden::processes;

    use super::*;

    /// Carries a [`Job`] into the process that does it.
    const JOB: &str = "EMPSSL_MEASURE_BANKS";

    /// The other half of the test below; on its own it does nothing.
    #[test]
    fn a_job_that_another_test_gave() {
        let Ok(job) = std::env::var(JOB) else { return };
        let folder = tempfile::tempdir().unwrap();
        if let Some(measured) = measure(serde_json::from_str(&job).unwrap(), folder.path()) {
            println!("\nmeasured {}", serde_json::to_string(&measured).unwrap());
        }
    }

    #[test]
    fn banks_go_to_the_disk_and_scoring_takes_little_more_than_one_copy() {
        let job = Job { train: 20_000, test: 2_000, width: 1024, epochs: 2 };
        let bank = (job.train as i64 * job.width * 4) as u64;
        let job = serde_json::to_string(&job).unwrap();
        let text = processes::run_test("budget::tests::a_job_that_another_test_gave", &[(JOB, &job)]);
        let Some(line) = text.lines().find_map(|line| line.strip_prefix("measured ")) else {
            eprintln!("skipped: this system does not tell the anonymous memory of a process");
            return;
        };
        let measured: Measured = serde_json::from_str(line).unwrap();
        println!("a bank of {} MiB: {measured:?}", bank >> 20);
        assert!(measured.build < bank / 4, "building took {} of {bank} bytes", measured.build);
        // The budget of 3 GB for a bank of 50,000 x 4096, in proportion, with what does not grow with the bank.
        let budget = (3e9 / (50_000.0 * 4096.0 * 4.0) * bank as f64) as u64;
        assert!(measured.build_and_score < budget, "{} of {budget} bytes", measured.build_and_score);
        assert!(measured.top1.iter().all(|&top1| top1 > 60.0), "{measured:?}");
    }
}
