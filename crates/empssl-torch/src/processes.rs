//! Several processes that compute together, on libtorch's own c10d.
//!
//! tch binds none of it, but libtorch_cpu holds the engine that PyTorch itself uses: a table of texts through which
//! processes meet (`TCPStore`) and Gloo, which lets them add and gather tensors of the CPU. For tensors of GPUs there is
//! NCCL, in an object that is opened when it is needed.
//!
//! - [`launch`]: which process this is, from the variables that `torchrun` and `srun` set, and which GPU it has;
//! - [`group`]: [`ProcessGroup`], what the processes do together, and [`GradientBuckets`], gradients that are summed while
//!   the backward pass goes on;
//! - [`nccl`]: where NCCL's object is, and why it cannot be used when it cannot.
//!
//! Every rank must ask for the same collectives in the same order. Where a rank has ended, the others' next collective
//! fails at once; where one does not come, it fails after the time-out ([`GroupError::Collective`]). Of a GPU's
//! collectives c10d's own watchdog says so and ends the process.

pub mod error;
pub mod group;
pub mod launch;
pub mod nccl;
mod rendezvous;

pub use error::GroupError;
pub use group::{GradientBuckets, ProcessGroup};
pub use launch::Launch;

pub use crate::ffi::Traffic;

/// A port of this host that was free a moment ago.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> std::io::Result<u16> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
