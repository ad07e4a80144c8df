//! A step by operators over lists of tensors, the same few whatever the number of parameters.
//!
//! libtorch's list operators take one factor for a whole list, but each weight has its own, and only the device knows
//! it. So the gradients are gathered in one matrix, where every parameter owns whole rows: what belongs to a parameter
//! becomes a column of factors, one a row, and one product scales them all.

use empssl_torch::ShimError;
use empssl_torch::lists::{self, Descent};
use tch::{Kind, Tensor};

use super::{EPSILON, LarsConfig, Slot};

/// Numbers in a row; the last row of a parameter is filled up.
const WIDTH: i64 = 256;

/// The gradients' place, and everything else that stays the same from step to step.
pub(super) struct Rows {
    /// `[rows, WIDTH]`.
    matrix: Tensor,
    /// Views of the matrix, one a parameter, in its layout.
    gradients: Vec<Tensor>,
    /// The parameters that are scaled.
    scaled: Vec<usize>,
    /// `[rows]`: the place of a row's parameter in `scaled`; all others share the place after the last.
    places: Tensor,
    /// `[rows, 1]`: what each row is multiplied by.
    row_ratios: Tensor,
    /// `[2 (scaled + 1)]`, float64: the norms of the parameters, then those of the gradients.
    norms: Tensor,
    /// The two halves of `norms`, `[scaled + 1, 1]`.
    halves: [Tensor; 2],
    /// `[scaled + 1, 1]`.
    ratios: Tensor,
    /// The weight decay, `[1, 1]`, float64.
    decay: Tensor,
    /// A zero and a one. They make the last place one whose parameter is zero and whose gradient is not, which takes
    /// the gradient as it is.
    constants: [Tensor; 2],
}

impl Rows {
    pub(super) fn new(slots: &[Slot], config: &LarsConfig) -> Self {
        let first = &slots[0].parameter;
        let options = (first.kind(), first.device());
        let scaled: Vec<usize> = (0..slots.len()).filter(|&index| !slots[index].plain).collect();
        let n_rows = |slot: &Slot| (slot.parameter.numel() as i64 + WIDTH - 1) / WIDTH;
        let matrix = Tensor::zeros([slots.iter().map(n_rows).sum(), WIDTH], options);
        let mut row = 0;
        let mut gradients = Vec::with_capacity(slots.len());
        let mut places = Vec::new();
        for (index, slot) in slots.iter().enumerate() {
            let (size, strides) = (slot.parameter.size(), slot.parameter.stride());
            gradients.push(matrix.as_strided(size, strides, row * WIDTH));
            let place = scaled.binary_search(&index).unwrap_or(scaled.len()) as i64;
            places.extend((0..n_rows(slot)).map(|_| place));
            row += n_rows(slot);
        }
        let n_places = scaled.len() as i64 + 1;
        // Sums of millions of squares are exact enough in float64 alone.
        let precise = (Kind::Double, options.1);
        let norms = Tensor::zeros([2 * n_places], precise);
        let halves = [0, n_places].map(|start| norms.narrow(0, start, n_places).view([-1, 1]));
        Self {
            gradients,
            scaled,
            places: Tensor::from_slice(&places).to_device(options.1),
            row_ratios: Tensor::zeros([row, 1], options),
            norms,
            halves,
            ratios: Tensor::zeros([n_places, 1], options),
            decay: Tensor::full([1, 1], config.weight_decay, precise),
            constants: [Tensor::zeros([1], options), Tensor::ones([1], options)],
            matrix,
        }
    }

    /// Moves the parameters that have a gradient, given with the places of their slots.
    pub(super) fn step(
        &self,
        config: &LarsConfig,
        lr: f64,
        slots: &[Slot],
        given: &[(usize, &Tensor)],
    ) -> Result<(), ShimError> {
        if given.is_empty() {
            return Ok(());
        }
        let gathered: Vec<_> = given.iter().map(|&(index, _)| &self.gradients[index]).collect();
        lists::copy(&gathered, &given.iter().map(|&(_, gradient)| gradient).collect::<Vec<_>>())?;
        self.scale(config, lr, slots)?;
        let parameters: Vec<_> = given.iter().map(|&(index, _)| &slots[index].parameter).collect();
        let buffers: Vec<_> = given.iter().map(|&(index, _)| &slots[index].buffer).collect();
        let step = Descent { lr, momentum: config.momentum, nesterov: config.nesterov };
        lists::descend(&parameters, &gathered, &buffers, step)
    }

    /// Turns the gathered gradients into `(g + wd p) q`. A parameter without a gradient has an old one here, which is
    /// scaled again and not used.
    fn scale(&self, config: &LarsConfig, lr: f64, slots: &[Slot]) -> Result<(), ShimError> {
        let [zero, one] = &self.constants;
        let parameters: Vec<_> = self.scaled.iter().map(|&index| &slots[index].parameter).collect();
        let gradients: Vec<_> = self.scaled.iter().map(|&index| &self.gradients[index]).collect();
        let all = [&parameters[..], &[zero], &gradients, &[one]].concat();
        lists::norms(&self.norms, &all)?;
        self.renew_ratios(config, lr)?;
        if !parameters.is_empty() {
            lists::add(&gradients, &parameters, config.weight_decay)?;
        }
        let _ = self.ratios.index_select_out(&self.row_ratios, 0, &self.places);
        let _ = self.matrix.shallow_clone().g_mul_(&self.row_ratios);
        Ok(())
    }

    /// What `g + wd p` is multiplied by: 1 where p is zero, so that g stays; 0 where g is zero, so that nothing is left
    /// of the decay.
    fn renew_ratios(&self, config: &LarsConfig, lr: f64) -> Result<(), ShimError> {
        let [parameter, gradient] = &self.halves;
        let [zero, _] = &self.constants;
        let decayed = gradient.addcmul(parameter, &self.decay).g_add_scalar_(EPSILON);
        // At a rate of zero every clipped ratio is 1; so it is at the largest number there is.
        let factor = if config.clip { (config.eta / lr).min(f64::from(f32::MAX)) } else { config.eta };
        lists::add_quotient(&self.ratios, zero, parameter, &decayed, factor)?;
        let mut ratios = self.ratios.shallow_clone();
        if config.clip {
            let _ = ratios.clamp_max_(1.0);
        }
        let _ = ratios.masked_fill_(&parameter.eq(0.0), 1.0);
        let _ = ratios.masked_fill_(&gradient.eq(0.0), 0.0);
        Ok(())
    }
}
