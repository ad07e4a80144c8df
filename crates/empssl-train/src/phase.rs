//! What a step is made of, for whoever wants to know where its time goes.

use std::fmt;

/// A part of a training step. A step runs through some of them several times, and each lasts until the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a batch of patches.
    DataWait,
    /// Handing the batch to the device.
    Copy,
    /// Bytes to numbers, and the network's first pass over them.
    Forward,
    /// The objective: its value, and its gradient with respect to the projections.
    Loss,
    /// Parts of the network run once more, where the memory mode kept no graph of them.
    Again,
    /// From the gradient of the projections to that of the parameters.
    Backward,
    /// The update of the parameters.
    Optimizer,
    /// What else belongs to a step: dropping the gradients of the last one, and the flag that watches for NaN.
    Other,
    /// Between two steps, where records are read and checkpoints written; no part of a step.
    Between,
}

impl Phase {
    /// The parts of a step.
    pub const OF_A_STEP: [Self; 8] = [
        Self::DataWait,
        Self::Copy,
        Self::Forward,
        Self::Loss,
        Self::Again,
        Self::Backward,
        Self::Optimizer,
        Self::Other,
    ];
}

/// As reports name it.
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::DataWait => "data wait",
            Self::Copy => "copy",
            Self::Forward => "forward",
            Self::Loss => "loss",
            Self::Again => "again",
            Self::Backward => "backward",
            Self::Optimizer => "optimizer",
            Self::Other => "other",
            Self::Between => "between",
        })
    }
}
