//! Gradients that are summed over the ranks while the backward pass goes on.

use tch::Tensor;

use super::error::GroupError;
use super::group::ProcessGroup;
use crate::ffi::RawBuckets;

/// The gradients of a network's parameters, in flat buckets that travel one by one.
///
/// The backward pass gives the gradients of the last layers first. As soon as a bucket's last gradient has arrived it
/// is sent, and travels while the pass goes on with the layers before. Buckets are sent in one order on every rank.
#[derive(Debug)]
pub struct GradientBuckets {
    raw: RawBuckets,
}

impl GradientBuckets {
    /// Numbers of a bucket, in bytes, where nothing speaks for another size: PyTorch's.
    pub const BYTES: usize = 25 << 20;

    /// Watches over `parameters`, leaves that require gradients, in the order of the forward pass and alike on every
    /// rank.
    ///
    /// # Errors
    /// [`GroupError::Refused`] when one is no such leaf.
    pub fn new(group: &ProcessGroup, parameters: &[&Tensor], bytes: usize) -> Result<Self, GroupError> {
        Ok(Self { raw: RawBuckets::new(group.raw(), parameters, bytes)? })
    }

    /// To be called before the last backward pass of a step: from now on each gradient that arrives is sent.
    pub fn arm(&mut self) {
        self.raw.arm();
    }

    /// Sends what is left, waits, and puts the sums in the gradients' places.
    ///
    /// # Errors
    /// [`GroupError::Collective`] when a rank has ended or did not come within the time-out.
    pub fn finish(&mut self) -> Result<(), GroupError> {
        self.raw.finish().map_err(GroupError::Collective)
    }
}
