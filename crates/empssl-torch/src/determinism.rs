//! Bit-for-bit repeatable kernels on CUDA, at a price in speed.
//!
//! On the CPU every operator used here repeats its bits for a fixed number of threads without any switch.

use crate::ffi::{self, ShimError};

/// Chooses between deterministic kernels (no cuDNN autotuning; operators without one fail by name) and the fastest.
/// Call it before the first tensor reaches a CUDA device.
///
/// # Errors
/// When libtorch refuses.
pub fn set_deterministic(on: bool) -> Result<(), ShimError> {
    ffi::set_deterministic(on)
}

/// Whether deterministic kernels are demanded.
///
/// # Errors
/// When libtorch refuses.
pub fn is_deterministic() -> Result<bool, ShimError> {
    ffi::deterministic()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_read_back() {
        set_deterministic(true).unwrap();
        assert!(is_deterministic().unwrap());
        set_deterministic(false).unwrap();
        assert!(!is_deterministic().unwrap());
    }
}
