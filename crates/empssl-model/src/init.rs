//! PyTorch's initial values, drawn on the CPU in float32 from libtorch's global generator.
//!
//! tch's own layers start otherwise: its BatchNorm gains are uniform in (0, 1), its linear weights sqrt(6) times wider
//! than PyTorch's, its convolution biases 0.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor};

const FLOAT_CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Held while weights are drawn: all threads share libtorch's generator.
static DRAWING: Mutex<()> = Mutex::new(());

/// Seeds libtorch's generator; until the guard is dropped, no other network draws from it.
pub(crate) fn seeded(seed: u64) -> MutexGuard<'static, ()> {
    let drawing = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed as i64);
    drawing
}

/// torchvision's ResNet convolutions: normal, mean 0, variance `2 / fan_out` (`kaiming_normal_`, `mode="fan_out"`).
pub(crate) fn kaiming_normal_fan_out(shape: [i64; 4]) -> Tensor {
    let [out_channels, _, height, width] = shape;
    let fan_out = (out_channels * height * width) as f64;
    Tensor::empty(shape, FLOAT_CPU).normal_(0.0, (2.0 / fan_out).sqrt())
}

/// The default of `nn.Linear` and `nn.Conv2d`, weight and bias alike: uniform within `1 / sqrt(fan_in)`.
pub(crate) fn default_uniform(shape: &[i64], fan_in: i64) -> Tensor {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Tensor::empty(shape, FLOAT_CPU).uniform_(-bound, bound)
}

/// Zeros, one per channel.
pub(crate) fn zeros(channels: i64) -> Tensor {
    Tensor::zeros([channels], FLOAT_CPU)
}

/// Ones, one per channel.
pub(crate) fn ones(channels: i64) -> Tensor {
    Tensor::ones([channels], FLOAT_CPU)
}
