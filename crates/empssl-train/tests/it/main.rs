//! Integration tests of the training crate.
//!
//! - `batches`: patches that are sent ahead to a CUDA device, where there is one;
//! - `cuda`: precision and layout on a CUDA device, where there is one;
//! - `hosts`: two hosts, and what is told when one dies or the link is cut;
//! - `memory`: peaks of a step in each memory mode, measured and estimated;
//! - `ranks`: several processes against one, as real processes;
//! - `step`: whole training steps against the official code (golden family `step`);
//! - `watched`: runs whose network somebody looks at.

mod batches;
mod cuda;
mod hosts;
mod memory;
mod ranks;
mod step;
mod watched;
