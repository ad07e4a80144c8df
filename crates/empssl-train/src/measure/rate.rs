//! The rate at which a machine multiplies matrices, beside which a step is judged.

use std::time::Instant;

use empssl_torch::catch;
use empssl_torch::device::synchronize;
use empssl_torch::precision::Tf32Scope;
use tch::{Device, Kind, Tensor, no_grad};

use crate::error::TrainError;

/// The fastest of the square products that were tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProductRate {
    /// Side of the matrices.
    pub size: i64,
    /// Floating-point operations per second, a multiplication and an addition counting as two.
    pub per_second: f64,
}

/// Sides that are tried: the larger one only where a product of the smaller one takes less than [`LONG`].
const SIZES: [i64; 4] = [1024, 2048, 4096, 8192];
/// Seconds.
const LONG: f64 = 0.05;
/// Products of each size, after one that warms up; the fastest counts.
const TRIES: usize = 4;

/// Measures products of square matrices of `kind` on `device`, with the threads that libtorch has now, and takes the
/// best.
///
/// # Errors
/// When TF32 cannot be switched or the device fails.
pub fn product_rate(device: Device, kind: Kind, tf32: bool) -> Result<ProductRate, TrainError> {
    let _tf32 = tf32.then(|| Tf32Scope::new(true)).transpose()?;
    let mut best = ProductRate { size: 0, per_second: 0.0 };
    for size in SIZES {
        let seconds = catch(|| fastest(size, device, kind)).map_err(TrainError::from).flatten()?;
        let per_second = 2.0 * (size as f64).powi(3) / seconds;
        if per_second > best.per_second {
            best = ProductRate { size, per_second };
        }
        if seconds > LONG {
            break;
        }
    }
    Ok(best)
}

/// Seconds of the fastest product of two matrices of this size.
fn fastest(size: i64, device: Device, kind: Kind) -> Result<f64, TrainError> {
    let numbers = || Tensor::arange(size * size, (Kind::Float, device)).sin().view([size, size]).to_kind(kind);
    let (a, b) = (numbers(), numbers());
    let out = a.empty_like();
    let mut fastest = f64::INFINITY;
    for attempt in 0..=TRIES {
        synchronize(device)?;
        let began = Instant::now();
        let _ = no_grad(|| a.mm_out(&out, &b));
        synchronize(device)?;
        if attempt > 0 {
            fastest = fastest.min(began.elapsed().as_secs_f64());
        }
    }
    Ok(fastest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_possible_and_a_device_that_fails_is_an_error() {
        let rate = product_rate(Device::Cpu, Kind::Float, false).unwrap();
        assert!(SIZES.contains(&rate.size));
        // From a core without vectors to a node of many.
        assert!((1e8..1e15).contains(&rate.per_second), "{rate:?}");
        assert!(product_rate(Device::Cuda(4096), Kind::Float, false).is_err());
    }
}
