//! Host memory that a CUDA device reads by itself.
#![expect(unsafe_code, reason = "shows the memory of a tensor as bytes")]

use tch::Tensor;

use crate::device;
use crate::ffi::{self, ShimError};

/// Page-locked bytes: the system does not move them, so a device can copy them while the host does something else.
///
/// They are libtorch's, which rounds a request up to a power of two and keeps what is dropped for the next request of
/// that size.
#[derive(Debug)]
pub struct PinnedBytes {
    /// The only tensor on this memory: uint8, contiguous, on the CPU.
    tensor: Tensor,
}

impl PinnedBytes {
    /// So many bytes, all 0.
    ///
    /// # Errors
    /// When CUDA is absent, or there is no such memory left.
    pub fn new(bytes: usize) -> Result<Self, ShimError> {
        device::reach(0)?;
        Ok(Self { tensor: ffi::pinned(bytes)? })
    }
}

impl AsRef<[u8]> for PinnedBytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the tensor is of bytes, which all were set to 0, dense and in host memory; this is its only owner and
        // writes only through `as_mut`, which excludes this borrow.
        unsafe { ffi::elements(&self.tensor) }
    }
}

impl AsMut<[u8]> for PinnedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_ref`; the borrow of the only owner is exclusive.
        unsafe { ffi::elements_mut(&self.tensor) }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_tensor() {
        let tensor = Tensor::zeros([5], (Kind::Uint8, Device::Cpu));
        let mut bytes = PinnedBytes { tensor: tensor.shallow_clone() };
        bytes.as_mut()[3] = 9;
        assert_eq!(bytes.as_ref(), [0, 0, 0, 9, 0]);
        assert_eq!(Vec::<u8>::try_from(tensor).unwrap(), [0, 0, 0, 9, 0]);
        assert!(PinnedBytes { tensor: Tensor::zeros([0], (Kind::Uint8, Device::Cpu)) }.as_ref().is_empty());
    }

    #[test]
    fn pinned_memory_is_pinned_or_says_why_not() {
        if let Err(problem) = device::open() {
            let error = PinnedBytes::new(8).unwrap_err().to_string();
            assert!(error.ends_with(&problem.to_string()), "{error}");
            assert!(ffi::pinned(8).is_err(), "the shim itself gave memory without CUDA");
            eprintln!("skipped: page-locked memory: {problem}");
            return;
        }
        let bytes = PinnedBytes::new(1000).unwrap();
        assert!(bytes.tensor.is_pinned(Device::Cuda(0)) && bytes.as_ref() == [0; 1000]);
        assert!(PinnedBytes::new(1 << 50).is_err());
    }
}
