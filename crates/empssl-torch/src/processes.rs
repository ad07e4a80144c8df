//! Several processes that compute together, on libtorch's own c10d.
//!
//! tch binds none of it, but libtorch_cpu holds the engine that PyTorch itself uses: a table of texts through which
//! processes meet (`TCPStore`) and Gloo, which lets them add and gather tensors of the CPU. For tensors of GPUs there is
//! NCCL, in an object that is opened when it is needed.
//!
//! - [`launch`]: which process this is, from the variables that `torchrun` and `srun` set, and which GPU it has;
//! - [`group`]: [`ProcessGroup`], what the processes do together;
//! - [`nccl`]: where NCCL's object is, and why it cannot be used when it cannot;
//! - [`buckets`]: [`GradientBuckets`], gradients that are summed while the backward pass goes on;
//! - `orders`: texts by which rank 0 says what all do next, however long it takes over it;
//! - [`watch`]: signs of life, from which a process learns which other one is missing.
//!
//! Every rank must ask for the same collectives in the same order. One that asks for none holds the others up until the
//! time-out, and then each of them fails with [`GroupError::Lost`], which says who it waited for.

pub mod buckets;
pub mod error;
pub mod group;
mod guard;
pub mod launch;
mod meeting;
pub mod nccl;
mod orders;
pub mod watch;

pub use buckets::GradientBuckets;
pub use error::GroupError;
pub use group::{Pending, ProcessGroup, Traffic};
pub use launch::Launch;

/// A port of this host that was free a moment ago.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> std::io::Result<u16> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
