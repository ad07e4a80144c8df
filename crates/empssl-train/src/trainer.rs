//! The training loop: from a data set to a trained network, one page, read from [`Trainer::run`] downwards.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use empssl_data::{Dataset, LoaderConfig, Order, PatchBatch, PatchLoader, PatchSampler, View};
use empssl_loss::{EmpSslLoss, LossTerms};
use empssl_model::{Mode, Network};
use empssl_torch::{TorchFailure, catch};
use tch::{Device, Kind, Tensor, no_grad};

use crate::checkpoint::Checkpoint;
use crate::error::TrainError;
use crate::lars::{Lars, LarsConfig};
use crate::memory;
use crate::observer::{Observer, StepRecord};
use crate::schedule::CosineSchedule;

/// The settings of a run that the loop itself needs.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainConfig {
    /// n, patches per image.
    pub n_patches: usize,
    /// b, images per step.
    pub batch_size: usize,
    /// How long the run is.
    pub length: Length,
    /// The learning rate of the first step.
    pub lr: f64,
    /// Steps over which the cosine falls to 0; `None` is the whole run (arXiv 2304.03977; tsb0601/EMP-SSL
    /// `main.py:134` counts 500 steps an epoch whatever the data set, which is right for CIFAR only).
    pub t_max: Option<u64>,
    /// The run's seed; it decides order and patches here, and the caller draws the initial weights with it.
    pub seed: u64,
    /// Ends the run after this many steps, for trials; the schedule stays that of the full run.
    pub max_steps: Option<u64>,
    /// Reads the metrics from the device every so many steps (and at the first and the last).
    pub log_every: u64,
    /// Writes the checkpoint every so many steps, besides at the end; `None` writes it only there.
    pub checkpoint_every: Option<u64>,
}

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Length {
    /// So many passes over the data set.
    Epochs(u64),
    /// So many steps, whatever the size of the data set.
    Steps(u64),
}

impl Length {
    fn steps(self, steps_per_epoch: u64) -> u64 {
        match self {
            Self::Epochs(epochs) => epochs * steps_per_epoch,
            Self::Steps(steps) => steps,
        }
    }
}

/// Where patches come from.
pub struct BatchSource {
    /// The images.
    pub dataset: Dataset,
    /// The augmentation.
    pub sampler: PatchSampler,
    /// Threads that cut patches.
    pub n_workers: usize,
    /// Batches cut ahead.
    pub prefetch: usize,
}

impl BatchSource {
    /// Batches of one epoch, without the incomplete last one.
    fn epoch(&self, config: &TrainConfig, epoch: u64, first_batch: usize) -> Result<PatchLoader, TrainError> {
        let loader = LoaderConfig {
            n_patches: config.n_patches,
            batch_size: config.batch_size,
            view: View::Augmented,
            order: Order::Shuffled,
            drop_last: true,
            seed: config.seed,
            epoch,
            first_batch,
            n_workers: self.n_workers,
            prefetch: self.prefetch,
        };
        Ok(PatchLoader::new(&self.dataset, &self.sampler, &loader)?)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were taken.
    Finished,
    /// Someone asked to stop; what was learnt is saved.
    Interrupted,
}

/// A network in training.
pub struct Trainer {
    network: Network,
    loss: EmpSslLoss,
    lars: Lars,
    config: TrainConfig,
    device: Device,
    steps_per_epoch: u64,
    /// Steps done so far.
    step: u64,
    /// The device's word on whether every loss so far was finite; read only at log time.
    all_finite: Tensor,
}

impl Trainer {
    /// Sets up a run of `network`, which lives on `device`, over a data set of `n_images`.
    ///
    /// # Errors
    /// [`TrainError::Config`] when a setting is impossible.
    pub fn new(
        network: Network,
        loss: EmpSslLoss,
        lars: &LarsConfig,
        config: TrainConfig,
        n_images: usize,
        device: Device,
    ) -> Result<Self, TrainError> {
        check(&config, n_images)?;
        let lars = Lars::new(network.parameters(), lars)?;
        let steps_per_epoch = (n_images / config.batch_size) as u64;
        let all_finite = Tensor::ones([], (Kind::Bool, device));
        Ok(Self { network, loss, lars, config, device, steps_per_epoch, step: 0, all_finite })
    }

    /// Trains from the current step to the last, and saves a checkpoint at `path`.
    ///
    /// Setting `stop` makes the run save after the step in hand and return [`Outcome::Interrupted`].
    ///
    /// # Errors
    /// When data cannot be read, the loss or a weight stops being finite, memory runs out, the checkpoint cannot be
    /// written or the observer fails. The last good checkpoint is untouched.
    pub fn run(
        &mut self,
        source: &BatchSource,
        checkpoint: &CheckpointPlan,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, TrainError> {
        let schedule = self.schedule()?;
        let last_step = self.n_steps();
        let mut clock = Clock::start(self.step);
        let mut last_loss = None;
        while self.step < last_step {
            let epoch = self.step / self.steps_per_epoch;
            let first_batch = (self.step % self.steps_per_epoch) as usize;
            for batch in source.epoch(&self.config, epoch, first_batch)? {
                let lr = schedule.lr(self.step);
                let terms = self.step(&batch?, lr)?;
                self.step += 1;
                observer.on_step(self.step, last_step);
                let stopping = stop.load(Ordering::Relaxed);
                if self.step == 1 || self.step.is_multiple_of(self.config.log_every) || self.step == last_step || stopping {
                    let record = self.record(&terms, epoch, lr, &mut clock);
                    self.demand_finite(last_loss)?;
                    last_loss = Some(record.loss);
                    observer.on_record(&record)?;
                }
                if stopping || self.is_checkpoint_due(last_step) {
                    self.save(checkpoint, last_loss)?;
                }
                if stopping {
                    return Ok(Outcome::Interrupted);
                }
                if self.step == last_step {
                    break;
                }
            }
        }
        Ok(Outcome::Finished)
    }

    /// One step: patches to projections, the objective and its gradient, the update.
    fn step(&mut self, batch: &PatchBatch, lr: f64) -> Result<LossTerms, TrainError> {
        let (n, b) = (self.config.n_patches as i64, self.config.batch_size as i64);
        let terms = catch(|| -> Result<LossTerms, TrainError> {
            let x = network_input(batch, self.network.kind(), self.device); // [n*b, 3, s, s]
            self.lars.zero_grad();
            let z = self.network.forward(&x, Mode::Train).projections; // [n*b, d]
            let terms = self.loss.backward(&z.view([n, b, -1]))?;
            self.lars.step(lr)?;
            Ok(terms)
        });
        let terms = terms.map_err(|failure| self.explain(failure, batch))??;
        self.all_finite = self.all_finite.logical_and(&terms.total.isfinite());
        Ok(terms)
    }

    fn explain(&self, failure: TorchFailure, batch: &PatchBatch) -> TrainError {
        let side = batch.patches.dim().4;
        memory::explain(failure, &self.config, &self.network, side, self.device)
    }

    /// Steps of the whole run.
    pub fn n_steps(&self) -> u64 {
        let all = self.full_steps();
        self.config.max_steps.map_or(all, |most| most.min(all))
    }

    /// Whether every step of the full run was taken; a trial that was cut short is not complete.
    pub fn is_complete(&self) -> bool {
        self.step == self.full_steps()
    }

    /// Steps done so far.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// The network in its present state.
    pub fn network(&self) -> &Network {
        &self.network
    }

    fn schedule(&self) -> Result<CosineSchedule, TrainError> {
        CosineSchedule::new(self.config.lr, self.config.t_max.unwrap_or(self.full_steps()))
    }

    /// Steps of the run when no trial cuts it short.
    fn full_steps(&self) -> u64 {
        self.config.length.steps(self.steps_per_epoch)
    }

    fn is_checkpoint_due(&self, last_step: u64) -> bool {
        self.step == last_step || self.config.checkpoint_every.is_some_and(|every| self.step.is_multiple_of(every))
    }

    /// Reads the metrics from the device: the only place of the loop that waits for it.
    fn record(&self, terms: &LossTerms, epoch: u64, lr: f64, clock: &mut Clock) -> StepRecord {
        let packed = Tensor::stack(&[&terms.total, &terms.invariance, &terms.coding_rate], 0);
        let values: Vec<f64> = Vec::try_from(packed.to_device(Device::Cpu).to_kind(Kind::Double)).expect("three numbers");
        let steps = clock.lap(self.step);
        let patches = steps * (self.config.n_patches * self.config.batch_size) as f64;
        StepRecord {
            step: self.step,
            epoch,
            lr,
            loss: values[0],
            invariance: values[1],
            coding_rate: values[2],
            patches_per_s: patches / clock.lap_seconds,
            seconds: clock.seconds,
        }
    }

    /// Fails when a loss since the start, a weight or a running statistic is not finite.
    fn demand_finite(&self, last_loss: Option<f64>) -> Result<(), TrainError> {
        let culprit = if bool::try_from(&self.all_finite).expect("one flag") {
            first_not_finite(&self.network)
        } else {
            Some("the loss".to_owned())
        };
        let last_loss = last_loss.map_or("none was read".to_owned(), |loss| format!("{loss:.4}"));
        culprit.map_or(Ok(()), |what| Err(TrainError::NotFinite { what, step: self.step, last_loss }))
    }

    fn save(&self, plan: &CheckpointPlan, last_loss: Option<f64>) -> Result<(), TrainError> {
        let Some(path) = &plan.path else { return Ok(()) };
        self.demand_finite(last_loss)?;
        self.checkpoint(&plan.recipe).save(path)
    }

    /// Everything needed to go on from here.
    pub fn checkpoint(&self, recipe: &str) -> Checkpoint {
        Checkpoint {
            step: self.step,
            seed: self.config.seed,
            threads: tch::get_num_threads() as u64,
            recipe: recipe.to_owned(),
            network: self.network.state_dict(),
            momentum: self.lars.state(),
        }
    }

    /// Goes back to the state of a checkpoint.
    ///
    /// # Errors
    /// When its weights or momentum do not belong to this network, or it was written under another seed.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        if checkpoint.seed != self.config.seed {
            let (found, expected) = (checkpoint.seed, self.config.seed);
            let problems = format!("they were written with seed {found}, this run has seed {expected}");
            return Err(TrainError::Mismatch { what: "the weights of the checkpoint", problems });
        }
        self.network.load_state_dict(&checkpoint.network)?;
        self.lars.load_state(&checkpoint.momentum)?;
        self.step = checkpoint.step;
        Ok(())
    }
}

/// Where checkpoints go, and the recipe that is written into them.
#[derive(Debug, Clone, Default)]
pub struct CheckpointPlan {
    /// The file; `None` saves nothing.
    pub path: Option<PathBuf>,
    /// The resolved recipe, as text.
    pub recipe: String,
}

/// The network's input: bytes `[n, b, 3, s, s]` to numbers `x / 127.5 - 1` of `kind`, `[n * b, 3, s, s]`, on `device`
/// (tsb0601/EMP-SSL `dataset/aug.py`: ToTensor, then Normalize with mean and deviation 0.5).
pub fn network_input(batch: &PatchBatch, kind: Kind, device: Device) -> Tensor {
    let (n, b, channels, height, width) = batch.patches.dim();
    let sizes = [(n * b) as i64, channels as i64, height as i64, width as i64];
    let bytes = batch.patches.as_slice().expect("batches are contiguous");
    let bytes = Tensor::from_data_size(bytes, &sizes, Kind::Uint8);
    bytes.to_device(device).to_kind(kind) / 127.5 - 1.0
}

/// The name of the first parameter or buffer that holds a NaN or an infinity; one number is read from the device
/// where all are finite.
fn first_not_finite(network: &Network) -> Option<String> {
    no_grad(|| {
        let state = network.state_dict();
        let floats: Vec<_> = state.iter().filter(|(_, tensor)| tensor.kind() != Kind::Int64).collect();
        let flags: Vec<Tensor> = floats.iter().map(|(_, tensor)| tensor.isfinite().all()).collect();
        if bool::try_from(Tensor::stack(&flags, 0).all()).expect("one flag") {
            return None;
        }
        let bad = flags.iter().position(|flag| !bool::try_from(flag).expect("one flag"));
        bad.map(|index| format!("`{}`", floats[index].0))
    })
}

/// Seconds of training, in laps from one record to the next.
struct Clock {
    began: Instant,
    lap_began: Instant,
    lap_step: u64,
    seconds: f64,
    lap_seconds: f64,
}

impl Clock {
    fn start(step: u64) -> Self {
        let now = Instant::now();
        Self { began: now, lap_began: now, lap_step: step, seconds: 0.0, lap_seconds: 0.0 }
    }

    /// Ends the lap at `step`; returns its number of steps.
    fn lap(&mut self, step: u64) -> f64 {
        let now = Instant::now();
        self.seconds = (now - self.began).as_secs_f64();
        self.lap_seconds = (now - self.lap_began).as_secs_f64().max(1e-9);
        let steps = (step - self.lap_step) as f64;
        (self.lap_began, self.lap_step) = (now, step);
        steps
    }
}

/// Refuses impossible settings, by name.
fn check(config: &TrainConfig, n_images: usize) -> Result<(), TrainError> {
    let (n, b) = (config.n_patches, config.batch_size);
    TrainError::check(n >= 1, "n_patches", "at least 1", n)?;
    TrainError::check(b >= 1, "batch_size", "at least 1", b)?;
    let normalisable = "such that n_patches x batch_size is at least 2, or batch normalisation has nothing to normalise";
    TrainError::check(n * b >= 2, "batch_size", normalisable, b)?;
    let filled = "at most the number of images, or not one batch is full";
    TrainError::check(b <= n_images, "batch_size", filled, format!("{b} with {n_images} images"))?;
    TrainError::check(config.length.steps(1) >= 1, "length", "at least one epoch or step", 0)?;
    TrainError::check(config.lr > 0.0 && config.lr.is_finite(), "lr", "positive and finite", config.lr)?;
    TrainError::check(config.t_max != Some(0), "t_max", "at least one step", 0)?;
    TrainError::check(config.max_steps != Some(0), "max_steps", "at least 1", 0)?;
    TrainError::check(config.log_every >= 1, "log_every", "at least 1", 0)?;
    TrainError::check(config.checkpoint_every != Some(0), "checkpoint_every", "at least 1", 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use empssl_data::{OnBadImage, OpenOptions, PatchConfig, Split};
    use empssl_loss::EmpSslLossConfig;
    use empssl_model::{NetworkConfig, ResNetConfig, Stem};

    use super::*;

    /// Settings of a run of six steps.
    pub(crate) fn config() -> TrainConfig {
        TrainConfig {
            n_patches: 2,
            batch_size: 4,
            length: Length::Epochs(2),
            lr: 0.1,
            t_max: None,
            seed: 7,
            max_steps: None,
            log_every: 2,
            checkpoint_every: None,
        }
    }

    fn images() -> Dataset {
        let options = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
        let test = empssl_data::open(&options, Split::Test).unwrap();
        test.subset(&(0..14).collect::<Vec<_>>()).unwrap()
    }

    fn source() -> BatchSource {
        let sampler = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
        BatchSource { dataset: images(), sampler, n_workers: 1, prefetch: 1 }
    }

    fn trainer(config: TrainConfig) -> Trainer {
        let resnet = ResNetConfig { base_width: 4, ..ResNetConfig::resnet18(Stem::Cifar) };
        tch::manual_seed(3);
        let network = NetworkConfig { resnet, hidden: 16, projection: 8 };
        let network = Network::new(&network, Kind::Float, Device::Cpu).unwrap();
        let loss = EmpSslLoss::new(&EmpSslLossConfig::paper()).unwrap();
        Trainer::new(network, loss, &LarsConfig::paper(), config, 14, Device::Cpu).unwrap()
    }

    fn run(trainer: &mut Trainer, path: Option<PathBuf>, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        let plan = CheckpointPlan { path, recipe: "recipe".to_owned() };
        trainer.run(&source(), &plan, &AtomicBool::new(false), observer)
    }

    /// Keeps the records.
    #[derive(Default)]
    struct Records(Vec<StepRecord>);

    impl Observer for Records {
        fn on_record(&mut self, record: &StepRecord) -> Result<(), TrainError> {
            self.0.push(*record);
            Ok(())
        }
    }

    fn same_state(a: &Checkpoint, b: &Checkpoint) -> bool {
        let equal = |a: &[(String, Tensor)], b: &[(String, Tensor)]| a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x == y);
        a.step == b.step && equal(&a.network, &b.network) && equal(&a.momentum, &b.momentum)
    }

    #[test]
    fn an_epoch_drops_the_incomplete_batch_and_the_records_follow_the_schedule() {
        let mut trainer = trainer(config());
        let mut records = Records::default();
        assert_eq!(run(&mut trainer, None, &mut records).unwrap(), Outcome::Finished);
        assert_eq!((trainer.n_steps(), trainer.steps_done()), (6, 6));
        let steps: Vec<u64> = records.0.iter().map(|record| record.step).collect();
        assert_eq!(steps, [1, 2, 4, 6]);
        assert_eq!(records.0.iter().map(|record| record.epoch).collect::<Vec<_>>(), [0, 0, 1, 1]);
        let schedule = CosineSchedule::new(0.1, 6).unwrap();
        assert!(records.0.iter().all(|record| record.lr == schedule.lr(record.step - 1)));
        assert!(records.0.iter().all(|r| (200.0 * r.invariance - r.coding_rate - r.loss).abs() < 1e-3 && r.loss < 0.0));
    }

    #[test]
    fn a_run_stopped_and_continued_elsewhere_ends_in_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let mut whole = trainer(config());
        run(&mut whole, None, &mut ()).unwrap();
        for stop_after in [1, 3, 4] {
            let mut first = trainer(TrainConfig { max_steps: Some(stop_after), ..config() });
            run(&mut first, Some(path.clone()), &mut ()).unwrap();
            let mut second = trainer(config());
            second.restore(&Checkpoint::load(&path).unwrap()).unwrap();
            assert_eq!(second.steps_done(), stop_after);
            run(&mut second, None, &mut ()).unwrap();
            assert!(same_state(&second.checkpoint(""), &whole.checkpoint("")), "stopped after {stop_after}");
        }
    }

    #[test]
    fn a_length_in_steps_crosses_epochs() {
        let mut trainer = trainer(TrainConfig { length: Length::Steps(4), ..config() });
        let mut records = Records::default();
        run(&mut trainer, None, &mut records).unwrap();
        assert_eq!(records.0.iter().map(|record| (record.step, record.epoch)).collect::<Vec<_>>(), [(1, 0), (2, 0), (4, 1)]);
    }

    #[test]
    fn a_request_to_stop_saves_and_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let mut trainer = trainer(config());
        let plan = CheckpointPlan { path: Some(path.clone()), recipe: "recipe".to_owned() };
        let outcome = trainer.run(&source(), &plan, &AtomicBool::new(true), &mut ()).unwrap();
        assert_eq!((outcome, trainer.steps_done()), (Outcome::Interrupted, 1));
        assert_eq!(Checkpoint::load(&path).unwrap().step, 1);
    }

    #[test]
    fn a_weight_that_is_not_finite_stops_the_run_by_name_and_is_never_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let mut trainer = trainer(config());
        trainer.checkpoint("good").save(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        // A running statistic: the loss of a training step never sees it.
        let state = trainer.network.state_dict();
        let (name, buffer) = state.iter().find(|(name, _)| name.ends_with("running_mean")).unwrap();
        let _ = buffer.shallow_clone().fill_(f64::INFINITY);
        let error = run(&mut trainer, Some(path.clone()), &mut ()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{name}` is not finite at step 1")), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_loss_that_is_not_finite_stops_the_run() {
        let mut trainer = trainer(config());
        let _ = trainer.network.state_dict()[0].1.fill_(f64::NAN);
        let error = run(&mut trainer, None, &mut ()).unwrap_err();
        assert!(matches!(&error, TrainError::NotFinite { what, .. } if what == "the loss"), "{error}");
    }

    #[test]
    fn a_checkpoint_of_another_seed_or_network_is_refused() {
        let mut trainer = trainer(config());
        let other = trainer_with_seed(8).checkpoint("");
        assert!(trainer.restore(&other).unwrap_err().to_string().contains("seed 8"));
        let mut foreign = trainer.checkpoint("");
        foreign.network.pop();
        assert!(matches!(trainer.restore(&foreign), Err(TrainError::Model(_))));
        let mut foreign = trainer.checkpoint("");
        foreign.momentum.pop();
        assert!(matches!(trainer.restore(&foreign), Err(TrainError::Mismatch { .. })));
    }

    fn trainer_with_seed(seed: u64) -> Trainer {
        trainer(TrainConfig { seed, ..config() })
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        let refusals: [(&str, fn(&mut TrainConfig)); 10] = [
            ("n_patches", |c| c.n_patches = 0),
            ("batch_size", |c| c.batch_size = 0),
            ("batch_size", |c| (c.n_patches, c.batch_size) = (1, 1)),
            ("batch_size", |c| c.batch_size = 15),
            ("length", |c| c.length = Length::Steps(0)),
            ("lr", |c| c.lr = f64::NAN),
            ("t_max", |c| c.t_max = Some(0)),
            ("max_steps", |c| c.max_steps = Some(0)),
            ("log_every", |c| c.log_every = 0),
            ("checkpoint_every", |c| c.checkpoint_every = Some(0)),
        ];
        assert!(check(&config(), 14).is_ok());
        for (key, spoil) in refusals {
            let mut config = config();
            spoil(&mut config);
            let error = check(&config, 14).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{key}` must be")), "{error}");
        }
    }
}
