//! The total coding rate: how many nats the images of one patch position take up.
//!
//! With `c = d / (b eps_sq)`, the rate of `Z` (`[b, d]`) is `R(Z) = 1/2 log det(I + c Z^T Z)`. Sylvester's identity
//! makes `log det(I_d + c Z^T Z) = log det(I_b + c Z Z^T)`, so the smaller side is factored. Both matrices have
//! eigenvalues of at least 1, hence a Cholesky factor `L` for every finite `Z`, collapsed or not, and
//! `R = sum log diag L`. The gradient needs the inverse of the same matrix only:
//! `dR/dZ = c (I_b + c Z Z^T)^-1 Z = c Z (I_d + c Z^T Z)^-1`.

use tch::{Kind, Tensor};

use crate::LossError;
use crate::cholesky::InverseFactor;
use crate::error::check_number;
use crate::input::{Projections, check, compute_kind};

/// `R(Z) = 1/2 log det(I + d / (b eps_sq) Z^T Z)` per patch; the reference's `TotalCodingRate(eps)` with the sign of a
/// rate (tsb0601/EMP-SSL `loss.py:76-90`).
#[derive(Debug, Clone, PartialEq)]
pub struct TotalCodingRate {
    eps_sq: f64,
}

impl TotalCodingRate {
    /// The rate at distortion `eps_sq`: the squared epsilon itself, 0.2 in the paper; it is not squared again.
    ///
    /// # Errors
    /// [`LossError::Config`] unless `eps_sq` is finite and above 0.
    pub fn new(eps_sq: f64) -> Result<Self, LossError> {
        check_number("eps_sq", eps_sq, false)?;
        Ok(Self { eps_sq })
    }

    /// The rate of every patch in nats: `[n, b, d]` to `[n]`, without graph.
    ///
    /// # Errors
    /// [`LossError::Shape`] and [`LossError::Kind`].
    pub fn per_patch(&self, z: &Tensor) -> Result<Tensor, LossError> {
        let input = Projections::new(z)?;
        let _no_graph = tch::no_grad_guard();
        Ok(self.factor(&input.z).rates())
    }

    /// The mean rate over the patches (0-d, nats) and its gradient with respect to `z` (`[n, b, d]`, of `z`'s type).
    ///
    /// # Errors
    /// [`LossError::Shape`] and [`LossError::Kind`].
    pub fn value_and_gradient(&self, z: &Tensor) -> Result<(Tensor, Tensor), LossError> {
        let input = Projections::new(z)?;
        let _no_graph = tch::no_grad_guard();
        let factor = self.factor(&input.z);
        let value = factor.rates().mean(None::<Kind>);
        let n_patches = input.z.size()[0] as f64;
        let gradient = match factor.gradient_map(1.0 / n_patches) {
            GradientMap::Left(map) => map.bmm(&input.z),
            GradientMap::Right(map) => input.z.bmm(&map),
        };
        Ok((value, input.as_given(gradient)))
    }

    /// The published formula through autograd: the mean over patches of the `d x d` log-determinant, 0-d, with graph.
    ///
    /// Orders of magnitude slower than [`Self::value_and_gradient`]; it is here to check the closed form against, and
    /// for what needs second derivatives.
    ///
    /// # Errors
    /// [`LossError::Shape`] and [`LossError::Kind`].
    pub fn forward_autograd(&self, z: &Tensor) -> Result<Tensor, LossError> {
        let z = z.to_kind(compute_kind(check(z)?));
        let gram = z.transpose(1, 2).bmm(&z);
        Ok((self.scaled_plus_identity(&z, &gram).logdet() * 0.5).mean(None::<Kind>))
    }

    /// `I + d / (b eps_sq) gram`.
    fn scaled_plus_identity(&self, z: &Tensor, gram: &Tensor) -> Tensor {
        let identity = Tensor::eye(gram.size()[1], (gram.kind(), gram.device()));
        gram * self.scale(z) + identity
    }

    fn scale(&self, z: &Tensor) -> f64 {
        let (_, b, d) = size3(z);
        d as f64 / (b as f64 * self.eps_sq)
    }

    /// Factors `I + c Z Z^T` or `I + c Z^T Z`, whichever is smaller, for every patch.
    pub(crate) fn factor(&self, z: &Tensor) -> Factor {
        let (_, b, d) = size3(z);
        let transposed = z.transpose(1, 2);
        let side = if b < d { Side::Images } else { Side::Features };
        let (left, right) = match side {
            Side::Images => (z, &transposed),
            Side::Features => (&transposed, z),
        };
        let scale = self.scale(z);
        let identity = Tensor::eye(b.min(d), (z.kind(), z.device()));
        let InverseFactor { inverse, log_det, info } = InverseFactor::new(&identity.baddbmm(left, right, 1.0, scale));
        // A factorisation that stopped leaves its unfinished rows behind; NaN makes that visible in every result.
        let poison = info.to_kind(z.kind()).masked_fill(&info.not_equal(0), f64::NAN);
        Factor { inverse, log_det, poison, side, scale }
    }
}

/// Which of the two equal determinants was factored.
enum Side {
    /// `b x b`, multiplied from the left.
    Images,
    /// `d x d`, multiplied from the right.
    Features,
}

/// The Cholesky factors of one batch of patches.
pub(crate) struct Factor {
    /// `L^-1`, `[n, m, m]`.
    inverse: Tensor,
    /// `log det L`, `[n]`.
    log_det: Tensor,
    /// `[n]`: 0, or NaN where there is no factor.
    poison: Tensor,
    side: Side,
    scale: f64,
}

/// How a gradient follows from `Z`.
pub(crate) enum GradientMap {
    /// `map @ Z`, `[n, b, b]`.
    Left(Tensor),
    /// `Z @ map`, `[n, d, d]`.
    Right(Tensor),
}

impl Factor {
    /// `R` per patch, `[n]`.
    pub(crate) fn rates(&self) -> Tensor {
        &self.log_det + &self.poison
    }

    /// The matrices that turn `Z` into `weight * dR/dZ`.
    pub(crate) fn gradient_map(&self, weight: f64) -> GradientMap {
        // (L L^T)^-1
        let inverse = self.inverse.transpose(1, 2).bmm(&self.inverse);
        let inverse = inverse * (weight * self.scale) + self.poison.view([-1, 1, 1]);
        match self.side {
            Side::Images => GradientMap::Left(inverse),
            Side::Features => GradientMap::Right(inverse),
        }
    }
}

/// Sizes of a tensor that passed [`check`].
pub(crate) fn size3(z: &Tensor) -> (i64, i64, i64) {
    let size = z.size();
    (size[0], size[1], size[2])
}
