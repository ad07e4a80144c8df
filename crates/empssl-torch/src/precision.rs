//! TF32: whether float32 convolutions and products may run on tensor cores with a 10-bit mantissa.
//!
//! libtorch allows it in cuDNN by default and not in cuBLAS; a recipe's precision sets both, so that `fp32` means
//! float32 everywhere.

use crate::ffi::{self, ShimError};

/// The state of the two switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tf32 {
    /// Convolutions (cuDNN).
    pub convolutions: bool,
    /// Matrix products (cuBLAS).
    pub products: bool,
}

/// Reads the switches.
///
/// # Errors
/// When the switches were set by other code through libtorch's two interfaces in contradiction to each other.
pub fn tf32() -> Result<Tf32, ShimError> {
    let (convolutions, products) = ffi::tf32()?;
    Ok(Tf32 { convolutions, products })
}

/// Sets both switches, for the whole process.
///
/// # Errors
/// As [`tf32`].
pub fn set_tf32(allowed: bool) -> Result<(), ShimError> {
    ffi::set_tf32(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_switches_follow() {
        set_tf32(true).unwrap();
        assert_eq!(tf32().unwrap(), Tf32 { convolutions: true, products: true });
        set_tf32(false).unwrap();
        assert_eq!(tf32().unwrap(), Tf32 { convolutions: false, products: false });
    }
}
