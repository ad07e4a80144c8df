//! A backward pass that begins with a given gradient.
//!
//! tch begins one only at a single number. The detour, the gradient of `sum(y * g)`, makes two more tensors of the size
//! of `y`, which is what a step that is short of memory cannot spare.

use std::ffi::{c_char, c_void};

use tch::Tensor;

use super::check;
use crate::failure::TorchFailure;

unsafe extern "C" {
    fn empssl_backward(output: *const c_void, gradient: *const c_void) -> *mut c_char;
}

/// Sends `gradient`, of the shape and type of `output`, down the graph of `output`: it is added to the gradients of the
/// leaves, and the graph is freed, as by any backward pass.
///
/// # Errors
/// When memory runs out, `output` has no graph, or the gradient is not like it.
pub fn backward(output: &Tensor, gradient: &Tensor) -> Result<(), TorchFailure> {
    // SAFETY: a tch tensor points to an `at::Tensor`; both are borrowed for the length of the call, and libtorch takes
    // references of its own to what it keeps.
    let passed = check(unsafe { empssl_backward(output.as_ptr().cast(), gradient.as_ptr().cast()) });
    passed.map_err(|error| TorchFailure::of(&error.0))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn leaf() -> Tensor {
        (Tensor::arange(6, (Kind::Double, Device::Cpu)).view([2, 3]) * 0.7).set_requires_grad(true)
    }

    #[test]
    fn the_gradient_is_that_of_the_detour_and_adds_up() {
        let (ours, theirs) = (leaf(), leaf());
        let gradient = Tensor::from_slice(&[0.5, -1.0, 2.0]).expand([2, 3], false);
        for _ in 0..2 {
            backward(&ours.sin(), &gradient).unwrap();
            (theirs.sin() * &gradient).sum(Kind::Double).backward();
        }
        assert_eq!(ours.grad(), theirs.grad());
    }

    #[test]
    fn what_libtorch_refuses_is_an_error_in_one_line() {
        let graphless = backward(&Tensor::from_slice(&[1.0]), &Tensor::from_slice(&[1.0])).unwrap_err().to_string();
        assert!(graphless.contains("does not require grad") && !graphless.contains('\n'), "{graphless}");
        let shape = backward(&leaf().sin(), &Tensor::from_slice(&[1.0, 2.0])).unwrap_err().to_string();
        assert!(shape.contains("[2, 3]") && shape.contains("[2]"), "{shape}");
    }
}
