//! Whoever looks at the network of a run leaves it as it was.

use std::sync::atomic::AtomicBool;

use empssl_model::{Mode, Network};
use empssl_train::{
    Checkpoint, CheckpointPlan, MemoryMode, Observer, Outcome, StepRecord, TrainConfig, TrainError, Trainer,
};
use tch::{Device, Kind, Tensor, no_grad};

use crate::batches;

/// Looks at the network after every third step and the eighth, as a monitor does.
#[derive(Default)]
struct Looks {
    features: Vec<Tensor>,
    recorded: Vec<u64>,
}

impl Observer for Looks {
    fn wants_network(&mut self, step: u64, n_steps: u64) -> bool {
        assert_eq!(n_steps, 10);
        step.is_multiple_of(3) || step == 8
    }

    fn on_network(&mut self, network: &Network) -> Result<(), TrainError> {
        let waves = Tensor::arange(8 * 3 * 16 * 16, (Kind::Float, network.device())).sin();
        self.features.push(no_grad(|| network.encode(&waves.view([8, 3, 16, 16]), Mode::Eval)));
        Ok(())
    }

    fn on_record(&mut self, record: &StepRecord) -> Result<(), TrainError> {
        self.recorded.push(record.step);
        Ok(())
    }
}

/// Ten steps from the weights that `state` holds; the state after them.
fn run(config: &TrainConfig, state: &Checkpoint, observer: &mut dyn Observer) -> Checkpoint {
    let mut trainer = batches::trainer(config.clone(), Device::Cpu);
    trainer.restore(state).unwrap();
    let outcome =
        trainer.run(&batches::source(), &CheckpointPlan::default(), &AtomicBool::new(false), observer).unwrap();
    assert_eq!((outcome, trainer.steps_done()), (Outcome::Finished, 10));
    trainer.checkpoint("")
}

#[test]
fn a_run_whose_network_is_looked_at_ends_in_the_bits_of_one_that_is_not() {
    for memory in [MemoryMode::Whole, MemoryMode::ByStage, MemoryMode::ByPatches(1)] {
        let config = TrainConfig { max_steps: Some(10), memory, ..batches::config(100) };
        let state = batches::trainer(config.clone(), Device::Cpu).checkpoint("");
        // A copy: the state shares its memory with the network it came from, which nobody trains.
        let plain = run(&config, &state, &mut ());
        let mut looks = Looks::default();
        let watched = run(&config, &state, &mut looks);
        assert_eq!(looks.recorded, [1, 3, 6, 8, 9, 10], "a step that is looked at has a record");
        let moved = looks.features.windows(2).all(|pair| pair[0] != pair[1]);
        assert!(looks.features.len() == 4 && moved, "the network is the one in training");
        // Weights, running statistics, the number of batches behind them, and momentum.
        assert!(plain.network.iter().any(|(name, _)| name.ends_with("num_batches_tracked")));
        assert!(plain.network != state.network && plain.network == watched.network, "{memory:?}");
        assert_eq!(plain.momentum, watched.momentum, "{memory:?}");
    }
}

/// Fails when it is shown the network.
struct Fails;

impl Observer for Fails {
    fn wants_network(&mut self, step: u64, _n_steps: u64) -> bool {
        step == 2
    }

    fn on_network(&mut self, _network: &Network) -> Result<(), TrainError> {
        Err(TrainError::Observer("no look".to_owned()))
    }
}

#[test]
fn an_observer_that_fails_ends_the_run() {
    let mut trainer: Trainer = batches::trainer(batches::config(100), Device::Cpu);
    let error = trainer.run(&batches::source(), &CheckpointPlan::default(), &AtomicBool::new(false), &mut Fails);
    assert_eq!((error.unwrap_err().to_string().as_str(), trainer.steps_done()), ("no look", 2));
}
