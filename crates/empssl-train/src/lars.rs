//! LARS, the layer-wise adaptive rate scaling of the reference: nesterov SGD whose step is scaled per weight tensor.

use std::collections::{HashMap, HashSet};
use std::iter;

use empssl_torch::lists::{self, Descent};
use empssl_torch::{ShimError, TorchFailure};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::TrainError;

#[cfg(test)]
mod tests;

/// Keeps the trust ratio finite; part of the reference's formula, not a setting.
const EPSILON: f64 = 1e-8;

/// Settings of [`Lars`]; every key must be given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LarsConfig {
    /// Share of the momentum buffer that survives a step, in `[0, 1)`.
    pub momentum: f64,
    /// Weight decay, added to the gradient before it is scaled.
    pub weight_decay: f64,
    /// Trust coefficient: the largest relative change of a weight tensor in one step.
    pub eta: f64,
    /// Nesterov's form of the momentum; needs a momentum.
    pub nesterov: bool,
    /// Limits the local rate to the schedule's rate, so that the scaling only ever slows a tensor down.
    pub clip: bool,
    /// Leaves one-dimensional parameters (biases, gains of normalisation) unscaled and without weight decay.
    pub exclude_bias_and_norm: bool,
}

impl LarsConfig {
    /// The settings of the paper (arXiv 2304.03977) and of tsb0601/EMP-SSL `main.py:127-128`.
    pub fn paper() -> Self {
        Self { momentum: 0.9, weight_decay: 1e-4, eta: 0.005, nesterov: true, clip: true, exclude_bias_and_norm: true }
    }

    /// Refuses impossible settings, by name.
    ///
    /// # Errors
    /// [`TrainError::Setting`], which names the first.
    pub fn check(&self) -> Result<(), TrainError> {
        let fraction = (0.0..1.0).contains(&self.momentum);
        TrainError::check(fraction, "momentum", "at least 0 and below 1", self.momentum)?;
        let decays = self.weight_decay >= 0.0 && self.weight_decay.is_finite();
        TrainError::check(decays, "weight_decay", "at least 0 and finite", self.weight_decay)?;
        TrainError::check(self.eta > 0.0 && self.eta.is_finite(), "eta", "positive and finite", self.eta)?;
        let has_momentum = !self.nesterov || self.momentum > 0.0;
        TrainError::check(has_momentum, "nesterov", "false without a momentum", self.nesterov)
    }
}

/// Layer-wise adaptive rate scaling, not least-angle regression (tsb0601/EMP-SSL `lars.py:211-249`, `LARSWrapper`).
///
/// A weight `p` with gradient `g`, both of non-zero norm, moves by nesterov SGD on the scaled gradient
/// `(g + wd p) q`, where `q = eta |p| / (|g| + wd |p| + 1e-8)` and, with `clip`, `q = min(q / lr, 1)`.
/// If either norm is zero there is neither scaling nor weight decay.
/// One-dimensional parameters are treated the same way, untouched, when [`LarsConfig::exclude_bias_and_norm`] is set.
///
/// Since the division by `lr` is undone by the step, `min(lr, eta |p| / |g|)` is the rate a weight moves at.
/// The momentum buffers hold gradients scaled by the rate of their own step.
///
/// Norms, ratios and updates stay on the device of the parameters: a step calls the same few operators whatever the
/// number of parameters, and reads nothing back to the host.
pub struct Lars {
    config: LarsConfig,
    slots: Vec<Slot>,
    rows: Rows,
}

/// One parameter with its momentum buffer, which starts at zero: PyTorch's first step, `buffer = gradient`, is the
/// later steps' `momentum * buffer + gradient` on a buffer of zeros.
struct Slot {
    name: String,
    parameter: Tensor,
    buffer: Tensor,
    /// The gradient of a step, scaled, in the parameter's layout.
    scaled: Tensor,
    /// Whether the gradient is taken as it is, without scaling and without weight decay.
    plain: bool,
}

/// The gradients that are scaled, in one matrix where each has whole rows. libtorch's list operators take one factor for
/// a whole list, but each weight has its own, and only the device knows it: a column of factors, one a row, scales all.
struct Rows {
    /// `[rows, WIDTH]`.
    matrix: Tensor,
    /// `[rows]`: the place of a row's parameter among those that are scaled.
    places: Tensor,
}

/// Numbers in a row; the last row of a parameter is filled up.
const WIDTH: usize = 256;

impl Rows {
    /// Makes the scaled gradients of these slots views of the matrix, each in the layout of its parameter.
    fn new(slots: &mut [Slot]) -> Self {
        let first = &slots[0].parameter;
        let options = (first.kind(), first.device());
        let scaled: Vec<_> = slots.iter_mut().filter(|slot| !slot.plain).collect();
        let n_rows = |slot: &Slot| slot.parameter.numel().div_ceil(WIDTH);
        let places = scaled.iter().enumerate().flat_map(|(place, slot)| iter::repeat_n(place as i64, n_rows(slot)));
        let places: Vec<_> = places.collect();
        let matrix = Tensor::zeros([places.len() as i64, WIDTH as i64], options);
        let mut row = 0;
        for slot in scaled {
            let (size, strides) = (slot.parameter.size(), slot.parameter.stride());
            slot.scaled = matrix.as_strided(size, strides, (row * WIDTH) as i64);
            row += n_rows(slot);
        }
        Self { matrix, places: Tensor::from_slice(&places).to_device(options.1) }
    }
}

impl Lars {
    /// An optimizer of `parameters`, which keep sharing their storage with the network.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a setting out of range; [`TrainError::Mismatch`] when there is no parameter, a name
    /// occurs twice, or a parameter is not a dense tensor of the first one's type, float32 or float64, on its device.
    pub fn new(parameters: &[(String, Tensor)], config: &LarsConfig) -> Result<Self, TrainError> {
        config.check()?;
        TrainError::check_tensors("the parameters", problems_with_parameters(parameters))?;
        let slot = |(name, parameter): &(String, Tensor)| Slot {
            name: name.clone(),
            parameter: parameter.shallow_clone(),
            buffer: parameter.detach().zeros_like(),
            scaled: parameter.detach().empty_like(),
            plain: config.exclude_bias_and_norm && parameter.dim() == 1,
        };
        let mut slots: Vec<_> = parameters.iter().map(slot).collect();
        let rows = Rows::new(&mut slots);
        Ok(Self { config: config.clone(), slots, rows })
    }

    /// Moves every parameter that has a gradient, at the rate `lr` of the schedule.
    ///
    /// A parameter whose gradient was never computed keeps its value and its momentum.
    /// Gradients are read, not changed.
    ///
    /// # Errors
    /// [`TrainError::Setting`] when `lr` is negative, infinite or NaN.
    pub fn step(&mut self, lr: f64) -> Result<(), TrainError> {
        let gradients: Vec<_> = self.slots.iter().map(|slot| slot.parameter.grad()).collect();
        let gradients: Vec<_> = gradients.iter().map(|gradient| gradient.defined().then_some(gradient)).collect();
        self.step_along(lr, &gradients)
    }

    /// The step along given gradients, one for each parameter in the order of [`Lars::new`]; `None` skips a parameter.
    ///
    /// # Errors
    /// [`TrainError::Setting`] when `lr` is negative, infinite or NaN; [`TrainError::Mismatch`] when the gradients are
    /// not as many as the parameters or one has another shape than its parameter.
    pub fn step_along(&mut self, lr: f64, gradients: &[Option<&Tensor>]) -> Result<(), TrainError> {
        TrainError::check(lr >= 0.0 && lr.is_finite(), "lr", "at least 0 and finite", lr)?;
        TrainError::check_tensors("the gradients", self.problems_with_gradients(gradients))?;
        let _guard = tch::no_grad_guard();
        self.follow_layouts();
        let given = self.slots.iter().zip(gradients).filter_map(|(slot, gradient)| Some((slot, (*gradient)?)));
        self.descend(lr, &given.collect::<Vec<_>>()).map_err(|ShimError(text)| TorchFailure::of(&text).into())
    }

    /// Moves these parameters along their gradients.
    fn descend(&self, lr: f64, given: &[(&Slot, &Tensor)]) -> Result<(), ShimError> {
        if given.is_empty() {
            return Ok(());
        }
        let each = |part: fn(&Slot) -> &Tensor| given.iter().map(|(slot, _)| part(slot)).collect::<Vec<_>>();
        let (parameters, gradients) = (each(|slot| &slot.parameter), each(|slot| &slot.scaled));
        lists::copy(&gradients, &given.iter().map(|(_, gradient)| *gradient).collect::<Vec<_>>())?;
        self.scale(lr)?;
        let step = Descent { lr, momentum: self.config.momentum, nesterov: self.config.nesterov };
        lists::descend(&parameters, &gradients, &each(|slot| &slot.buffer), step)
    }

    /// Turns the gradients in the matrix into `(g + wd p) q`. A parameter without a gradient has an old one there, which
    /// is scaled again and not used.
    fn scale(&self, lr: f64) -> Result<(), ShimError> {
        let slots: Vec<_> = self.slots.iter().filter(|slot| !slot.plain).collect();
        if slots.is_empty() {
            return Ok(());
        }
        let parameters: Vec<_> = slots.iter().map(|slot| &slot.parameter).collect();
        let gradients: Vec<_> = slots.iter().map(|slot| &slot.scaled).collect();
        let ratios = self.ratios(lr, &lists::norms(&parameters)?, &lists::norms(&gradients)?);
        lists::add(&gradients, &parameters, self.config.weight_decay)?;
        let Rows { matrix, places } = &self.rows;
        let factors = ratios.to_kind(matrix.kind()).index_select(0, places);
        let _ = matrix.shallow_clone().g_mul_(&factors.unsqueeze(1));
        Ok(())
    }

    /// q for parameters and gradients of these norms: 1 where p is zero, so that g stays; 0 where g is zero, so that
    /// nothing is left of the decay.
    fn ratios(&self, lr: f64, parameter: &Tensor, gradient: &Tensor) -> Tensor {
        let LarsConfig { weight_decay, eta, clip, .. } = self.config;
        // At a rate of zero every clipped ratio is 1; so it is at the largest number there is.
        let factor = if clip { (eta / lr).min(f64::from(f32::MAX)) } else { eta };
        let ratios = parameter * factor / (gradient + parameter * weight_decay + EPSILON);
        let ratios = if clip { ratios.clamp_max(1.0) } else { ratios };
        ratios.masked_fill(&parameter.eq(0.0), 1.0).masked_fill(&gradient.eq(0.0), 0.0)
    }

    /// A network may change the layout of its weights in memory; buffers follow.
    fn follow_layouts(&mut self) {
        let mut moved = false;
        for slot in self.slots.iter_mut().filter(|slot| slot.parameter.stride() != slot.buffer.stride()) {
            let buffer = std::mem::replace(&mut slot.buffer, slot.parameter.zeros_like());
            slot.buffer.copy_(&buffer);
            slot.scaled = slot.parameter.empty_like();
            moved = true;
        }
        if moved {
            self.rows = Rows::new(&mut self.slots);
        }
    }

    /// Forgets every gradient, as PyTorch does by default: a parameter that the next pass does not reach keeps its value
    /// and its momentum.
    pub fn zero_grad(&mut self) {
        self.slots.iter().for_each(|slot| lists::drop_gradient(&slot.parameter));
    }

    /// The momentum buffer of every parameter, under the parameter's name and in the order of [`Lars::new`].
    ///
    /// The tensors share storage with the optimizer: write them out before the next step.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.slots.iter().map(|slot| (slot.name.clone(), slot.buffer.shallow_clone())).collect()
    }

    /// Copies saved momentum buffers in, in any order.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`], with every difference named and nothing copied, when a buffer is missing, unexpected,
    /// given twice, or of another shape or kind.
    pub fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<(), TrainError> {
        TrainError::check_tensors("the saved momentum buffers", self.problems_with_state(state))?;
        let saved: HashMap<_, _> = state.iter().map(|(name, buffer)| (name.as_str(), buffer)).collect();
        let _guard = tch::no_grad_guard();
        for slot in &mut self.slots {
            slot.buffer.copy_(saved[slot.name.as_str()]);
        }
        Ok(())
    }

    fn problems_with_gradients(&self, gradients: &[Option<&Tensor>]) -> Vec<String> {
        if gradients.len() != self.slots.len() {
            return vec![format!("expected {} of them, found {}", self.slots.len(), gradients.len())];
        }
        let given = self.slots.iter().zip(gradients).filter_map(|(slot, gradient)| Some((slot, (*gradient)?)));
        given.filter_map(|(slot, gradient)| slot.difference(gradient)).collect()
    }

    fn problems_with_state(&self, state: &[(String, Tensor)]) -> Vec<String> {
        let mut problems = repeated_names(state);
        let saved: HashMap<_, _> = state.iter().map(|(name, buffer)| (name.as_str(), buffer)).collect();
        problems.extend(self.slots.iter().filter_map(|slot| match saved.get(slot.name.as_str()) {
            Some(buffer) => slot.difference(buffer),
            None => Some(format!("`{}` is missing", slot.name)),
        }));
        let known: HashSet<_> = self.slots.iter().map(|slot| slot.name.as_str()).collect();
        let unexpected = state.iter().filter(|(name, _)| !known.contains(name.as_str()));
        problems.extend(unexpected.map(|(name, _)| format!("`{name}` is unexpected")));
        problems
    }
}

impl Slot {
    /// How `tensor` differs from the parameter in shape or kind, if it does.
    fn difference(&self, tensor: &Tensor) -> Option<String> {
        let form = |tensor: &Tensor| (tensor.kind(), tensor.size());
        let (expected, found) = (form(&self.parameter), form(tensor));
        let describe = |(kind, shape): (Kind, Vec<i64>)| format!("{kind:?} of {shape:?}");
        (expected != found).then(|| format!("`{}` is {}, expected {}", self.name, describe(found), describe(expected)))
    }
}

fn problems_with_parameters(parameters: &[(String, Tensor)]) -> Vec<String> {
    let Some((_, first)) = parameters.first() else { return vec!["there are none".to_owned()] };
    let kind = if first.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let problem = |(name, parameter): &(String, Tensor)| {
        let (found, device) = (parameter.kind(), parameter.device());
        if (found, device) != (kind, first.device()) {
            return Some(format!("`{name}` is {found:?} on {device:?}, expected {kind:?} on {:?}", first.device()));
        }
        (!lists::is_dense(parameter)).then(|| format!("`{name}` does not fill its memory"))
    };
    repeated_names(parameters).into_iter().chain(parameters.iter().filter_map(problem)).collect()
}

fn repeated_names(tensors: &[(String, Tensor)]) -> Vec<String> {
    let mut seen = HashSet::new();
    let repeated = tensors.iter().filter(|(name, _)| !seen.insert(name));
    repeated.map(|(name, _)| format!("`{name}` is given twice")).collect()
}
