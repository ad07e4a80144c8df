//! The one door for projections: shape and type are checked here, values never are.

use tch::{Kind, Tensor};

use crate::LossError;

/// Checked projections, in the type they are computed in.
pub(crate) struct Projections {
    /// `[n, b, d]`, without graph, float32 or float64.
    pub(crate) z: Tensor,
    /// The type the gradient is handed back in.
    given: Kind,
}

impl Projections {
    /// Checks `z` and converts it; float32 and float64 are not copied.
    pub(crate) fn new(z: &Tensor) -> Result<Self, LossError> {
        let given = check(z)?;
        Ok(Self { z: z.detach().to_kind(compute_kind(given)), given })
    }

    /// A gradient in the type of the input.
    pub(crate) fn as_given(&self, gradient: Tensor) -> Tensor {
        gradient.to_kind(self.given)
    }
}

/// Checks shape and type, and returns the type.
pub(crate) fn check(z: &Tensor) -> Result<Kind, LossError> {
    let found = z.size();
    if found.len() != 3 || found.contains(&0) {
        return Err(LossError::Shape { found });
    }
    match z.kind() {
        kind @ (Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double) => Ok(kind),
        found => Err(LossError::Kind { found }),
    }
}

/// Float64 for float64, float32 for everything narrower.
pub(crate) fn compute_kind(given: Kind) -> Kind {
    if given == Kind::Double { Kind::Double } else { Kind::Float }
}
