//! What this crate refuses.

use tch::Kind;

/// Why a loss could not be built or applied.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LossError {
    /// A setting that no loss can be computed with.
    #[error("`{key}` must be {expected}, found {found}")]
    Config {
        /// The name of the field.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: f64,
    },
    /// Projections of another rank than three, or with an empty dimension.
    #[error("the projections must have shape [n patches, b images, d features], none of them 0, found {found:?}")]
    Shape {
        /// The sizes of the tensor.
        found: Vec<i64>,
    },
    /// Projections that are not floating-point numbers.
    #[error("the projections must be float16, bfloat16, float32 or float64, found {found:?}")]
    Kind {
        /// The element type of the tensor.
        found: Kind,
    },
    /// A backward pass from a tensor that no gradient can flow through.
    #[error(
        "the projections carry no graph to send a gradient through: compute them outside `no_grad`, or ask for `value_and_gradient`"
    )]
    NoGraph,
}

/// Refuses a number that is not finite or, where `allow_zero` is false, not above zero.
pub(crate) fn check_number(key: &'static str, found: f64, allow_zero: bool) -> Result<(), LossError> {
    let enough = if allow_zero { found >= 0.0 } else { found > 0.0 };
    if enough && found.is_finite() {
        return Ok(());
    }
    let expected = if allow_zero { "a finite number, 0 or more" } else { "a finite number above 0" };
    Err(LossError::Config { key, expected, found })
}
