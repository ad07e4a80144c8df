//! The training loop: from a data set to a trained network, one page, read from [`Trainer::run`] downwards.

use std::sync::atomic::{AtomicBool, Ordering};

use empssl_loss::{EmpSslLoss, LossTerms};
use empssl_model::Network;
use empssl_torch::catch;
use tch::{Device, Kind, Tensor, no_grad};

use crate::checkpoint::{Checkpoint, Position, Versions};
use crate::clock::Clock;
use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::feed::{Feed, Turn};
use crate::gradient::{Norms, StepPlan};
use crate::keep::{CheckpointFiles, Rhythm};
use crate::lars::{Lars, LarsConfig};
use crate::memory;
use crate::observer::{Observer, StepRecord};
use crate::phase::Phase;
use crate::schedule::CosineSchedule;
use crate::source::BatchSource;

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
    steps_per_epoch: u64,
    /// Steps done so far.
    step: u64,
    /// The device's word on whether every loss so far was finite; read only at log time.
    all_finite: Tensor,
}

impl Trainer {
    /// Sets up a run of `network`, on the device where it lives, over a data set of `n_images`.
    ///
    /// # Errors
    /// [`TrainError::Setting`] when a setting is impossible.
    pub fn new(
        network: Network,
        loss: EmpSslLoss,
        lars: &LarsConfig,
        config: TrainConfig,
        n_images: usize,
    ) -> Result<Self, TrainError> {
        config.check(n_images)?;
        let lars = Lars::new(network.parameters(), lars)?;
        let steps_per_epoch = config.steps_per_epoch(n_images);
        let all_finite = Tensor::ones([], (Kind::Bool, network.device()));
        Ok(Self { network, loss, lars, config, steps_per_epoch, step: 0, all_finite })
    }

    /// Trains from the current step to the last, and saves checkpoints as `checkpoint` says.
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
        let mut clock = Clock::start(self.step, checkpoint.seconds_before);
        let mut rhythm = Rhythm::new(self.config.checkpoint_every);
        let mut last_loss = None;
        let mut feed = source.feed(&self.config, self.step..last_step, self.network.device())?;
        loop {
            observer.on_phase(Phase::DataWait);
            let Some(turn) = feed.next_turn() else { break };
            let turn = turn?;
            let (epoch, lr) = (turn.epoch, schedule.lr(self.step));
            let terms = self.step(&mut feed, turn, lr, observer)?;
            observer.on_phase(Phase::Between);
            self.step += 1;
            let stopping = stop.load(Ordering::Relaxed) && self.step < last_step;
            let shown = observer.wants_network(self.step, last_step);
            if stopping || shown || self.is_record_due(last_step) {
                self.demand_finite(last_loss)?;
                if shown {
                    observer.on_network(&self.network)?;
                }
                let record = self.record(&terms, epoch, lr, &mut clock);
                last_loss = Some(record.loss);
                observer.on_record(&record)?;
            }
            observer.on_step(self.step, last_step);
            if let Some(files) = &checkpoint.files {
                let is_due = stopping || self.step == last_step || rhythm.is_due(self.step);
                if is_due || self.snapshot_due().is_some() {
                    observer.before_save()?;
                    self.demand_finite(last_loss)?;
                    self.save(files, is_due, &checkpoint.recipe)?;
                }
                if is_due {
                    rhythm.saved()
                }
            }
            if stopping {
                return Ok(Outcome::Interrupted);
            }
        }
        Ok(Outcome::Finished)
    }

    /// One step: the gradient of the objective on the patches of a turn, and the update.
    fn step(
        &mut self,
        feed: &mut Feed<'_>,
        turn: Turn,
        lr: f64,
        observer: &mut dyn Observer,
    ) -> Result<LossTerms, TrainError> {
        let side = turn.side;
        let plan = StepPlan { memory: self.config.memory, norms: Norms::Batch, tf32: self.config.tf32 };
        let terms = catch(|| -> Result<LossTerms, TrainError> {
            observer.on_phase(Phase::Copy);
            let patches = feed.patches(turn)?;
            observer.on_phase(Phase::Other);
            self.lars.zero_grad();
            let mut enter = |phase| observer.on_phase(phase);
            let terms = plan.backward_in_phases(&self.network, &self.loss, &patches, &mut enter)?;
            observer.on_phase(Phase::Optimizer);
            self.lars.step(lr)?;
            observer.on_phase(Phase::Other);
            Ok(terms)
        });
        let terms = terms.map_err(TrainError::from).flatten().map_err(|error| self.explain(error, side))?;
        self.all_finite = self.all_finite.logical_and(&terms.total.isfinite());
        Ok(terms)
    }

    fn explain(&self, error: TrainError, side: usize) -> TrainError {
        memory::explain(error, &self.config, &self.network, side)
    }

    /// Steps of the whole run.
    pub fn n_steps(&self) -> u64 {
        let all = self.full_steps();
        self.config.max_steps.map_or(all, |most| most.min(all))
    }

    /// Passes over the data set that the whole run makes, a fraction where it ends within one.
    pub fn n_epochs(&self) -> f64 {
        self.n_steps() as f64 / self.steps_per_epoch as f64
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
        CosineSchedule::new(self.config.lr, self.schedule_steps())
    }

    /// Steps over which the learning rate falls to 0.
    fn schedule_steps(&self) -> u64 {
        self.config.t_max.unwrap_or(self.full_steps())
    }

    /// Steps of the run when no trial cuts it short.
    fn full_steps(&self) -> u64 {
        self.config.length.steps(self.steps_per_epoch)
    }

    fn is_record_due(&self, last_step: u64) -> bool {
        let at_an_end = self.step == 1 || self.step == last_step || self.snapshot_due().is_some();
        at_an_end || self.step.is_multiple_of(self.config.log_every)
    }

    /// The number of epochs done, when the recipe keeps a checkpoint of just that many.
    fn snapshot_due(&self) -> Option<u64> {
        let epochs = self.step / self.steps_per_epoch;
        let is_due = self.step.is_multiple_of(self.steps_per_epoch) && self.config.snapshot_epochs.contains(&epochs);
        is_due.then_some(epochs)
    }

    /// Reads the metrics from the device and waits for it.
    fn record(&self, terms: &LossTerms, epoch: u64, lr: f64, clock: &mut Clock) -> StepRecord {
        let packed = Tensor::stack(&[&terms.total, &terms.invariance, &terms.coding_rate], 0);
        let values: Vec<f64> =
            Vec::try_from(packed.to_device(Device::Cpu).to_kind(Kind::Double)).expect("three numbers");
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

    /// Saves what is due; the snapshot first, so that a run killed between the two comes by this step again.
    fn save(&self, files: &CheckpointFiles, is_checkpoint_due: bool, recipe: &str) -> Result<(), TrainError> {
        let checkpoint = self.checkpoint(recipe);
        let snapshot = self.snapshot_due().map_or(Ok(()), |epochs| files.save_snapshot(epochs, &checkpoint));
        let saved = snapshot.and_then(|()| if is_checkpoint_due { files.save(&checkpoint) } else { Ok(()) });
        saved.map_err(|failure| TrainError::Save { step: self.step, failure: Box::new(failure) })
    }

    /// Everything needed to go on from here.
    pub fn checkpoint(&self, recipe: &str) -> Checkpoint {
        Checkpoint {
            step: self.step,
            position: self.position(self.step),
            seed: self.config.seed,
            threads: tch::get_num_threads() as u64,
            versions: Versions::running(),
            recipe: recipe.to_owned(),
            network: self.network.state_dict(),
            momentum: self.lars.state(),
        }
    }

    /// Where the step after `step` steps stands.
    fn position(&self, step: u64) -> Position {
        Position {
            epoch: step / self.steps_per_epoch,
            batch: step % self.steps_per_epoch,
            schedule_steps: self.schedule_steps(),
        }
    }

    /// Goes back to the state of a checkpoint.
    ///
    /// # Errors
    /// When its weights or momentum do not belong to this network, or it was written under another seed, another
    /// schedule, or on a data set that makes epochs of another length.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        let (theirs, ours) = (checkpoint.position, self.position(checkpoint.step));
        let mut compared = [
            ("seed", checkpoint.seed, self.config.seed),
            ("schedule_steps", theirs.schedule_steps, ours.schedule_steps),
            ("epoch", theirs.epoch, ours.epoch),
            ("batch", theirs.batch, ours.batch),
        ]
        .into_iter();
        if let Some((key, found, expected)) = compared.find(|(_, found, expected)| found != expected) {
            return Err(TrainError::OtherRun { key, found: found.to_string(), expected: expected.to_string() });
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
    /// The files; `None` saves nothing.
    pub files: Option<CheckpointFiles>,
    /// The resolved recipe, as text.
    pub recipe: String,
    /// Seconds of training in earlier processes of the same run.
    pub seconds_before: f64,
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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::PoisonError;
    use std::time::Duration;

    use empssl_data::{Dataset, OnBadImage, OpenOptions, PatchConfig, PatchSampler, Split};
    use empssl_loss::EmpSslLossConfig;
    use empssl_model::{NetworkConfig, ResNetConfig, Stem};

    use super::*;
    use crate::config::tests::{DRAWING, config};
    use crate::config::{CheckpointEvery, Length};
    use crate::gradient::MemoryMode;

    fn images() -> Dataset {
        let options =
            OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
        let test = empssl_data::open(&options, Split::Test).unwrap();
        test.subset(&(0..14).collect::<Vec<_>>()).unwrap()
    }

    fn source() -> BatchSource {
        let sampler = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
        BatchSource { dataset: images(), sampler, n_workers: 1, prefetch: 1 }
    }

    fn trainer(config: TrainConfig) -> Trainer {
        let resnet = ResNetConfig { base_width: 4, ..ResNetConfig::resnet18(Stem::Cifar) };
        let network = NetworkConfig { resnet, hidden: 16, projection: 8 };
        let network = {
            let _alone = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
            tch::manual_seed(3);
            Network::new(&network, Kind::Float, Device::Cpu).unwrap()
        };
        let loss = EmpSslLoss::new(&EmpSslLossConfig::paper()).unwrap();
        Trainer::new(network, loss, &LarsConfig::paper(), config, 14).unwrap()
    }

    fn run(trainer: &mut Trainer, folder: Option<&Path>, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        let plan = CheckpointPlan {
            files: folder.map(CheckpointFiles::new),
            recipe: "recipe".to_owned(),
            seconds_before: 1000.0,
        };
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
        let equal =
            |a: &[(String, Tensor)], b: &[(String, Tensor)]| a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x == y);
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
        assert!(records.0.iter().all(|record| record.seconds > 1000.0), "seconds go on from earlier processes");
        assert!(records.0.iter().all(|record| record.lr == schedule.lr(record.step - 1)));
        assert!(records.0.iter().all(|r| (200.0 * r.invariance - r.coding_rate - r.loss).abs() < 1e-3 && r.loss < 0.0));
    }

    /// Keeps the phases.
    #[derive(Default)]
    struct Phases(Vec<Phase>);

    impl Observer for Phases {
        fn on_phase(&mut self, phase: Phase) {
            self.0.push(phase);
        }
    }

    #[test]
    fn a_watched_run_tells_every_phase_of_every_step() {
        use Phase::{Backward, Between, Copy, DataWait, Forward, Loss, Optimizer, Other};
        let mut phases = Phases::default();
        run(&mut trainer(TrainConfig { max_steps: Some(2), ..config() }), None, &mut phases).unwrap();
        let step = [DataWait, Copy, Other, Forward, Loss, Backward, Optimizer, Other, Between];
        assert_eq!(phases.0, [step.as_slice(), &step, &[DataWait]].concat());
    }

    #[test]
    fn a_run_stopped_and_continued_elsewhere_ends_in_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let files = CheckpointFiles::new(folder.path());
        let mut whole = trainer(config());
        run(&mut whole, None, &mut ()).unwrap();
        for stop_after in [1, 3, 4] {
            let mut first = trainer(TrainConfig { max_steps: Some(stop_after), ..config() });
            run(&mut first, Some(folder.path()), &mut ()).unwrap();
            let mut second = trainer(config());
            second.restore(&files.last().unwrap().checkpoint.unwrap()).unwrap();
            assert_eq!(second.steps_done(), stop_after);
            run(&mut second, None, &mut ()).unwrap();
            assert!(same_state(&second.checkpoint(""), &whole.checkpoint("")), "stopped after {stop_after}");
        }
    }

    #[test]
    fn every_memory_mode_continues_in_the_same_bits() {
        for memory in [MemoryMode::ByStage, MemoryMode::ByPatches(1)] {
            let config = TrainConfig { memory, ..config() };
            let mut whole = trainer(config.clone());
            run(&mut whole, None, &mut ()).unwrap();
            let mut first = trainer(TrainConfig { max_steps: Some(2), ..config.clone() });
            run(&mut first, None, &mut ()).unwrap();
            let mut second = trainer(config);
            second.restore(&first.checkpoint("")).unwrap();
            run(&mut second, None, &mut ()).unwrap();
            assert!(same_state(&second.checkpoint(""), &whole.checkpoint("")), "{memory:?}");
        }
    }

    #[test]
    fn a_length_in_steps_crosses_epochs() {
        let mut trainer = trainer(TrainConfig { length: Length::Steps(4), ..config() });
        let mut records = Records::default();
        run(&mut trainer, None, &mut records).unwrap();
        assert_eq!(
            records.0.iter().map(|record| (record.step, record.epoch)).collect::<Vec<_>>(),
            [(1, 0), (2, 0), (4, 1)]
        );
    }

    #[test]
    fn a_request_to_stop_saves_and_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let files = CheckpointFiles::new(folder.path());
        let mut trainer = trainer(config());
        let plan = CheckpointPlan { files: Some(files.clone()), ..CheckpointPlan::default() };
        let outcome = trainer.run(&source(), &plan, &AtomicBool::new(true), &mut ()).unwrap();
        assert_eq!((outcome, trainer.steps_done()), (Outcome::Interrupted, 1));
        assert_eq!(Checkpoint::load(&files.newest()).unwrap().step, 1);
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
        let error = run(&mut trainer, Some(folder.path()), &mut ()).unwrap_err().to_string();
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

    /// Steps of the records given so far, each time a checkpoint was about to be saved.
    #[derive(Default)]
    struct Saves(Vec<u64>, Vec<u64>);

    impl Observer for Saves {
        fn on_record(&mut self, record: &StepRecord) -> Result<(), TrainError> {
            self.0.push(record.step);
            Ok(())
        }

        fn before_save(&mut self) -> Result<(), TrainError> {
            self.1.push(self.0.last().copied().unwrap_or(0));
            Ok(())
        }
    }

    #[test]
    fn the_snapshots_that_the_recipe_names_are_kept_beside_the_last_two() {
        let folder = tempfile::tempdir().unwrap();
        let files = CheckpointFiles::new(folder.path());
        let every = Some(CheckpointEvery::Steps(5));
        let config = TrainConfig { snapshot_epochs: vec![1, 2], checkpoint_every: every, log_every: 100, ..config() };
        let mut saves = Saves::default();
        let mut trainer = trainer(config);
        run(&mut trainer, Some(folder.path()), &mut saves).unwrap();
        let step = |path: PathBuf| Checkpoint::load(&path).unwrap().step;
        assert_eq!([files.snapshot(1), files.snapshot(2), files.previous(), files.newest()].map(step), [3, 6, 5, 6]);
        assert_eq!((saves.0, saves.1), (vec![1, 3, 6], vec![3, 3, 6]), "a snapshot's step has its record before it");
        let bytes = |path: PathBuf| std::fs::read(path).unwrap();
        assert_eq!(bytes(files.snapshot(2)), bytes(files.newest()));
    }

    #[test]
    fn saving_by_the_clock_changes_no_bit() {
        let folder = tempfile::tempdir().unwrap();
        let mut plain = trainer(config());
        run(&mut plain, None, &mut ()).unwrap();
        let every = Some(CheckpointEvery::Time(Duration::from_nanos(1)));
        let mut saving = trainer(TrainConfig { checkpoint_every: every, ..config() });
        let mut saves = Saves::default();
        run(&mut saving, Some(folder.path()), &mut saves).unwrap();
        assert_eq!(saves.1.len(), 6, "a checkpoint after every step");
        assert!(same_state(&saving.checkpoint(""), &plain.checkpoint("")));
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_ends_the_run_with_its_name_and_step() {
        let folder = tempfile::tempdir().unwrap();
        let error = run(&mut trainer(config()), Some(&folder.path().join("absent")), &mut ()).unwrap_err();
        assert!(matches!(error, TrainError::Save { step: 6, .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.contains("absent/checkpoint.safetensors: No such file"), "{error}");
        std::fs::write(folder.path().join("snapshots"), "no folder").unwrap();
        let mut blocked = trainer(TrainConfig { snapshot_epochs: vec![1], ..config() });
        let error = run(&mut blocked, Some(folder.path()), &mut ()).unwrap_err().to_string();
        assert!(error.starts_with("the checkpoint of step 3 was not saved") && error.contains("snapshots"), "{error}");
    }

    #[test]
    fn a_checkpoint_of_another_run_is_refused_with_what_differs() {
        let mut trainer = trainer(config());
        let refusal = |trainer: &mut Trainer, key, found, expected| {
            let mut other = trainer.checkpoint("");
            spoil(&mut other, key);
            let error = trainer.restore(&other).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}` is {found}, this run's is {expected}")), "{error}");
        };
        refusal(&mut trainer, "seed", 8, 7);
        refusal(&mut trainer, "schedule_steps", 60, 6);
        refusal(&mut trainer, "epoch", 1, 0);
        refusal(&mut trainer, "batch", 2, 0);
        let mut foreign = trainer.checkpoint("");
        foreign.network.pop();
        assert!(matches!(trainer.restore(&foreign), Err(TrainError::Model(_))));
        let mut foreign = trainer.checkpoint("");
        foreign.momentum.pop();
        assert!(matches!(trainer.restore(&foreign), Err(TrainError::Mismatch { .. })));
    }

    fn spoil(checkpoint: &mut Checkpoint, key: &str) {
        match key {
            "seed" => checkpoint.seed = 8,
            "schedule_steps" => checkpoint.position.schedule_steps = 60,
            "epoch" => checkpoint.position.epoch = 1,
            _ => checkpoint.position.batch = 2,
        }
    }
}
