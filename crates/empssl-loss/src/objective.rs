//! The whole objective: both terms from one pass, and its way into a caller's graph.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::LossError;
use crate::coding_rate::{GradientMap, TotalCodingRate, size3};
use crate::error::check_number;
use crate::input::Projections;
use crate::invariance::{PatchInvariance, RowGradient};

/// The weights of the two terms and the distortion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmpSslLossConfig {
    /// Weight of the patch invariance, the paper's lambda; 200 (tsb0601/EMP-SSL `main.py:31`).
    pub invariance_weight: f64,
    /// Weight of the total coding rate; 1 (tsb0601/EMP-SSL `main.py:33`).
    pub coding_rate_weight: f64,
    /// The squared distortion of the coding rate; 0.2. The reference calls it `eps` and does not square it either.
    pub eps_sq: f64,
}

impl EmpSslLossConfig {
    /// The published values.
    pub fn paper() -> Self {
        Self { invariance_weight: 200.0, coding_rate_weight: 1.0, eps_sq: 0.2 }
    }
}

/// What one evaluation of the objective found: 0-d tensors on the device of the projections.
///
/// `total` is `invariance_weight * invariance - coding_rate_weight * coding_rate`, with the parts
///
/// - `invariance`: minus the mean cosine between a projection and its image's mean, from -1 (all patches agree) to 1;
/// - `coding_rate`: the mean rate over the patches, in nats; 0 or more.
///
/// Read them when they are logged, not every step: on a GPU each read waits for the device. Where projections are not
/// finite, or so long that their Gram matrix overflows or cannot be told from a singular one, the terms and the gradient
/// are NaN or infinite; check `total` and no such step goes unseen.
#[derive(Debug)]
pub struct LossTerms {
    /// To be minimised; negative as a rule.
    pub total: Tensor,
    /// The terms by name, without their weights.
    pub parts: Vec<(&'static str, Tensor)>,
}

impl LossTerms {
    /// The part of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn part(&self, name: &str) -> &Tensor {
        let found = self.parts.iter().find(|(part, _)| *part == name);
        &found.unwrap_or_else(|| panic!("the objective has no part `{name}`")).1
    }
}

/// The training objective of EMP-SSL, for projections of shape `[n, b, d]`.
#[derive(Debug, Clone)]
pub struct EmpSslLoss {
    config: EmpSslLossConfig,
    coding_rate: TotalCodingRate,
}

impl EmpSslLoss {
    /// Checks the configuration.
    ///
    /// # Errors
    /// [`LossError::Config`] when a weight is negative or not finite, or `eps_sq` not above 0.
    pub fn new(config: &EmpSslLossConfig) -> Result<Self, LossError> {
        check_number("invariance_weight", config.invariance_weight, true)?;
        check_number("coding_rate_weight", config.coding_rate_weight, true)?;
        let coding_rate = TotalCodingRate::new(config.eps_sq)?;
        Ok(Self { config: config.clone(), coding_rate })
    }

    /// The configuration this loss was built from.
    pub fn config(&self) -> &EmpSslLossConfig {
        &self.config
    }

    /// The terms and the gradient of `total` with respect to `z` (`[n, b, d]`, of `z`'s type), in closed form.
    ///
    /// No graph is read or built, and nothing is read back from the device.
    ///
    /// # Errors
    /// [`LossError::Shape`] and [`LossError::Kind`].
    pub fn value_and_gradient(&self, z: &Tensor) -> Result<(LossTerms, Tensor), LossError> {
        let input = Projections::new(z)?;
        let _no_graph = tch::no_grad_guard();
        let (terms, gradient) = self.closed_form(&input.z);
        Ok((terms, input.as_given(gradient)))
    }

    /// The terms, after the gradient of `total` has been sent down the graph of `z`.
    ///
    /// The closed-form gradient `G` enters as that of `sum(z * G)`, whose derivative with respect to `z` it is. Like
    /// any backward pass this adds to the gradients that are there, and frees the graph.
    ///
    /// # Errors
    /// [`LossError::Shape`], [`LossError::Kind`], and [`LossError::NoGraph`] when `z` does not require a gradient.
    pub fn backward(&self, z: &Tensor) -> Result<LossTerms, LossError> {
        if !z.requires_grad() {
            return Err(LossError::NoGraph);
        }
        let (terms, gradient) = self.value_and_gradient(z)?;
        tch::with_grad(|| z.flatten(0, -1).dot(&gradient.flatten(0, -1)).backward());
        Ok(terms)
    }

    /// The same terms by the published formula and autograd, with graph.
    ///
    /// Slow, and memory-hungry for large `d`: it is kept to test the closed form, and for second derivatives.
    ///
    /// # Errors
    /// [`LossError::Shape`] and [`LossError::Kind`].
    pub fn forward_autograd(&self, z: &Tensor) -> Result<LossTerms, LossError> {
        let invariance = PatchInvariance.forward_autograd(z)?;
        let coding_rate = self.coding_rate.forward_autograd(z)?;
        Ok(self.terms(invariance, coding_rate))
    }

    fn terms(&self, invariance: Tensor, coding_rate: Tensor) -> LossTerms {
        let total = &invariance * self.config.invariance_weight - &coding_rate * self.config.coding_rate_weight;
        LossTerms { total, parts: vec![("invariance", invariance), ("coding_rate", coding_rate)] }
    }

    fn closed_form(&self, z: &Tensor) -> (LossTerms, Tensor) {
        let (n, _, _) = size3(z);
        let factor = self.coding_rate.factor(z);
        let rows = RowGradient::new(z, self.config.invariance_weight);
        let mut gradient = rows.without_own_part();
        let gradient = match factor.gradient_map(-self.config.coding_rate_weight / n as f64) {
            GradientMap::Left(map) => {
                // `own` scales rows of z, so it joins the matrix that z is multiplied with anyway.
                let _ = map.diagonal(0, -2, -1).g_add_(&rows.own.squeeze_dim(-1));
                gradient.baddbmm_(&map, z)
            }
            GradientMap::Right(map) => gradient.addcmul_(&rows.own, z).baddbmm_(z, &map),
        };
        let coding_rate = factor.rates().mean(None::<Kind>);
        (self.terms(rows.invariance, coding_rate), gradient)
    }
}
