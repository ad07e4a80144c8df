//! Host memory that a CUDA device reads by itself.

use std::ffi::c_char;
use std::slice;

use tch::Tensor;

use super::{RawTensor, ShimError, check};
use crate::device;

unsafe extern "C" {
    fn empssl_pinned(bytes: usize, out: *mut RawTensor) -> *mut c_char;
}

/// Page-locked bytes: the system does not move them, so a device can copy them while the host does something else.
///
/// They are libtorch's, which rounds a request up to a power of two and keeps what is dropped for the next request of
/// that size.
#[derive(Debug)]
pub struct PinnedBytes {
    /// The only tensor on this memory: uint8, contiguous, on the CPU, without an address where it has no elements.
    tensor: Tensor,
}

impl PinnedBytes {
    /// So many bytes, all 0.
    ///
    /// # Errors
    /// When CUDA is absent, or there is no such memory left.
    pub fn new(bytes: usize) -> Result<Self, ShimError> {
        device::reach(0)?;
        allocate(bytes)
    }
}

fn allocate(bytes: usize) -> Result<PinnedBytes, ShimError> {
    let mut tensor = std::ptr::null_mut();
    // SAFETY: the pointer is to a live local of the declared type.
    check(unsafe { empssl_pinned(bytes, &mut tensor) })?;
    // SAFETY: the shim made the tensor with `new`, as tch makes its own, and hands it over.
    Ok(PinnedBytes { tensor: unsafe { Tensor::from_ptr(tensor.cast()) } })
}

impl AsRef<[u8]> for PinnedBytes {
    fn as_ref(&self) -> &[u8] {
        if self.tensor.numel() == 0 {
            return &[];
        }
        // SAFETY: the tensor is of bytes, which all were set to 0, dense and in host memory, and lives as long as this
        // borrow; this is its only owner and writes only through `as_mut`, which excludes this borrow.
        unsafe { slice::from_raw_parts(self.tensor.data_ptr().cast_const().cast(), self.tensor.numel()) }
    }
}

impl AsMut<[u8]> for PinnedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        if self.tensor.numel() == 0 {
            return &mut [];
        }
        // SAFETY: as in `as_ref`; the borrow of the only owner is exclusive.
        unsafe { slice::from_raw_parts_mut(self.tensor.data_ptr().cast(), self.tensor.numel()) }
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
            assert!(allocate(8).is_err(), "the shim itself gave memory without CUDA");
            eprintln!("skipped: page-locked memory: {problem}");
            return;
        }
        let bytes = PinnedBytes::new(1000).unwrap();
        assert!(bytes.tensor.is_pinned(Device::Cuda(0)) && bytes.as_ref() == [0; 1000]);
        assert!(PinnedBytes::new(1 << 50).is_err());
    }
}
