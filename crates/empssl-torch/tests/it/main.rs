//! Several processes that compute together, as real processes: each test starts its own program anew for every rank.
//!
//! - `ranks`: how a test becomes several processes;
//! - `collectives`: sums, gathers, broadcasts, and the refusal of ranks that are not alike;
//! - `norm`: batch normalisation over ranks against that of one process;
//! - `buckets`: gradients summed during a backward pass;
//! - `lost`: ranks that are killed, halted, or fail.

mod buckets;
mod collectives;
mod lost;
mod norm;
mod ranks;
