//! A step in host memory: one pass for the norms, one for everything else.

use empssl_torch::ShimError;
use empssl_torch::host::{Move, descend, norms};

use super::{EPSILON, LarsConfig, Moving};

/// Moves the parameters.
pub(super) fn step(config: &LarsConfig, lr: f64, moving: &[Moving<'_>]) -> Result<(), ShimError> {
    let Some(first) = moving.first() else { return Ok(()) };
    let kind = first.slot.parameter.kind();
    let scaled = || moving.iter().filter(|one| !one.slot.plain);
    let tensors: Vec<_> = scaled().flat_map(|one| [&one.slot.parameter, &one.gradient]).collect();
    let mut norms = norms(kind, &tensors)?.into_iter();
    let moves: Vec<_> = moving
        .iter()
        .map(|one| {
            let mut norm = || if one.slot.plain { 0.0 } else { norms.next().unwrap_or(0.0) };
            let (decay, scale) = decay_and_scale(config, lr, norm(), norm());
            let (parameter, buffer) = (&one.slot.parameter, &one.slot.buffer);
            Move { parameter, gradient: &one.gradient, buffer, decay, scale }
        })
        .collect();
    descend(kind, &moves, config.descent(lr))
}

/// What is added of the parameter, and what the sum is multiplied by; NaN norms are not zero and show in the result.
fn decay_and_scale(config: &LarsConfig, lr: f64, parameter: f64, gradient: f64) -> (f64, f64) {
    if parameter == 0.0 || gradient == 0.0 {
        return (0.0, 1.0);
    }
    let trust = config.eta * parameter / (gradient + config.weight_decay * parameter + EPSILON);
    (config.weight_decay, if config.clip { at_most_one(trust / lr) } else { trust })
}

/// The smaller of `ratio` and 1, and NaN for NaN; at a rate of zero the ratio is infinite.
fn at_most_one(ratio: f64) -> f64 {
    if ratio > 1.0 { 1.0 } else { ratio }
}
