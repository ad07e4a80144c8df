//! Bit-for-bit repeatable kernels on CUDA, at a price in speed.
//!
//! On the CPU every operator used here repeats its bits for a fixed number of threads without any switch.

use std::ffi::c_char;

use super::{ShimError, check};

unsafe extern "C" {
    fn empssl_set_deterministic(on: i32) -> *mut c_char;
}

/// Chooses between deterministic kernels (no cuDNN autotuning; operators without one fail by name) and the fastest.
/// Call it before the first tensor reaches a CUDA device.
///
/// # Errors
/// When libtorch refuses.
pub fn set_deterministic(on: bool) -> Result<(), ShimError> {
    // SAFETY: plain integer argument.
    check(unsafe { empssl_set_deterministic(i32::from(on)) })
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;

    #[test]
    fn an_operator_without_a_deterministic_kernel_fails_by_name_while_the_switch_is_on() {
        let put = || {
            let (mut to, index, values) = (Tensor::from(0.0), Tensor::from(0_i64), Tensor::from(1.0));
            to.f_put_(&index, &values, false).map(drop)
        };
        set_deterministic(true).unwrap();
        let refused = put();
        set_deterministic(false).unwrap();
        assert!(refused.unwrap_err().to_string().contains("put_ does not have a deterministic implementation"));
        put().unwrap();
    }
}
