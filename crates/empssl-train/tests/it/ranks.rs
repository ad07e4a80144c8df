//! Several processes train as one: the same gradient, the same weights after some steps, whatever their number.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use empssl_data::{OnBadImage, OpenOptions, PatchConfig, PatchSampler, Split};
use empssl_golden::processes;
use empssl_loss::{EmpSslLoss, EmpSslLossConfig};
use empssl_model::{Network, NetworkConfig, ResNetConfig, Stem, weights};
use empssl_torch::processes::{Launch, ProcessGroup, free_port};
use empssl_train::{
    BatchNormOver, BatchNormStats, BatchSource, Checkpoint, CheckpointEvery, CheckpointFiles, CheckpointPlan,
    LarsConfig, Length, MemoryMode, Observer, Ranks, StepPlan, StepRecord, TrainConfig, TrainError, Trainer,
};
use tch::{Device, Kind, Tensor};

/// Images of a step, over all ranks.
const B: i64 = 64;
const N: i64 = 2;
const STEPS: u64 = 20;
/// The variable that gives the time-out in seconds.
pub(crate) const TIMEOUT: &str = "EMPSSL_TEST_TIMEOUT";

/// What a process is told through its environment.
pub(crate) const JOB: [&str; 5] =
    ["EMPSSL_TEST_JOB", "EMPSSL_TEST_KIND", "EMPSSL_TEST_MEMORY", "EMPSSL_TEST_NORMS", "EMPSSL_TEST_OUT"];

struct Job {
    kind: Kind,
    memory: MemoryMode,
    norms: BatchNormOver,
    out: std::path::PathBuf,
    /// `None` for a process alone.
    group: Option<ProcessGroup>,
}

/// `job kind memory norms` in `world` processes of the test `name`, which leave their results in `out`.
fn start(name: &str, world: usize, job: &str, out: &Path) -> Vec<Child> {
    let port = free_port().unwrap();
    let words = job.split(' ').chain([out.to_str().unwrap()]);
    let variables: Vec<_> = JOB.into_iter().zip(words.map(str::to_owned)).collect();
    let start = |rank| {
        let mut command = processes::of_test(name);
        command.envs(variables.iter().cloned());
        processes::start(command.envs(Launch::local(rank, world, port).variables()))
    };
    (0..world).map(start).collect()
}

/// Does what this process was started for; false for the test itself.
pub(crate) fn is_rank() -> bool {
    let Ok(job) = std::env::var(JOB[0]) else { return false };
    let word = |index: usize| std::env::var(JOB[index]).unwrap();
    let launch = Launch::from_environment(|name| std::env::var(name).ok()).unwrap().unwrap();
    tch::set_num_threads(1);
    let seconds = std::env::var(TIMEOUT).map_or(60, |seconds| seconds.parse().unwrap());
    let timeout = Duration::from_secs(seconds);
    let own = Job {
        kind: if word(1) == "double" { Kind::Double } else { Kind::Float },
        memory: match word(2).as_str() {
            "by-stage" => MemoryMode::ByStage,
            "by-patches" => MemoryMode::ByPatches(1),
            _ => MemoryMode::Whole,
        },
        norms: if word(3) == "per-rank" { BatchNormOver::PerRank } else { BatchNormOver::Global },
        out: word(4).into(),
        group: (launch.world > 1).then(|| ProcessGroup::join(&launch, timeout).unwrap()),
    };
    match job.as_str() {
        "gradient" => own.gradient(),
        "endless" => own.train(1_000_000),
        steps => own.train(steps.parse().unwrap()),
    }
    own.group.map_or(Ok(()), ProcessGroup::leave).unwrap();
    true
}

fn loss() -> EmpSslLoss {
    EmpSslLoss::new(&EmpSslLossConfig::paper()).unwrap()
}

impl Job {
    fn is_first(&self) -> bool {
        self.group.as_ref().is_none_or(|group| group.rank() == 0)
    }

    /// Another one on every rank but rank 0, whose weights all get.
    fn network(&self) -> Network {
        let seed = if self.is_first() { 3 } else { 4 };
        let resnet = ResNetConfig { base_width: 4, layers: [1, 1, 1, 1], ..ResNetConfig::resnet18(Stem::Cifar) };
        Network::new(&NetworkConfig { resnet, hidden: 16, projection: 8 }, seed, self.kind, Device::Cpu).unwrap()
    }

    /// The gradient of one step at given patches, and the statistics after it.
    fn gradient(&self) {
        let mut network = self.network();
        let plan = StepPlan { memory: self.memory, norms: BatchNormStats::Batch, tf32: false };
        let side = 16;
        let wild =
            (Tensor::arange(N * B * 3 * side * side, (Kind::Double, Device::Cpu)) * 12.9898).sin() * 43_758.545_3;
        let patches = ((&wild - wild.floor()) * 255.0).to_kind(Kind::Uint8).view([N, B, 3, side, side]);
        let terms = match &self.group {
            None => plan.backward(&network, &loss(), &patches, None).unwrap(),
            Some(group) => {
                network.state_dict().iter().for_each(|(_, tensor)| group.broadcast(tensor, 0).unwrap());
                // Buckets so small that there are many.
                let mut ranks = Ranks::new(group.clone(), &mut network, self.norms, 1 << 10).unwrap();
                let (rank, part) = (group.rank() as i64, B / group.world() as i64);
                let own = patches.narrow(1, rank * part, part).contiguous();
                plan.backward(&network, &loss(), &own, Some(&mut ranks)).unwrap()
            }
        };
        let gradients = network.parameters().iter().map(|(name, tensor)| (format!("grad.{name}"), tensor.grad()));
        let mut found: Vec<(String, Tensor)> = gradients.collect();
        let buffers =
            network.state_dict().into_iter().filter(|(name, tensor)| name.contains("running") && tensor.dim() == 1);
        found.extend(buffers);
        found.push(("loss".to_owned(), terms.total.view([1])));
        for (name, tensor) in &found {
            let largest = tensor.copy();
            self.group.as_ref().map_or(Ok(()), |group| group.largest(&largest)).unwrap();
            assert!(largest == *tensor || self.norms == BatchNormOver::PerRank, "{name} is not alike on all ranks");
        }
        if self.is_first() {
            weights::write(&self.out.join("gradient.safetensors"), &found, &BTreeMap::new()).unwrap();
        }
    }

    /// Trains, from the checkpoint that is there, so many steps more of `STEPS`.
    fn train(&self, steps: u64) {
        let options =
            OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
        let dataset = empssl_data::open(&options, Split::Test).unwrap().subset(&(0..130).collect::<Vec<_>>()).unwrap();
        let files = CheckpointFiles::new(&self.out);
        let before = files.last().unwrap().checkpoint;
        let config = TrainConfig {
            n_patches: N as usize,
            batch_size: B as usize,
            length: Length::Steps(STEPS.max(steps)),
            lr: 0.3,
            t_max: None,
            memory: self.memory,
            tf32: false,
            seed: 7,
            max_steps: Some(before.as_ref().map_or(0, |checkpoint| checkpoint.step) + steps),
            log_every: 1,
            checkpoint_every: (steps > STEPS).then_some(CheckpointEvery::Steps(2)),
            snapshot_epochs: Vec::new(),
        };
        let mut trainer = Trainer::new(self.network(), loss(), &LarsConfig::paper(), config, dataset.len()).unwrap();
        before.iter().for_each(|checkpoint| trainer.restore(checkpoint).unwrap());
        if let Some(group) = &self.group {
            trainer.join(group, self.norms, &[("data set", dataset.len() as u64)]).unwrap();
        }
        let sampler = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
        let source = BatchSource { dataset, sampler, n_workers: 1, prefetch: 1 };
        let plan = CheckpointPlan { files: self.is_first().then_some(files), ..CheckpointPlan::default() };
        let mut losses = Losses { text: String::new(), begun: self.out.join("begun") };
        if let Err(error) = trainer.run(&source, &plan, &AtomicBool::new(false), &mut losses) {
            // As a program does that fails, and with nothing before its words.
            println!("\n{error}");
            std::process::exit(3);
        }
        if self.is_first() {
            fs::write(self.out.join("losses"), losses.text).unwrap();
        }
    }
}

/// One line for each step.
struct Losses {
    text: String,
    /// Made after some steps.
    begun: std::path::PathBuf,
}

impl Observer for Losses {
    fn on_record(&mut self, record: &StepRecord) -> Result<(), TrainError> {
        self.text += &format!("{:e}\n", record.loss);
        if record.step == 5 {
            fs::write(&self.begun, "").unwrap();
        }
        Ok(())
    }
}

/// Largest difference of two tensors of the same name, relative to the largest number of that tensor.
///
/// A bias that a normalisation follows changes nothing, so its gradient is zero but for rounding, and has no size of its
/// own: it is compared with that of the weight beside it.
pub(crate) fn distance(a: &[(String, Tensor)], b: &[(String, Tensor)]) -> f64 {
    let largest = |x: &Tensor| x.to_kind(Kind::Double).abs().max().double_value(&[]);
    assert!(!a.is_empty() && a.len() == b.len());
    let size = |name: &str, tensor: &Tensor| {
        let is_idle = ["pre_feature.0.bias", "projection.0.bias"].iter().any(|idle| name.ends_with(idle));
        let weight = name.replace("bias", "weight");
        match b.iter().find(|(other, _)| is_idle && *other == weight) {
            Some((_, weight)) => largest(weight).max(largest(tensor)),
            None => largest(tensor),
        }
    };
    let floats = a.iter().zip(b).filter(|((_, tensor), _)| tensor.kind() != Kind::Int64);
    let relative = |((name, a), (other, b)): (&(String, Tensor), &(String, Tensor))| {
        assert_eq!(name, other);
        largest(&(a - b)) / size(name, b).max(1e-300)
    };
    floats.map(relative).fold(0.0, f64::max)
}

/// How far apart two gradients are as vectors of all their numbers: the length of the difference over that of the second.
///
/// In float32 single numbers say less: each tensor's largest error is a matter of the order of sums, and moves by half
/// from one processor or number of threads to another.
pub(crate) fn apart(a: &[(String, Tensor)], b: &[(String, Tensor)]) -> f64 {
    assert!(!a.is_empty() && a.iter().zip(b).all(|((name, _), (other, _))| name == other) && a.len() == b.len());
    let square = |x: Tensor| x.to_kind(Kind::Double).square().sum(None).double_value(&[]);
    let differences: f64 = a.iter().zip(b).map(|((_, a), (_, b))| square(a - b)).sum();
    let whole: f64 = b.iter().map(|(_, b)| square(b.shallow_clone())).sum();
    (differences / whole).sqrt()
}

pub(crate) fn gradient(name: &str, world: usize, job: &str) -> Vec<(String, Tensor)> {
    let out = tempfile::tempdir().unwrap();
    processes::succeed(start(name, world, &format!("gradient {job}"), out.path()));
    read_gradient(out.path())
}

pub(crate) fn read_gradient(out: &Path) -> Vec<(String, Tensor)> {
    weights::read(&out.join("gradient.safetensors")).unwrap().tensors
}

pub(crate) fn last_checkpoint(out: &Path) -> Checkpoint {
    CheckpointFiles::new(out).last().unwrap().checkpoint.unwrap()
}

pub(crate) struct Trained {
    pub(crate) checkpoint: Checkpoint,
    losses: Vec<f64>,
}

pub(crate) fn trained(name: &str, world: usize, job: &str, out: &Path) -> Trained {
    processes::succeed(start(name, world, job, out));
    let losses = fs::read_to_string(out.join("losses")).unwrap();
    let checkpoint = last_checkpoint(out);
    assert_eq!(checkpoint.world, world as u64);
    Trained { checkpoint, losses: losses.lines().map(|line| line.parse().unwrap()).collect() }
}

#[test]
fn the_gradient_of_a_step_is_that_of_one_process_in_every_memory_mode() {
    let name = "ranks::the_gradient_of_a_step_is_that_of_one_process_in_every_memory_mode";
    if is_rank() {
        return;
    }
    for (job, worlds) in [
        ("double whole global", &[2, 4][..]),
        ("double by-stage global", &[2][..]),
        ("double by-patches global", &[4][..]),
    ] {
        let one = gradient(name, 1, job);
        for &world in worlds {
            let found = distance(&gradient(name, world, job), &one);
            println!("{job}, {world} ranks: {found:e}");
            assert!(found <= 1e-10, "{job}, {world} ranks: {found:e}");
        }
    }
    let one = gradient(name, 1, "float whole global");
    for world in [2, 4] {
        let several = gradient(name, world, "float whole global");
        let (found, largest) = (apart(&several, &one), distance(&several, &one));
        println!("float32, {world} ranks: {found:e} as vectors, {largest:e} at most in a number");
        assert!(found <= 1e-5, "float32, {world} ranks: {found:e}");
    }
    let one = gradient(name, 1, "double whole global");
    let found = distance(&gradient(name, 2, "double whole per-rank"), &one);
    assert!(found > 1e-3, "BatchNorm per rank is another training: {found:e}");
}

#[test]
fn in_float64_the_weights_after_twenty_steps_are_those_of_one_process_and_so_they_are_after_a_resume() {
    let name =
        "ranks::in_float64_the_weights_after_twenty_steps_are_those_of_one_process_and_so_they_are_after_a_resume";
    if is_rank() {
        return;
    }
    let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let run = |folder: usize, world, steps: u64| {
        trained(name, world, &format!("{steps} double whole global"), folders[folder].path())
    };
    let one = run(0, 1, STEPS);
    assert_eq!(one.losses.len(), STEPS as usize);
    let close = |other: &Trained, what: &str| {
        let weights = distance(&other.checkpoint.network, &one.checkpoint.network);
        let momentum = distance(&other.checkpoint.momentum, &one.checkpoint.momentum);
        let tail = &one.losses[one.losses.len() - other.losses.len()..];
        let curve = other.losses.iter().zip(tail).map(|(a, b)| ((a - b) / b).abs()).fold(0.0, f64::max);
        println!("{what}: weights {weights:e}, momentum {momentum:e}, losses {curve:e}");
        assert!(weights <= 1e-10 && momentum <= 1e-10 && curve <= 1e-10, "{what}");
    };
    close(&run(1, 2, STEPS), "2 ranks");
    close(&run(2, 4, STEPS), "4 ranks");
    run(3, 2, 10);
    close(&run(3, 1, 10), "2 ranks, then 1");
}

#[test]
fn in_float32_the_losses_of_twenty_steps_are_those_of_one_process_to_a_hundredth() {
    let name = "ranks::in_float32_the_losses_of_twenty_steps_are_those_of_one_process_to_a_hundredth";
    if is_rank() {
        return;
    }
    let run = |world| {
        let out = tempfile::tempdir().unwrap();
        trained(name, world, &format!("{STEPS} float whole global"), out.path())
    };
    let one = run(1);
    for world in [2, 4] {
        let curve = run(world).losses.iter().zip(&one.losses).map(|(a, b)| ((a - b) / b).abs()).fold(0.0, f64::max);
        println!("{world} ranks: losses {curve:e}");
        assert!(curve <= 0.01, "{world} ranks: {curve:e}");
    }
    // With BatchNorm per rank the running statistics that are saved are the mean of the ranks', and finite.
    let out = tempfile::tempdir().unwrap();
    let apart = trained(name, 2, "4 float whole per-rank", out.path());
    assert!(apart.losses[0] != one.losses[0] && apart.losses.iter().all(|loss| loss.is_finite()));
}
