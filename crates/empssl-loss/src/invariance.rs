//! The patch invariance: how well the patches of an image agree with their mean.
//!
//! With `m_j = 1/n sum_i z_ij`, not normalised, the term is the mean of `cos(z_ij, m_j)`. Writing `N = max(|z|, 1e-8)`
//! and `M = max(|m|, 1e-8)` (torch's `cosine_similarity`, which lets the gradient of a norm pass through the clamp),
//! `u = z / N`, `v = m / M`, the derivative of `sum_ij cos_ij` with respect to `z_ij` is
//!
//! ```text
//! v_j / N_ij  -  cos_ij z_ij / (N_ij |z_ij|)  +  1/n [ sum_i u_ij / M_j  -  (sum_i cos_ij) m_j / (M_j |m_j|) ]
//! ```
//!
//! The bracket is the path through the mean; it vanishes when all rows have the same length. A vector of length 0 has
//! no direction, and the quotient with its own norm counts as 0. Every row of the gradient is thus a combination of
//! `z_ij`, `m_j` and one vector per image, which is how it is kept until a single product assembles it.

use tch::{Kind, Tensor};

use crate::LossError;
use crate::coding_rate::size3;
use crate::input::{Projections, check, compute_kind};

/// Below this length a vector counts as this long: the clamp of torch's `cosine_similarity`.
const MIN_NORM: f64 = 1e-8;

/// The mean cosine between each projection and its image's mean projection; the reference's `Similarity_Loss`
/// (tsb0601/EMP-SSL `main.py:76-92`), to be minimised and hence with its minus sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PatchInvariance;

impl PatchInvariance {
    /// Minus the mean cosine (0-d, from -1 to 1) and its gradient with respect to `z` (`[n, b, d]`, of `z`'s type).
    ///
    /// # Errors
    /// [`LossError::Shape`] and [`LossError::Kind`].
    pub fn value_and_gradient(&self, z: &Tensor) -> Result<(Tensor, Tensor), LossError> {
        let input = Projections::new(z)?;
        let _no_graph = tch::no_grad_guard();
        let rows = RowGradient::new(&input.z, 1.0);
        let gradient = rows.without_own_part().addcmul_(&rows.own, &input.z);
        Ok((rows.invariance, input.as_given(gradient)))
    }

    /// Minus the mean cosine through autograd: 0-d, with graph.
    ///
    /// # Errors
    /// [`LossError::Shape`] and [`LossError::Kind`].
    pub fn forward_autograd(&self, z: &Tensor) -> Result<Tensor, LossError> {
        let z = z.to_kind(compute_kind(check(z)?));
        let mean = z.mean_dim([0i64].as_slice(), true, None::<Kind>);
        Ok(-Tensor::cosine_similarity(&z, &mean, -1, MIN_NORM).mean(None::<Kind>))
    }
}

/// The gradient `own * z + mean_part * mean + shared`, unassembled.
pub(crate) struct RowGradient {
    /// Minus the mean cosine, 0-d.
    pub(crate) invariance: Tensor,
    /// `[n, b, 1]`.
    pub(crate) own: Tensor,
    /// `[n, b, 1]`.
    mean_part: Tensor,
    /// `[b, d]`.
    mean: Tensor,
    /// `[b, d]`.
    shared: Tensor,
}

impl RowGradient {
    /// The gradient of `weight * invariance`.
    pub(crate) fn new(z: &Tensor, weight: f64) -> Self {
        let (n, b, _) = size3(z);
        let by_image = z.transpose(0, 1); // [b, n, d]
        let norm = z.norm_scalaropt_dim(2, [-1i64].as_slice(), true); // [n, b, 1]
        let length = norm.clamp_min(MIN_NORM);

        let (mean, unit_sum) = image_sums(&by_image, &length);
        let mean_norm = mean.norm_scalaropt_dim(2, [-1i64].as_slice(), true); // [b, 1]
        let mean_length = mean_norm.clamp_min(MIN_NORM);

        // A row times a matrix: on a CPU many times faster than the matrix times a column.
        let dots = mean.unsqueeze(1).bmm(&by_image.transpose(1, 2)).permute([2, 0, 1]); // [n, b, 1]
        let cosine = dots / (&length * &mean_length);
        let cosine_sum = cosine.sum_dim_intlist([0i64].as_slice(), false, None::<Kind>); // [b, 1]

        let factor = -weight / (n * b) as f64;
        let own = direction(&cosine / &length, &norm) * -factor;
        let mean_part = (length * &mean_length).reciprocal() * factor;
        let along_mean = direction(cosine_sum / &mean_length, &mean_norm);
        let shared = (unit_sum / mean_length - along_mean * &mean) * (factor / n as f64);
        Self { invariance: -cosine.mean(None::<Kind>), own, mean_part, mean, shared }
    }

    /// `mean_part * mean + shared`, `[n, b, d]`.
    pub(crate) fn without_own_part(&self) -> Tensor {
        self.shared.addcmul(&self.mean_part, &self.mean)
    }
}

/// The mean and the sum of unit vectors of each image's patches, both `[b, d]`, in one pass over `z`.
fn image_sums(by_image: &Tensor, length: &Tensor) -> (Tensor, Tensor) {
    let n = by_image.size()[1];
    let to_unit = length.reciprocal().permute([1, 2, 0]); // [b, 1, n]
    let to_mean = to_unit.full_like(1.0 / n as f64);
    let sums = Tensor::cat(&[to_mean, to_unit], 1).bmm(by_image); // [b, 2, d]
    (sums.select(1, 0), sums.select(1, 1))
}

/// `value / norm`, and 0 for a vector without direction.
fn direction(value: Tensor, norm: &Tensor) -> Tensor {
    (value / norm).masked_fill(&norm.eq(0.0), 0.0)
}
