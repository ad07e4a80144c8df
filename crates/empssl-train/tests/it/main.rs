//! Integration tests of the training crate.
//!
//! - `memory`: peaks of a step in each memory mode, measured and estimated;
//! - `step`: whole training steps against the official code (golden family `step`).

mod memory;
mod step;
