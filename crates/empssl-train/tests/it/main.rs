//! Integration tests of the training crate.
//!
//! - `cuda`: precision and layout on a CUDA device, where there is one;
//! - `feed`: patches that are sent ahead to a CUDA device, and what a run reads from its device;
//! - `memory`: peaks of a step in each memory mode, measured and estimated;
//! - `step`: whole training steps against the official code (golden family `step`);
//! - `watched`: runs whose network somebody looks at.

mod cuda;
mod feed;
mod memory;
mod step;
mod watched;
