//! The training loop: from a data set to a trained network, one page, read from [`Trainer::run`] downwards.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use empssl_loss::{EmpSslLoss, LossTerms};
use empssl_model::Network;
use empssl_torch::catch;
use empssl_torch::processes::{GradientBuckets, ProcessGroup};
use tch::{Device, Kind, Tensor, no_grad};
use tracing::info_span;

use crate::batches::BatchSource;
use crate::checkpoint::{Checkpoint, Position, Versions};
use crate::checkpoint_files::CheckpointFiles;
use crate::config::{BatchNormOver, TrainConfig};
use crate::error::TrainError;
use crate::gradient::{BatchNormStats, StepPlan};
use crate::lars::{Lars, LarsConfig};
use crate::memory;
use crate::observer::{Observer, StepRecord};
use crate::policy::{CheckpointPolicy, StepActions};
use crate::ranks::{Ranks, Share};
use crate::schedule::CosineSchedule;

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
    /// Whether every loss so far was finite, on the device; read only when metrics are.
    all_finite: Tensor,
    /// The last loss that was read.
    last_loss: Option<f64>,
    /// Other processes, where the batches are shared.
    ranks: Option<Ranks>,
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
        config.check()?;
        config.check_images(n_images)?;
        let lars = Lars::new(network.parameters(), lars)?;
        let steps_per_epoch = config.steps_per_epoch(n_images);
        let all_finite = Tensor::ones([], (Kind::Bool, network.device()));
        Ok(Self { network, loss, lars, config, steps_per_epoch, step: 0, all_finite, last_loss: None, ranks: None })
    }

    /// Lets this trainer and those of the other ranks train together from here on, each on its slice of every batch.
    /// All are at the same step of the same run, as `facts` tell by name and number; rank 0 gives its weights, statistics
    /// and momentum to the others.
    ///
    /// # Errors
    /// When the batch cannot be shared, the ranks are not alike, or one is lost.
    pub fn join(
        &mut self,
        group: &ProcessGroup,
        norms: BatchNormOver,
        facts: &[(&str, u64)],
    ) -> Result<(), TrainError> {
        self.config.check_ranks(group.world(), norms)?;
        let own = [("number of ranks", group.world() as u64), ("seed", self.config.seed), ("step", self.step)];
        group.demand_alike(&[&own[..], facts].concat())?;
        let ranks = Ranks::new(group.clone(), &mut self.network, norms, GradientBuckets::BYTES)?;
        ranks.broadcast(&self.network.state_dict())?;
        ranks.broadcast(&self.lars.state())?;
        self.ranks = Some(ranks);
        Ok(())
    }

    /// Trains from the current step to the last, and saves checkpoints as `checkpoint` says. Among several ranks only one
    /// is given files to save.
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
        let (schedule, last_step) = (self.schedule()?, self.n_steps());
        let mut clock = Clock::start(self.step, checkpoint.seconds_before);
        let mut policy = CheckpointPolicy::new(checkpoint.files.as_ref().and(self.config.checkpoint_every));
        let share = self.ranks.as_ref().map_or(Share::WHOLE, Ranks::share);
        let mut batches = source.batches(&self.config, self.step..last_step, self.network.device(), share)?;
        while let Some(batch) = clock.next(&mut batches) {
            let batch = batch.map_err(|error| self.explain(error, source.sampler.side()))?;
            let lr = schedule.lr(self.step);
            let terms = self.step(&batch.patches, lr)?;
            let due = self.due(&policy, stop, observer)?;
            if due.log {
                self.demand_finite()?;
                due.show.then(|| observer.on_network(&self.network)).transpose()?;
                observer.on_record(&self.record(&terms, batch.epoch, lr, &mut clock))?;
            }
            observer.on_step(self.step, last_step);
            self.save(due, checkpoint, observer)?;
            policy.saved(due);
            if due.stop {
                return Ok(Outcome::Interrupted);
            }
        }
        Ok(Outcome::Finished)
    }

    /// One step: the gradient of the objective on these patches, and the update.
    fn step(&mut self, patches: &Tensor, lr: f64) -> Result<LossTerms, TrainError> {
        let _span = info_span!("step").entered();
        let plan = StepPlan { memory: self.config.memory, norms: BatchNormStats::Batch, tf32: self.config.tf32 };
        let terms = catch(|| -> Result<LossTerms, TrainError> {
            self.lars.zero_grad();
            let terms = plan.backward(&self.network, &self.loss, patches, self.ranks.as_mut())?;
            info_span!("optimizer").in_scope(|| self.lars.step(lr))?;
            Ok(terms)
        });
        let side = patches.size()[4] as usize;
        let terms = terms.map_err(TrainError::from).flatten().map_err(|error| self.explain(error, side))?;
        self.all_finite = self.all_finite.logical_and(&terms.total.isfinite());
        self.step += 1;
        Ok(terms)
    }

    fn explain(&self, error: TrainError, side: usize) -> TrainError {
        memory::explain(error, &self.config, &self.network, side)
    }

    /// What is due after the step just taken; where one of the ranks stops or saves, all do.
    fn due(
        &self,
        policy: &CheckpointPolicy,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<StepActions, TrainError> {
        let (step, last_step) = (self.step, self.n_steps());
        let own = StepActions {
            stop: stop.load(Ordering::Relaxed) && step < last_step,
            checkpoint: policy.is_due(step),
            ..StepActions::default()
        };
        let asked = match &self.ranks {
            None => own,
            Some(ranks) => ranks.all_reduce_actions(own)?,
        };
        let (snapshot, show) = (self.snapshot_due(), observer.wants_network(step, last_step));
        let at_an_end = step == 1 || step == last_step || asked.stop;
        let log = at_an_end || show || snapshot.is_some() || step.is_multiple_of(self.config.log_every);
        let checkpoint = asked.checkpoint || asked.stop || step == last_step;
        Ok(StepActions { log, show, checkpoint, snapshot, stop: asked.stop })
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

    /// The number of epochs done, when the recipe keeps a checkpoint of just that many.
    fn snapshot_due(&self) -> Option<u64> {
        let epochs = self.step / self.steps_per_epoch;
        let is_due = self.step.is_multiple_of(self.steps_per_epoch) && self.config.snapshot_epochs.contains(&epochs);
        is_due.then_some(epochs)
    }

    /// Reads the metrics from the device and waits for it.
    fn record(&mut self, terms: &LossTerms, epoch: u64, lr: f64, clock: &mut Clock) -> StepRecord {
        let tensors: Vec<_> = std::iter::once(&terms.total).chain(terms.parts.iter().map(|(_, part)| part)).collect();
        let packed = Tensor::stack(&tensors, 0).to_device(Device::Cpu).to_kind(Kind::Double);
        let values: Vec<f64> = Vec::try_from(packed).expect("a number for each term");
        let names = terms.parts.iter().map(|(name, _)| *name);
        let lap = clock.lap(self.step);
        self.last_loss = Some(values[0]);
        StepRecord {
            step: self.step,
            epoch,
            lr,
            loss: values[0],
            parts: names.zip(values[1..].iter().copied()).collect(),
            patches_per_s: lap.steps_per_s * (self.config.n_patches * self.config.batch_size) as f64,
            waited: lap.waited,
            seconds: lap.seconds,
        }
    }

    /// Fails when a loss since the start, a weight or a running statistic is not finite.
    fn demand_finite(&self) -> Result<(), TrainError> {
        let culprit = if bool::try_from(&self.all_finite).expect("one flag") {
            first_not_finite(&self.network)
        } else {
            Some("the loss".to_owned())
        };
        let last_loss = self.last_loss.map_or("none was read".to_owned(), |loss| format!("{loss:.4}"));
        culprit.map_or(Ok(()), |what| Err(TrainError::NotFinite { what, step: self.step, last_loss }))
    }

    /// Saves what is due, if anything, on the rank that has files to save to. The snapshot comes first, so that a run killed between
    /// the two comes by this step again.
    fn save(&self, due: StepActions, plan: &CheckpointPlan, observer: &mut dyn Observer) -> Result<(), TrainError> {
        if !due.checkpoint && due.snapshot.is_none() {
            return Ok(());
        }
        self.ranks.as_ref().map_or(Ok(()), |ranks| ranks.settle(&self.network))?;
        let Some(files) = &plan.files else { return Ok(()) };
        observer.before_save()?;
        self.demand_finite()?;
        let checkpoint = self.checkpoint(&plan.recipe);
        let snapshot = due.snapshot.map_or(Ok(()), |epochs| files.save_snapshot(epochs, &checkpoint));
        let saved = snapshot.and_then(|()| if due.checkpoint { files.save(&checkpoint) } else { Ok(()) });
        saved.map_err(|failure| TrainError::Save { step: self.step, failure: Box::new(failure) })
    }

    /// Everything needed to go on from here.
    pub fn checkpoint(&self, recipe: &str) -> Checkpoint {
        Checkpoint {
            step: self.step,
            position: self.position(self.step),
            seed: self.config.seed,
            threads: tch::get_num_threads() as u64,
            world: self.ranks.as_ref().map_or(1, |ranks| ranks.share().world as u64),
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

/// Seconds of training, in laps from one record to the next.
struct Clock {
    began: Instant,
    seconds_before: f64,
    lap_began: Instant,
    lap_step: u64,
    /// Of this lap, until its batches were there.
    waited: Duration,
}

/// What a lap took.
struct Lap {
    steps_per_s: f64,
    /// The share of it that passed until its batches were there.
    waited: f64,
    /// Of the whole run, earlier processes included.
    seconds: f64,
}

impl Clock {
    fn start(step: u64, seconds_before: f64) -> Self {
        let now = Instant::now();
        Self { began: now, seconds_before, lap_began: now, lap_step: step, waited: Duration::ZERO }
    }

    /// The next batch; the time until it is there counts as waiting.
    fn next<T>(&mut self, batches: &mut impl Iterator<Item = T>) -> Option<T> {
        let began = Instant::now();
        let batch = batches.next();
        self.waited += began.elapsed();
        batch
    }

    /// Ends the lap at `step`.
    fn lap(&mut self, step: u64) -> Lap {
        let now = Instant::now();
        let lap_seconds = (now - self.lap_began).as_secs_f64().max(1e-9);
        let lap = Lap {
            steps_per_s: (step - self.lap_step) as f64 / lap_seconds,
            waited: mem::take(&mut self.waited).as_secs_f64() / lap_seconds,
            seconds: self.seconds_before + (now - self.began).as_secs_f64(),
        };
        (self.lap_began, self.lap_step) = (now, step);
        lap
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
mod tests;
