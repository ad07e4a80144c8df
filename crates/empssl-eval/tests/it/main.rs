//! The crate from outside.
//!
//! - `budget`: the memory of a process that builds banks and scores them.

mod budget;
