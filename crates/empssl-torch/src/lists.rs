//! Operators over whole lists of tensors, which tch does not bind.
//!
//! On a GPU each is a handful of launches however long the lists are, as long as the tensors of a place have the same
//! type, sizes and strides. On the CPU libtorch goes through the lists with one operator a tensor.
//! Nothing here records gradients, and parameters may require them.

use tch::Tensor;

use crate::ffi::{self, ShimError};

/// Writes the 2-norm of every tensor, computed in the type of `out`, into `out`, which is as long as the list.
///
/// # Errors
/// When libtorch refuses: an empty list, tensors that are not floating-point.
pub fn norms(out: &Tensor, tensors: &[&Tensor]) -> Result<(), ShimError> {
    ffi::norms(out, tensors)
}

/// `to[i] = from[i]`.
///
/// # Errors
/// When the lists are not of one length, or libtorch refuses a pair.
pub fn copy(to: &[&Tensor], from: &[&Tensor]) -> Result<(), ShimError> {
    ffi::copy(to, from)
}

/// `to[i] += factor * terms[i]`.
///
/// # Errors
/// When the lists are not of one length, or libtorch refuses a pair.
pub fn add(to: &[&Tensor], terms: &[&Tensor], factor: f64) -> Result<(), ShimError> {
    ffi::add(to, terms, factor)
}

/// How a step of gradient descent moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Descent {
    /// The rate.
    pub lr: f64,
    /// Share of the momentum buffer that survives.
    pub momentum: f64,
    /// Whether the step looks ahead along the momentum.
    pub nesterov: bool,
}

/// One step of gradient descent: `buffer = momentum * buffer + gradient`, then `parameter -= lr * buffer`, or
/// `lr * (gradient + momentum * buffer)` with `nesterov`. Without a momentum the buffers are left alone.
///
/// # Errors
/// When the lists are not of one length, or libtorch refuses.
pub fn descend(
    parameters: &[&Tensor],
    gradients: &[&Tensor],
    buffers: &[&Tensor],
    step: Descent,
) -> Result<(), ShimError> {
    ffi::sgd([parameters, gradients, buffers], step.lr, step.momentum, step.nesterov)
}

/// Forgets the gradients of `parameters`, as PyTorch's `zero_grad` does by default: the next backward pass hands its
/// own over, with nothing to clear and nothing to add up.
pub fn drop_gradients(parameters: &[&Tensor]) {
    ffi::drop_gradients(parameters);
}

/// `out = term + factor * dividend / divisor`; tch's `addcdiv` has no factor.
///
/// # Errors
/// When libtorch refuses.
pub fn add_quotient(
    out: &Tensor,
    term: &Tensor,
    dividend: &Tensor,
    divisor: &Tensor,
    factor: f64,
) -> Result<(), ShimError> {
    ffi::addcdiv(out, [term, dividend, divisor], factor)
}

/// Whether the elements fill a piece of memory without gaps and without overlap, in whatever order.
pub fn is_dense(tensor: &Tensor) -> bool {
    let sizes = tensor.size();
    let mut dims: Vec<_> = tensor.stride().into_iter().zip(sizes).filter(|(_, size)| *size != 1).collect();
    dims.sort_unstable();
    let mut filled = 1;
    let mut fits = true;
    for (stride, size) in dims {
        fits &= stride == filled;
        filled *= size;
    }
    fits || tensor.numel() == 0
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn tensor(values: &[f64]) -> Tensor {
        Tensor::from_slice(values)
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.detach()).unwrap()
    }

    #[test]
    fn lists_are_treated_element_by_element() {
        let (a, b) = (tensor(&[3.0, 4.0]), tensor(&[2.0]));
        let out = Tensor::zeros([2], (Kind::Double, Device::Cpu));
        norms(&out, &[&a, &b]).unwrap();
        assert_eq!(values(&out), [5.0, 2.0]);
        // In float32 these squares overflow, or add nothing to the first.
        let long = Tensor::from_slice(&[1e30f32, 1.0]);
        norms(&out, &[&long, &Tensor::from_slice(&[4096.0f32, 0.5])]).unwrap();
        assert_eq!(values(&out), [f64::from(1e30f32), (4096.0f64 * 4096.0 + 0.25).sqrt()]);
        let (to, other) = (tensor(&[0.0, 0.0]), tensor(&[0.0]));
        copy(&[&to, &other], &[&a, &b]).unwrap();
        add(&[&to, &other], &[&a, &b], -0.5).unwrap();
        assert_eq!((values(&to), values(&other)), (vec![1.5, 2.0], vec![1.0]));
        add_quotient(&to, &a, &a, &tensor(&[2.0, 8.0]), 10.0).unwrap();
        assert_eq!(values(&to), [18.0, 9.0]);
    }

    #[test]
    fn a_descent_moves_leaves_of_a_graph_in_place() {
        let moved = |momentum, nesterov| {
            let parameter = tensor(&[1.0]).set_requires_grad(true);
            let (gradient, buffer) = (tensor(&[2.0]), tensor(&[10.0]));
            let step = Descent { lr: 0.1, momentum, nesterov };
            descend(&[&parameter], &[&gradient], &[&buffer], step).unwrap();
            assert!(parameter.requires_grad());
            [values(&parameter)[0], values(&buffer)[0]].map(|value| (value * 1e9).round() / 1e9)
        };
        assert_eq!(moved(0.5, false), [0.3, 7.0]);
        assert_eq!(moved(0.5, true), [0.45, 7.0]);
        assert_eq!(moved(0.0, false), [0.8, 10.0]);
    }

    #[test]
    fn dropped_gradients_are_gone() {
        let parameter = tensor(&[1.0]).set_requires_grad(true);
        (&parameter * 2.0).sum(Kind::Double).backward();
        assert!(parameter.grad().defined());
        drop_gradients(&[&parameter]);
        assert!(!parameter.grad().defined());
    }

    #[test]
    fn lists_that_do_not_pair_and_operators_that_throw_are_errors() {
        let (a, b) = (tensor(&[1.0]), tensor(&[1.0, 2.0, 3.0]));
        let step = Descent { lr: 0.1, momentum: 0.0, nesterov: false };
        for refused in [copy(&[&a], &[]), add(&[], &[&a], 1.0), descend(&[&a], &[&a], &[], step)] {
            assert!(refused.unwrap_err().to_string().ends_with("tensors do not pair"));
        }
        assert!(copy(&[&tensor(&[1.0, 2.0])], &[&b]).unwrap_err().to_string().starts_with("libtorch: "));
        assert!(norms(&a, &[]).is_err());
    }

    #[test]
    fn dense_means_without_gaps_in_any_order() {
        let tensor = Tensor::arange(120, (Kind::Float, Device::Cpu)).view([2, 3, 4, 5]);
        let channels_last = tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        assert!(is_dense(&tensor) && is_dense(&channels_last) && is_dense(&tensor.select(0, 1)));
        assert!(
            !is_dense(&tensor.select(3, 1)) && !is_dense(&tensor.select(0, 0).unsqueeze(0).expand([2, 3, 4, 5], false))
        );
        assert!(is_dense(&tensor.narrow(0, 0, 0)) && is_dense(&Tensor::from(1.0)));
    }
}
