//! Whole runs in miniature.

use std::path::{Path, PathBuf};
use std::time::Duration;

use empssl_data::{Dataset, OnBadImage, OpenOptions, PatchConfig, PatchSampler, Split};
use empssl_loss::EmpSslLossConfig;
use empssl_model::{NetworkConfig, ResNetConfig, Stem};

use super::*;
use crate::config::tests::config;
use crate::config::{CheckpointEvery, Length, MemoryMode};
use crate::measure::tests::spans_of;

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
    let network = NetworkConfig { resnet, hidden: 16, projection: 8 };
    let network = Network::new(&network, 3, Kind::Float, Device::Cpu).unwrap();
    let loss = EmpSslLoss::new(&EmpSslLossConfig::paper()).unwrap();
    Trainer::new(network, loss, &LarsConfig::paper(), config, 14).unwrap()
}

fn run(trainer: &mut Trainer, folder: Option<&Path>, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
    let plan =
        CheckpointPlan { files: folder.map(CheckpointFiles::new), recipe: "recipe".to_owned(), seconds_before: 1000.0 };
    trainer.run(&source(), &plan, &AtomicBool::new(false), observer)
}

/// Keeps the records.
#[derive(Default)]
struct Records(Vec<StepRecord>);

impl Observer for Records {
    fn on_record(&mut self, record: &StepRecord) -> Result<(), TrainError> {
        self.0.push(record.clone());
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
    for record in records.0 {
        let [(invariance, cosine), (coding_rate, rate)] = record.parts[..] else { panic!("{:?}", record.parts) };
        assert_eq!((invariance, coding_rate), ("invariance", "coding_rate"));
        assert!((200.0 * cosine - rate - record.loss).abs() < 1e-3 && record.loss < 0.0);
    }
}

#[test]
fn a_run_opens_the_spans_of_every_phase_of_every_step() {
    let mut trainer = trainer(TrainConfig { max_steps: Some(2), ..config() });
    let (outcome, spans) = spans_of(|| run(&mut trainer, None, &mut ()));
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    let sent = ["data wait", "copy"];
    let step = ["copy", "step", "forward", "loss", "backward", "optimizer"];
    // The first batch is sent, and then always the next before a step; after the last batch the loader has no more.
    let expected = [&sent[..], &sent, &step, &["data wait"], &step, &["data wait"]].concat();
    assert_eq!(spans, expected);
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
