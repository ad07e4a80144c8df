//! How EMP-SSL moves: the optimizer, its schedule, checkpoints and the training loop.
//!
//! - [`lars`]: [`Lars`], layer-wise adaptive rate scaling around Nesterov SGD, as the official `LARSWrapper` does it;
//! - [`schedule`]: [`CosineSchedule`], the learning rate of each step, a pure function of the step;
//! - [`checkpoint`]: [`Checkpoint`], everything that a run needs to go on in another process;
//! - [`checkpoint_files`]: [`CheckpointFiles`], which checkpoints of a run stay, and which one it goes on from;
//! - [`gradient`]: the gradient of a step, in one piece, stage by stage or part by part;
//! - [`memory`]: what a step needs, and what to say when there is too little;
//! - [`measure`]: how long each phase of a step takes, and what its arithmetic would take;
//! - [`config`]: the settings of a run;
//! - [`ranks`]: [`Ranks`], several processes that share every batch;
//! - [`batches`]: [`DevicePrefetcher`], the batches of a run on its device, sent a step ahead;
//! - [`trainer`]: [`Trainer`], the loop itself, to be read from top to bottom.
//!
//! **Invariant:** nothing here knows labels, accuracy or the format of recipes. Whoever wants to watch a run gives the
//! trainer an [`Observer`].

pub mod batches;
pub mod checkpoint;
pub mod checkpoint_files;
pub mod config;
pub mod error;
pub mod gradient;
pub mod lars;
pub mod measure;
pub mod memory;
pub mod observer;
mod policy;
pub mod ranks;
pub mod schedule;
pub mod trainer;

pub use batches::{BatchSource, DevicePrefetcher, StepBatch};
pub use checkpoint::{Checkpoint, Position, Versions};
pub use checkpoint_files::{CheckpointFiles, LastCheckpoint};
pub use config::{BatchNormOver, CheckpointEvery, Length, MemoryMode, TrainConfig};
pub use error::TrainError;
pub use gradient::{BatchNormStats, StepPlan};
pub use lars::{Lars, LarsConfig};
pub use observer::{Observer, StepRecord};
pub use ranks::{Ranks, Share};
pub use schedule::CosineSchedule;
pub use trainer::{CheckpointPlan, Outcome, Trainer};
