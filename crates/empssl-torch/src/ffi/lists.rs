//! Operators over whole lists of tensors, which tch does not bind.
//!
//! On a GPU each is a handful of launches however long the lists are, as long as the tensors of a place have the same
//! type, sizes and strides. On the CPU libtorch goes through the lists with one operator a tensor.
//! Nothing here records gradients, and parameters may require them.

use std::ffi::c_char;

use tch::Tensor;

use super::{RawTensor, ShimError, check, raw, raw_list};

unsafe extern "C" {
    fn empssl_lists_norms(tensors: *const RawTensor, n: usize, out: *mut RawTensor) -> *mut c_char;
    fn empssl_lists_copy(to: *const RawTensor, from: *const RawTensor, n: usize) -> *mut c_char;
    fn empssl_lists_add(to: *const RawTensor, terms: *const RawTensor, n: usize, factor: f64) -> *mut c_char;
    fn empssl_lists_sgd(
        parameters: *const RawTensor,
        gradients: *const RawTensor,
        buffers: *const RawTensor,
        n: usize,
        lr: f64,
        momentum: f64,
        nesterov: i32,
    ) -> *mut c_char;
    fn empssl_drop_gradient(parameter: RawTensor);
}

/// The 2-norm of every tensor, in float64: sums of millions of squares are exact enough in it alone.
///
/// # Errors
/// When libtorch refuses: an empty list, tensors that are not floating-point.
pub fn norms(tensors: &[&Tensor]) -> Result<Tensor, ShimError> {
    let (tensors, mut out) = (raw_list(tensors), std::ptr::null_mut());
    // SAFETY: the pointers are to live tensors, the list is as long as said, and the last pointer is to a live local.
    check(unsafe { empssl_lists_norms(tensors.as_ptr(), tensors.len(), &mut out) })?;
    // SAFETY: the shim made the tensor with `new`, as tch makes its own, and hands it over.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// `to[i] = from[i]`.
///
/// # Errors
/// When the lists are not of one length, or libtorch refuses a pair.
pub fn copy(to: &[&Tensor], from: &[&Tensor]) -> Result<(), ShimError> {
    check_lengths(to, from)?;
    let (to, from) = (raw_list(to), raw_list(from));
    // SAFETY: the pointers are to live tensors, and both lists are as long as said.
    check(unsafe { empssl_lists_copy(to.as_ptr(), from.as_ptr(), to.len()) })
}

/// `to[i] += factor * terms[i]`.
///
/// # Errors
/// When the lists are not of one length, or libtorch refuses a pair.
pub fn add(to: &[&Tensor], terms: &[&Tensor], factor: f64) -> Result<(), ShimError> {
    check_lengths(to, terms)?;
    let (to, terms) = (raw_list(to), raw_list(terms));
    // SAFETY: the pointers are to live tensors, and both lists are as long as said.
    check(unsafe { empssl_lists_add(to.as_ptr(), terms.as_ptr(), to.len(), factor) })
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
    Descent { lr, momentum, nesterov }: Descent,
) -> Result<(), ShimError> {
    check_lengths(parameters, gradients)?;
    check_lengths(parameters, buffers)?;
    let [parameters, gradients, buffers] = [parameters, gradients, buffers].map(raw_list);
    let [p, g, b] = [&parameters, &gradients, &buffers].map(|list| list.as_ptr());
    // SAFETY: the pointers are to live tensors, and the three lists are as long as said.
    check(unsafe { empssl_lists_sgd(p, g, b, parameters.len(), lr, momentum, i32::from(nesterov)) })
}

fn check_lengths(first: &[&Tensor], other: &[&Tensor]) -> Result<(), ShimError> {
    if first.len() == other.len() {
        return Ok(());
    }
    Err(ShimError(format!("lists of {} and {} tensors do not pair", first.len(), other.len())))
}

/// Forgets the gradient of a parameter, as PyTorch's `zero_grad` does by default: the next backward pass hands its own
/// over, with nothing to clear and nothing to add up.
pub fn drop_gradient(parameter: &Tensor) {
    // SAFETY: the tensor lives.
    unsafe { empssl_drop_gradient(raw(parameter)) }
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
        assert_eq!(values(&norms(&[&a, &b]).unwrap()), [5.0, 2.0]);
        // In float32 these squares overflow, or add nothing to the first.
        let long = Tensor::from_slice(&[1e30f32, 1.0]);
        let out = norms(&[&long, &Tensor::from_slice(&[4096.0f32, 0.5])]).unwrap();
        assert_eq!(values(&out), [f64::from(1e30f32), (4096.0f64 * 4096.0 + 0.25).sqrt()]);
        let (to, other) = (tensor(&[0.0, 0.0]), tensor(&[0.0]));
        copy(&[&to, &other], &[&a, &b]).unwrap();
        add(&[&to, &other], &[&a, &b], -0.5).unwrap();
        assert_eq!((values(&to), values(&other)), (vec![1.5, 2.0], vec![1.0]));
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
        drop_gradient(&parameter);
        assert!(!parameter.grad().defined());
    }

    #[test]
    fn lists_that_do_not_pair_and_operators_that_throw_are_errors() {
        let (a, b) = (tensor(&[1.0]), tensor(&[1.0, 2.0, 3.0]));
        let step = Descent { lr: 0.1, momentum: 0.0, nesterov: false };
        for refused in [copy(&[&a], &[]), add(&[&a], &[], 1.0), add(&[], &[&a], 1.0), descend(&[&a], &[&a], &[], step)]
        {
            assert!(refused.unwrap_err().to_string().ends_with("tensors do not pair"));
        }
        assert!(add(&[&tensor(&[1.0, 2.0])], &[&b], 1.0).unwrap_err().to_string().starts_with("libtorch: "));
        assert!(norms(&[]).is_err());
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
