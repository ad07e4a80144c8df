//! How EMP-SSL moves: the optimizer, its schedule, checkpoints and the training loop.
//!
//! - [`lars`]: [`Lars`], layer-wise adaptive rate scaling around Nesterov SGD, as the official `LARSWrapper` does it;
//! - [`schedule`]: [`CosineSchedule`], the learning rate of each step, a pure function of the step;
//! - [`checkpoint`]: [`Checkpoint`], everything that a run needs to go on in another process;
//! - [`gradient`]: the gradient of a step, in one piece, stage by stage or part by part;
//! - [`keep`]: [`CheckpointFiles`], which checkpoints of a run stay, and which one it goes on from;
//! - [`memory`]: what a step needs, and what to say when there is too little;
//! - [`phase`] and [`measure`]: what a step is made of, how long each part takes and what the arithmetic would take;
//! - [`config`] and [`source`]: the settings of a run, and where its patches come from;
//! - [`ranks`]: [`Ranks`], several processes that share every batch;
//! - [`feed`]: [`Feed`], the way of the patches from the loader to the device, a step ahead on CUDA;
//! - [`trainer`]: [`Trainer`], the loop itself, to be read from top to bottom.
//!
//! **Invariant:** nothing here knows labels, accuracy or the format of recipes. Whoever wants to watch a run gives the
//! trainer an [`Observer`].

pub mod checkpoint;
mod clock;
pub mod config;
pub mod error;
pub mod feed;
pub mod gradient;
pub mod keep;
pub mod lars;
pub mod measure;
pub mod memory;
pub mod observer;
pub mod phase;
pub mod ranks;
pub mod schedule;
pub mod source;
pub mod trainer;

pub use checkpoint::{Checkpoint, Position, Versions};
pub use config::{CheckpointEvery, Length, TrainConfig};
pub use error::TrainError;
pub use feed::{Feed, Turn};
pub use gradient::{MemoryMode, Norms, StepPlan};
pub use keep::{CheckpointFiles, LastCheckpoint};
pub use lars::{Lars, LarsConfig};
pub use observer::{Observer, StepRecord};
pub use phase::Phase;
pub use ranks::{BatchNormOver, Ranks, Share};
pub use schedule::CosineSchedule;
pub use source::{BatchSource, network_input, patches_on};
pub use trainer::{CheckpointPlan, Outcome, Trainer};
