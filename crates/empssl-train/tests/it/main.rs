//! Integration tests of the training crate.
//!
//! - `cuda`: precision and layout on a CUDA device, where there is one;
//! - `memory`: peaks of a step in each memory mode, measured and estimated;
//! - `step`: whole training steps against the official code (golden family `step`).

mod cuda;
mod memory;
mod step;
