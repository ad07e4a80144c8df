//! How a network computes: the type of its convolutions and products, and the order of its maps in memory.
//!
//! A tensor core multiplies bf16 operands exactly, adds in float32 and gives back bf16. [`Products::Bf16`] is that
//! arithmetic everywhere:
//!
//! - Parameters stay as they are. Convolutions and products take copies of them on the bf16 grid, and so do biases.
//! - Every activation lies on the grid: the input, what a convolution, a product or a normalisation puts out, and the
//!   sums of the residual blocks.
//! - Gradients are rounded wherever the values were, on their way back, so that the products of the backward pass have
//!   operands and results on the grid too. Where an activation is used twice, the CPU adds both gradients in float32 and
//!   rounds once; CUDA rounds each and their sum. Gradients of parameters arrive in the parameters' own type.
//! - The statistics of BatchNorm, its gains and biases, and the length that projections are divided by are computed in
//!   the network's own type.
//!
//! On CUDA the tensors are bf16. On a CPU they are float32 tensors that hold bf16 values, so that every CPU computes
//! the same, with instructions for bf16 or without; that shows what the arithmetic does to a result, and saves neither
//! time nor memory.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::ModelError;

/// The arithmetic of convolutions and matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Products {
    /// That of the network's own type.
    Own,
    /// Operands and results with the 8 bits of bfloat16, sums in float32.
    Bf16,
}

/// The order of a feature map's numbers in memory; shapes stay `[N, channels, y, x]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// One channel after the other.
    Contiguous,
    /// One position after the other, all its channels together: what tensor cores read without rearranging.
    ChannelsLast,
}

/// Arithmetic and layout of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arithmetic {
    /// Of convolutions and products.
    pub products: Products,
    /// Of the maps.
    pub layout: Layout,
}

impl Arithmetic {
    /// The network's own type and contiguous maps, which a new network has.
    pub const PLAIN: Self = Self { products: Products::Own, layout: Layout::Contiguous };

    /// The type that a network of weights of `kind` on `device` would keep its activations in.
    ///
    /// # Errors
    /// As [`crate::Network::set_arithmetic`].
    pub fn activation_kind(self, kind: Kind, device: Device) -> Result<Kind, ModelError> {
        Ok(self.resolve(kind, device)?.activation_kind(kind))
    }

    /// How a network of weights of `kind` on `device` does this.
    pub(crate) fn resolve(self, kind: Kind, device: Device) -> Result<Compute, ModelError> {
        let grid = match (self.products, device) {
            (Products::Own, _) => Grid::Own,
            (Products::Bf16, _) if kind != Kind::Float => return Err(ModelError::Bf16 { found: kind }),
            (Products::Bf16, Device::Cuda(_)) => Grid::Stored,
            (Products::Bf16, _) => Grid::Rounded,
        };
        Ok(Compute { grid, layout: self.layout })
    }
}

/// Where values are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grid {
    /// Nowhere.
    Own,
    /// To bf16, in float32 tensors.
    Rounded,
    /// To bf16, in bf16 tensors.
    Stored,
}

/// An [`Arithmetic`] on a certain device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compute {
    grid: Grid,
    layout: Layout,
}

impl Compute {
    /// [`Arithmetic::PLAIN`].
    pub(crate) const PLAIN: Self = Self { grid: Grid::Own, layout: Layout::Contiguous };

    /// All ways, whatever the device.
    #[cfg(test)]
    pub(crate) fn every_grid(layout: Layout) -> [Self; 3] {
        [Grid::Own, Grid::Rounded, Grid::Stored].map(|grid| Self { grid, layout })
    }

    pub(crate) fn is_channels_last(self) -> bool {
        self.layout == Layout::ChannelsLast
    }

    pub(crate) fn activation_kind(self, weights: Kind) -> Kind {
        if self.grid == Grid::Stored { Kind::BFloat16 } else { weights }
    }

    /// A value on the grid, with the graph; the gradient is rounded on its way back.
    pub(crate) fn on_grid(self, x: Tensor) -> Tensor {
        match self.grid {
            Grid::Own => x,
            Grid::Rounded => x.to_kind(Kind::BFloat16).to_kind(Kind::Float),
            Grid::Stored => x.to_kind(Kind::BFloat16),
        }
    }

    /// The copy of a parameter that a product takes.
    pub(crate) fn operand(self, parameter: &Tensor) -> Tensor {
        self.on_grid(parameter.shallow_clone())
    }

    /// Maps, or the weight of a convolution, in the order that convolutions read.
    ///
    /// Parameters themselves stay contiguous, so that neither files nor the optimizer know of layouts; the copy of a
    /// weight is small beside the maps it is used on.
    pub(crate) fn arranged(self, x: Tensor) -> Tensor {
        match self.layout {
            Layout::Contiguous => x,
            Layout::ChannelsLast => x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute(products: Products, layout: Layout) -> Compute {
        Arithmetic { products, layout }.resolve(Kind::Float, Device::Cpu).unwrap()
    }

    #[test]
    fn values_and_gradients_are_rounded_to_the_nearest_of_eight_bits() {
        let bf16 = compute(Products::Bf16, Layout::Contiguous);
        // 1 + 1/256 lies halfway between two neighbours and goes to the even one; the next float32 goes up.
        let x = Tensor::from_slice(&[1.0f32, 1.003_906_3, 1.003_906_4, -3.0e38, 1e-40]).set_requires_grad(true);
        let y = bf16.on_grid(x.shallow_clone());
        assert_eq!(y.kind(), Kind::Float);
        // Near 3e38 neighbours are 2^120 apart, near zero 2^-133.
        let expected = [1.0f32, 1.0, 1.007_812_5, -226.0 * 2f32.powi(120), f32::from_bits(1 << 16)];
        assert_eq!(Vec::<f32>::try_from(&y.detach()).unwrap(), expected);
        (y * Tensor::from_slice(&[1.003_906_4f32])).sum(Kind::Float).backward();
        assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), [1.007_812_5f32; 5]);
        let plain = compute(Products::Own, Layout::Contiguous);
        assert_eq!(plain, Compute::PLAIN);
        assert_eq!(plain.on_grid(x.detach()).data_ptr(), x.data_ptr(), "nothing is copied");
    }

    #[test]
    fn channels_last_changes_strides_and_nothing_else() {
        let x = Tensor::arange(2 * 3 * 4 * 5, (Kind::Float, Device::Cpu)).view([2, 3, 4, 5]);
        let y = compute(Products::Own, Layout::ChannelsLast).arranged(x.shallow_clone());
        assert_eq!((y.size(), y.stride()), (vec![2, 3, 4, 5], vec![60, 1, 15, 3]));
        assert_eq!(x, y);
    }

    #[test]
    fn bf16_is_a_rounding_of_float32_and_of_nothing_else() {
        let bf16 = Arithmetic { products: Products::Bf16, layout: Layout::Contiguous };
        let refusal = bf16.resolve(Kind::Double, Device::Cpu).unwrap_err().to_string();
        assert_eq!(refusal, "bf16 products need weights in float32, found Double");
        assert_eq!(bf16.resolve(Kind::Float, Device::Cuda(0)).unwrap().grid, Grid::Stored);
    }
}
