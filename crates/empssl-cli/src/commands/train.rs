//! `empssl train`: from a recipe and images to a run folder with a checkpoint.

use std::path::{Path, PathBuf};

use empssl_data::{Dataset, SETS, Split};
use empssl_report::outline::TRAINING_OVER_FORWARD;
use empssl_torch::processes::ProcessGroup;
use empssl_train::{BatchSource, CheckpointEvery, CheckpointPlan, Outcome, StepRecord, TrainConfig, Trainer, Versions};
use tch::Device;

use crate::args::{TrainArgs, TrainOptions};
use crate::config::Run;
use crate::error::CliError;
use crate::host;
use crate::images;
use crate::machine;
use crate::monitor::{self, Monitor};
use crate::network::{batch_source, build_trainer, model_summary, new_identity};
use crate::print;
use crate::progress::TrainProgress;
use crate::ranks::{self, Among, Member, Role};
use crate::report::{PeakBytes, RunIdentity, Segment, data_identity};
use crate::run::folder::{self, RunFolder, RunLock, read_json, write_json};
use crate::run::resume;
use crate::run::saved::SavedRun;
use crate::run::segments;
use crate::signals::Stop;

/// Metrics are read and logged every so many steps when nobody asks for another number.
const LOG_EVERY: u64 = 10;
/// Checkpoints when nobody asks for others.
const CHECKPOINT_EVERY: CheckpointEvery = CheckpointEvery::Steps(200);

pub(crate) fn run(mut args: TrainArgs) -> Result<(), CliError> {
    if let Some(path) = &args.resume {
        let identity: RunIdentity = read_json(&RunFolder::open(path)?.identity())?;
        if let Some(last) = identity.segments.last() {
            args.options = args.options.or(&last.options);
        }
    }
    match args.ranks.role()? {
        Role::Supervise(nproc) => args.ranks.supervise(nproc, args.options.compute.choice()),
        Role::Work(None) => train(&args, None),
        Role::Work(Some(member)) => {
            let device = machine::prepare(&ranks::compute(&args.options.compute, Some(&member))?)?;
            let group = member.join(device)?;
            let outcome = train(&args, Some((&member, &group)));
            ranks::part(group, outcome)
        }
    }
}

fn train(args: &TrainArgs, among: Among<'_>) -> Result<(), CliError> {
    let member = among.map(|(member, _)| member);
    let note = "\nstopping after this step; press Ctrl-C again to leave without saving";
    let stop = Stop::watch(if ranks::is_first(member) { note } else { "" })?;
    if let Some(member) = member {
        let stop = stop.clone();
        member.watch_parent(move || stop.ask());
    }
    let job = match &args.resume {
        Some(folder) => Job::resumed(args, folder, among)?,
        None => Job::fresh(args, among)?,
    };
    job.train(args, &stop)
}

/// A training run that is ready to begin or to go on.
struct Job<'a> {
    folder: RunFolder,
    /// Held until the job ends, by the one process that writes.
    lock: Option<RunLock>,
    group: Option<&'a ProcessGroup>,
    run: Run,
    identity: RunIdentity,
    source: BatchSource,
    trainer: Trainer,
    device: Device,
}

impl<'a> Job<'a> {
    /// A new run. The folder is touched only once everything else is known to be possible.
    fn fresh(args: &TrainArgs, among: Among<'a>) -> Result<Self, CliError> {
        let member = among.map(|(member, _)| member);
        let path = args.recipe.as_deref().ok_or_else(|| CliError::Recipe("--recipe is needed".to_owned()))?;
        let (run, images) = images::run_of(path, &args.set, args.dataset.as_ref(), &args.images)?;
        let device = machine::prepare(&ranks::compute(&args.options.compute, member)?)?;
        let dataset = images.open(Split::Train)?;
        let mut trainer = new_trainer(&run, args, args.seed, &dataset, device, member)?;
        join(&mut trainer, among, &run, &dataset)?;
        let data = data_identity(&dataset, images);
        let model = model_summary(&run, trainer.n_steps(), trainer.n_epochs());
        let identity = RunIdentity { model, ..new_identity(&run, args.seed, data, machine::describe(device)) };
        let path = args.out.clone().unwrap_or_else(|| default_folder(&identity));
        let source = |dataset| batch_source(&run, dataset, ranks::workers(args.options.workers, member));
        let group = among.map(|(_, group)| group);
        if !ranks::is_first(member) {
            let (folder, source) = (RunFolder::of_another(&path), source(dataset));
            return Ok(Self { folder, lock: None, group, run, identity, source, trainer, device });
        }
        let (folder, lock) = RunFolder::create(&path, args.force)?;
        folder::write_file(&folder.recipe(), run.config.to_toml().as_bytes())?;
        let source = source(dataset);
        let mut job = Self { folder, lock: Some(lock), group, run, identity, source, trainer, device };
        // With these two files a run that is killed can go on; what takes longer comes after them.
        job.begin(args)?;
        images::draw_patches(&job.source.dataset, &job.run.sampler, args.seed, &job.folder.patches())?;
        Ok(job)
    }

    /// A run that was stopped, at its last checkpoint.
    fn resumed(args: &TrainArgs, path: &Path, among: Among<'a>) -> Result<Self, CliError> {
        let member = among.map(|(member, _)| member);
        let is_first = ranks::is_first(member);
        let lock = RunFolder::open(path).and_then(|folder| is_first.then(|| folder.lock()).transpose())?;
        let saved = SavedRun::open(path, args.images.data.as_deref(), &args.set)?;
        saved.check_trained()?;
        let device = machine::prepare(&ranks::compute(&args.options.compute, member)?)?;
        let (checkpoint, is_newest_damaged) = saved.last_checkpoint()?;
        if checkpoint.is_none() {
            saved.demand_stored_recipe()?;
        }
        let dataset = saved.training_images()?;
        let SavedRun { folder, mut identity, run } = saved;
        let mut trainer = new_trainer(&run, args, identity.seed, &dataset, device, member)?;
        if let Some(checkpoint) = checkpoint {
            trainer.restore(&checkpoint)?;
            let notes = resume::notes(&checkpoint, tch::get_num_threads() as u64, &Versions::running());
            let world = ranks::share(member).0.world as u64;
            let on_ranks = resume::note_on_ranks(checkpoint.world, world, run.config.training.batch_norm)?;
            let notes = notes.iter().chain(&on_ranks).filter(|_| is_first);
            notes.for_each(print::note);
        }
        // All have read the folder when they have met; only then does the first write there.
        join(&mut trainer, among, &run, &dataset)?;
        let source = batch_source(&run, dataset, ranks::workers(args.options.workers, member));
        let group = among.map(|(_, group)| group);
        if !is_first {
            return Ok(Self { folder, lock, group, run, identity, source, trainer, device });
        }
        folder.checkpoints().remove_leftovers()?;
        if is_newest_damaged {
            folder.checkpoints().set_newest_aside()?;
        }
        if !args.set.is_empty() {
            folder::write_file(&folder.recipe(), run.config.to_toml().as_bytes())?;
        }
        identity.machine = machine::describe(device);
        identity.model = model_summary(&run, trainer.n_steps(), trainer.n_epochs());
        identity.command = format!("{}; {}", identity.command, host::command_line());
        let mut job = Self { folder, lock, group, run, identity, source, trainer, device };
        job.begin(args)?;
        Ok(job)
    }

    fn train(mut self, args: &TrainArgs, stop: &Stop) -> Result<(), CliError> {
        if self.lock.is_none() {
            let plan = CheckpointPlan::default();
            let outcome = self.trainer.run(&self.source, &plan, stop.flag(), &mut ())?;
            return self.end(outcome, stop);
        }
        self.announce(args);
        machine::reset_peaks(self.device)?;
        let (first_step, n_steps) = (self.trainer.steps_done(), self.trainer.n_steps());
        // What the ranks said to begin alike is no part of a step.
        let said_before = self.group.map(ProcessGroup::traffic).unwrap_or_default();
        let monitor = self.monitor(&args.options)?;
        let mut progress = TrainProgress::new(&self.folder.metrics(), first_step, n_steps, monitor)?;
        progress.evaluation_steps = self.evaluation_steps();
        let plan = CheckpointPlan {
            files: Some(self.folder.checkpoints()),
            recipe: self.run.config.to_toml(),
            seconds_before: progress.seconds_before,
        };
        let outcome = self.trainer.run(&self.source, &plan, stop.flag(), &mut progress);
        let (last, seconds_before, checking) =
            (progress.last.take(), progress.seconds_before, progress.seconds_of_checks);
        drop(progress);
        // First of all: after a failure the device may answer nothing else.
        let outcome = outcome?;
        if let Some(group) = self.group {
            let steps = self.trainer.steps_done() - first_step;
            print::line(ranks::summary(group, group.traffic().since(said_before), steps));
        }
        self.note(last.as_ref().map_or(seconds_before, |last| last.seconds), machine::peaks(self.device)?)?;
        if outcome == Outcome::Finished {
            self.conclude(last, checking);
        }
        self.end(outcome, stop)
    }

    /// The features that evaluation takes, as so many steps of training; nothing where nobody knows how many test images
    /// there are.
    fn evaluation_steps(&self) -> Option<f64> {
        let (set, evaluation) = (&self.source.dataset, &self.run.config.evaluation);
        let [n_train, n_test] = SETS.iter().find(|known| known.name == set.name())?.counts?;
        let scored = n_test as f64 * set.len() as f64 / n_train as f64;
        let images = scored + evaluation.labelled_images.min(set.len()) as f64;
        let patches = images * evaluation.patches_an_image() as f64;
        Some(patches / (TRAINING_OVER_FORWARD * self.identity.model.patches_a_step() as f64))
    }

    /// How the job ended, for whoever waits for it.
    fn end(&self, outcome: Outcome, stop: &Stop) -> Result<(), CliError> {
        match outcome {
            Outcome::Finished => Ok(()),
            Outcome::Interrupted => {
                let (step, path) = (self.trainer.steps_done(), self.folder.checkpoints().newest());
                let run = self.folder.path().display().to_string();
                Err(CliError::Interrupted { by: stop.by(), step, path, run })
            }
        }
    }

    /// Who looks at the features meanwhile.
    fn monitor(&self, options: &TrainOptions) -> Result<Option<Monitor>, CliError> {
        if options.no_monitor {
            return Ok(None);
        }
        let model = &self.identity.model;
        let job = monitor::Job {
            n_steps: self.trainer.n_steps(),
            patches_at_once: (model.norm_patches * model.batch_size) as i64,
        };
        let BatchSource { dataset, n_workers, .. } = &self.source;
        Monitor::new(&self.run, dataset, self.identity.seed, self.device, *n_workers, options.monitor_every, job)
    }

    /// Writes into `run.json` how far training has come.
    fn note(&mut self, seconds: f64, peaks: PeakBytes) -> Result<(), CliError> {
        let training = &mut self.identity.training;
        training.finished = self.trainer.is_complete();
        training.peak_bytes = training.peak_bytes.max(peaks);
        training.steps = self.trainer.steps_done();
        training.seconds = seconds;
        let patches = training.steps * self.identity.model.patches_a_step();
        training.patches_per_s = patches as f64 / seconds.max(1e-9);
        segments::end(&mut self.identity.segments, self.trainer.steps_done());
        write_json(&self.folder.identity(), &self.identity)
    }

    /// Writes into `run.json` what this process is about to do.
    fn begin(&mut self, args: &TrainArgs) -> Result<(), CliError> {
        let segment = Segment {
            began: host::utc_now(),
            ended: None,
            host: host::name(),
            machine: self.identity.machine.clone(),
            workers: self.source.n_workers,
            ranks: self.group.map_or(1, ProcessGroup::world),
            options: args.options.clone(),
            changes: args.set.clone(),
            command: host::command_line(),
            from_step: self.trainer.steps_done(),
            to_step: None,
        };
        segments::begin(&mut self.identity.segments, segment);
        write_json(&self.folder.identity(), &self.identity)
    }

    fn announce(&self, args: &TrainArgs) {
        let model = &self.identity.model;
        print::line(format_args!(
            "{}: {} images, recipe {}, {} parameters, {} steps of {} x {} patches on {}",
            self.source.dataset.name(),
            self.source.dataset.len(),
            self.identity.recipe,
            model.parameters,
            self.trainer.n_steps(),
            model.batch_size,
            model.n_patches,
            self.identity.machine.device_name
        ));
        if let Some(group) = self.group {
            let (world, here) = (group.world(), group.local_world());
            let norms = self.run.config.training.batch_norm;
            print::line(format_args!(
                "{world} ranks, {here} of them on this host, share every batch; BatchNorm is {norms}; tensors go by {}",
                group.engines()
            ));
        }
        if let Some(max_steps) = args.max_steps {
            print::line(format_args!("trial: {max_steps} steps at most"));
        }
        let (set, evaluation) = (&self.source.dataset, &self.run.config.evaluation);
        let labelled = set.labels().map(|labels| labels.len().min(evaluation.labelled_images));
        if let Some(Err(reason)) = labelled.map(|n| self.run.check_labelled(n)) {
            print::note(format_args!("`empssl eval` will refuse this run: {reason}"));
        }
        for bad in set.skipped() {
            print::line(format_args!("left out {}: {}", bad.path.display(), bad.reason));
        }
    }

    fn conclude(&self, last: Option<StepRecord>, seconds_of_checks: f64) {
        let training = &self.identity.training;
        let loss = last.map_or(String::new(), |last| format!(", loss {:.2}", last.loss));
        print::line(format_args!(
            "trained {} steps in {:.1} s ({:.0} patches/s, {seconds_of_checks:.1} s of kNN){loss}; saved in {}",
            training.steps,
            training.seconds,
            training.patches_per_s,
            self.folder.path().display()
        ));
    }
}

/// Lets the trainers of all ranks train together, once it is clear that they are about to do the same.
fn join(trainer: &mut Trainer, among: Among<'_>, run: &Run, dataset: &Dataset) -> Result<(), CliError> {
    let Some((_, group)) = among else { return Ok(()) };
    let images = format!("{} {} {:?}", dataset.name(), dataset.len(), dataset.fingerprint());
    let recipe = ranks::fingerprint(&run.config.to_toml());
    let facts = [("recipe", recipe), ("data set", ranks::fingerprint(&images)), ("--max-steps", trainer.n_steps())];
    Ok(trainer.join(group, run.config.training.batch_norm, &facts)?)
}

fn new_trainer(
    run: &Run,
    args: &TrainArgs,
    seed: u64,
    dataset: &Dataset,
    device: Device,
    member: Option<&Member>,
) -> Result<Trainer, CliError> {
    let config = TrainConfig {
        max_steps: args.max_steps,
        log_every: args.options.log_every.unwrap_or(LOG_EVERY),
        checkpoint_every: Some(args.options.checkpoint_every.unwrap_or(CHECKPOINT_EVERY)),
        ..run.train_config(seed)
    };
    let (share, here) = ranks::share(member);
    build_trainer(run, config, dataset, device, (share.world, here))
}

/// `runs/DATASET-RECIPE-sSEED`
fn default_folder(identity: &RunIdentity) -> PathBuf {
    Path::new("runs").join(format!("{}-{}-s{}", identity.data.name, identity.recipe, identity.seed))
}
