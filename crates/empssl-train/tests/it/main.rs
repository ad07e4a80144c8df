//! Integration tests of the training crate.
//!
//! - `step`: whole training steps against the official code (golden family `step`).

mod step;
