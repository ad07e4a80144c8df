//! What is due after a step, and when.

use std::time::Instant;

use crate::config::CheckpointEvery;

/// What is done after a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StepActions {
    /// Read the metrics and give the observer their record.
    pub(crate) log: bool,
    /// Show the observer the network.
    pub(crate) show: bool,
    /// Save the checkpoint that a run goes on from.
    pub(crate) checkpoint: bool,
    /// Keep a checkpoint of so many epochs for good.
    pub(crate) snapshot: Option<u64>,
    /// End the run before its last step.
    pub(crate) stop: bool,
}

/// When the checkpoint is saved, besides at the end of a run.
pub(crate) struct CheckpointPolicy {
    every: Option<CheckpointEvery>,
    last_save: Instant,
}

impl CheckpointPolicy {
    pub(crate) fn new(every: Option<CheckpointEvery>) -> Self {
        Self { every, last_save: Instant::now() }
    }

    pub(crate) fn is_due(&self, step: u64) -> bool {
        self.is_due_at(step, Instant::now())
    }

    fn is_due_at(&self, step: u64, now: Instant) -> bool {
        match self.every {
            Some(CheckpointEvery::Steps(steps)) => step.is_multiple_of(steps),
            Some(CheckpointEvery::Time(time)) => now.duration_since(self.last_save) >= time,
            None => false,
        }
    }

    /// Takes note of what was saved.
    pub(crate) fn saved(&mut self, actions: StepActions) {
        if actions.checkpoint {
            self.last_save = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn checkpoints_fall_due_by_steps_or_by_time() {
        let due = |every, step| CheckpointPolicy::new(every).is_due(step);
        assert!(
            !due(None, 10) && due(Some(CheckpointEvery::Steps(5)), 10) && !due(Some(CheckpointEvery::Steps(5)), 11)
        );
        let minute = Duration::from_secs(60);
        let mut policy = CheckpointPolicy::new(Some(CheckpointEvery::Time(minute)));
        let before = policy.last_save;
        let later = before + minute;
        assert!(!policy.is_due_at(1, before) && policy.is_due_at(2, later) && policy.is_due_at(3, later));
        policy.saved(StepActions { snapshot: Some(1), ..StepActions::default() });
        assert_eq!(policy.last_save, before, "a snapshot is no checkpoint to go on from");
        policy.saved(StepActions { checkpoint: true, ..StepActions::default() });
        assert!(!policy.is_due_at(4, policy.last_save) && policy.is_due_at(5, policy.last_save + minute));
    }
}
