//! The numbers of a tensor as a vector of the host.

use tch::{Device, Kind, Tensor};

/// The integers of a tensor of any shape, row by row.
pub(crate) fn integers(tensor: &Tensor) -> Vec<i64> {
    let mut numbers = vec![0; tensor.numel()];
    tensor.to_device(Device::Cpu).to_kind(Kind::Int64).contiguous().copy_data(&mut numbers, tensor.numel());
    numbers
}

/// The numbers of a tensor of any shape as float64, row by row.
pub(crate) fn reals(tensor: &Tensor) -> Vec<f64> {
    let mut numbers = vec![0.0; tensor.numel()];
    tensor.to_device(Device::Cpu).to_kind(Kind::Double).contiguous().copy_data(&mut numbers, tensor.numel());
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_copied_row_by_row_whatever_the_strides() {
        let tensor = Tensor::from_slice(&[1i64, 2, 3, 4, 5, 6]).view([2, 3]).tr();
        assert_eq!(integers(&tensor), [1, 4, 2, 5, 3, 6]);
        assert_eq!(reals(&(tensor.to_kind(Kind::Float) / 2.0)), [0.5, 2.0, 1.0, 2.5, 1.5, 3.0]);
        assert!(integers(&tensor.narrow(0, 0, 0)).is_empty());
    }
}
