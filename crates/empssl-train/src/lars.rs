//! LARS, the layer-wise adaptive rate scaling of the reference: nesterov SGD whose step is scaled per weight tensor.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::TrainError;

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
    /// Looks one step ahead along the momentum; needs a momentum.
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

    fn check(&self) -> Result<(), TrainError> {
        let fraction = (0.0..1.0).contains(&self.momentum);
        TrainError::check(fraction, "momentum", "at least 0 and below 1", self.momentum)?;
        let decays = self.weight_decay >= 0.0 && self.weight_decay.is_finite();
        TrainError::check(decays, "weight_decay", "at least 0 and finite", self.weight_decay)?;
        TrainError::check(self.eta > 0.0 && self.eta.is_finite(), "eta", "positive and finite", self.eta)?;
        let looks_ahead = !self.nesterov || self.momentum > 0.0;
        TrainError::check(looks_ahead, "nesterov", "false without a momentum", self.nesterov)
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
/// Norms, ratios and updates stay on the device of the parameters: a step reads nothing back to the host.
pub struct Lars {
    config: LarsConfig,
    slots: Vec<Slot>,
}

/// One parameter with its momentum buffer, which starts at zero: PyTorch's first step, `buffer = gradient`, is the
/// later steps' `momentum * buffer + gradient` on a buffer of zeros.
struct Slot {
    name: String,
    parameter: Tensor,
    buffer: Tensor,
}

impl Lars {
    /// Takes charge of `parameters`, which keep sharing their storage with the network.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a setting out of range; [`TrainError::Mismatch`] when there is no parameter, a name
    /// occurs twice, or a parameter does not hold floating-point numbers.
    pub fn new(parameters: &[(String, Tensor)], config: &LarsConfig) -> Result<Self, TrainError> {
        config.check()?;
        TrainError::check_tensors("the parameters", problems_with_parameters(parameters))?;
        let slots = parameters.iter().map(|(name, parameter)| Slot {
            name: name.clone(),
            parameter: parameter.shallow_clone(),
            buffer: parameter.detach().zeros_like(),
        });
        Ok(Self { config: config.clone(), slots: slots.collect() })
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
        for (slot, gradient) in self.slots.iter_mut().zip(gradients) {
            if let Some(gradient) = gradient {
                update(&self.config, lr, &mut slot.parameter, gradient, &mut slot.buffer);
            }
        }
        Ok(())
    }

    /// Sets every gradient that was computed to zero.
    ///
    /// tch cannot drop a gradient, so from then on a parameter that a later pass does not reach counts as one with a
    /// zero gradient, and its momentum carries it on; PyTorch, which drops gradients by default, would skip it.
    /// A network that uses all its parameters in every pass does not see the difference.
    pub fn zero_grad(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.parameter.zero_grad());
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
    if parameters.is_empty() {
        return vec!["there are none".to_owned()];
    }
    let integers = parameters.iter().filter(|(_, parameter)| !parameter.is_floating_point());
    let integers = integers.map(|(name, parameter)| format!("`{name}` holds {:?}", parameter.kind()));
    repeated_names(parameters).into_iter().chain(integers).collect()
}

fn repeated_names(tensors: &[(String, Tensor)]) -> Vec<String> {
    let mut seen = HashSet::new();
    let repeated = tensors.iter().filter(|(name, _)| !seen.insert(name));
    repeated.map(|(name, _)| format!("`{name}` is given twice")).collect()
}

/// One step of one parameter: a function of (rate, parameter, gradient, buffer) that renews parameter and buffer.
fn update(config: &LarsConfig, lr: f64, parameter: &mut Tensor, gradient: &Tensor, buffer: &mut Tensor) {
    let plain = config.exclude_bias_and_norm && parameter.dim() == 1;
    let scaled = if plain { gradient.shallow_clone() } else { scaled_gradient(config, lr, parameter, gradient) };
    *buffer *= config.momentum;
    *buffer += &scaled;
    let mut step = if config.nesterov { &*buffer * config.momentum + scaled } else { buffer.copy() };
    step *= -lr;
    *parameter += step;
}

/// `(g + wd p) q`, or `g` itself where a norm is zero; the choice is made on the device.
fn scaled_gradient(config: &LarsConfig, lr: f64, parameter: &Tensor, gradient: &Tensor) -> Tensor {
    let (parameter_norm, gradient_norm) = (parameter.norm(), gradient.norm());
    let both = parameter_norm.ne(0.0).logical_and(&gradient_norm.ne(0.0));
    let decayed_norm = gradient_norm + &parameter_norm * config.weight_decay + EPSILON;
    let ratio = local_ratio(config, lr, &(parameter_norm * config.eta / decayed_norm));
    let decay = both.to_kind(parameter.kind()) * config.weight_decay;
    gradient.addcmul(parameter, &decay) * ratio.where_scalarother(&both, 1.0)
}

/// What the gradient is multiplied by; at a rate of zero the quotient is infinite and the clipped ratio one.
fn local_ratio(config: &LarsConfig, lr: f64, trust: &Tensor) -> Tensor {
    match (config.clip, lr == 0.0) {
        (false, _) => trust.shallow_clone(),
        (true, true) => trust.ones_like(),
        (true, false) => (trust / lr).clamp_max(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use empssl_golden::{Family, Tensors, assert_close};
    use serde_json::Value;

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
    }

    /// The scripted parameters and gradients of one golden case, in one kind.
    struct Script<'a> {
        case: &'a Value,
        tensors: Tensors,
        names: Vec<&'a str>,
        kind: Kind,
    }

    impl<'a> Script<'a> {
        fn read(family: &Family, case: &'a Value, kind: Kind) -> Self {
            let tensors = family.tensors(case["file"].as_str().unwrap());
            let names = case["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap());
            Self { case, tensors, names: names.collect(), kind }
        }

        fn tensor(&self, key: &str) -> Tensor {
            let stored = self.tensors.get(key);
            Tensor::from_slice(&stored.f64()).view(&stored.sizes()[..]).to_kind(self.kind)
        }

        fn parameters(&self) -> Vec<(String, Tensor)> {
            let leaf = |name: &&str| self.tensor(&format!("init.{name}")).set_requires_grad(true);
            self.names.iter().map(|name| ((*name).to_owned(), leaf(name))).collect()
        }

        fn gradients(&self, step: usize) -> Vec<Option<Tensor>> {
            let given = |name: &&str| self.tensors.get(&format!("has_grad.{name}")).i64()[step] != 0;
            let gradient = |name: &&str| self.tensor(&format!("grad.{name}")).get(step as i64);
            self.names.iter().map(|name| given(name).then(|| gradient(name))).collect()
        }

        fn assert_close(&self, key: &str, step: Option<usize>, ours: &Tensor) {
            let precision = if self.kind == Kind::Double { "float64" } else { "float32" };
            let tolerance = self.case["tolerance"][precision][key].as_f64().unwrap();
            let (ours, truth) = (values(ours), self.tensors.get(key).f64());
            let truth = step.map_or(&truth[..], |step| &truth[step * ours.len()..(step + 1) * ours.len()]);
            assert_close(&format!("{}: {key} {precision} {step:?}", self.case["name"]), &ours, truth, tolerance);
        }
    }

    fn config_of(family: &Family) -> LarsConfig {
        let hyper = &family.index["hyper"];
        let (number, flag) = (|key: &str| hyper[key].as_f64().unwrap(), |key: &str| hyper[key].as_bool().unwrap());
        assert_eq!(number("wrapper_eps"), EPSILON);
        LarsConfig {
            momentum: number("momentum"),
            weight_decay: number("weight_decay"),
            eta: number("eta"),
            nesterov: flag("nesterov"),
            clip: flag("clip"),
            exclude_bias_and_norm: flag("exclude_bias_n_norm"),
        }
    }

    fn replay(family: &Family, case: &Value, kind: Kind) {
        let script = Script::read(family, case, kind);
        let parameters = script.parameters();
        let mut lars = Lars::new(&parameters, &config_of(family)).unwrap();
        for (step, lr) in case["lr_used_in_step"].as_array().unwrap().iter().enumerate() {
            let gradients = script.gradients(step);
            let gradients: Vec<_> = gradients.iter().map(Option::as_ref).collect();
            lars.step_along(lr.as_f64().unwrap(), &gradients).unwrap();
            for (name, parameter) in &parameters {
                script.assert_close(&format!("param.{name}"), Some(step), parameter);
            }
        }
        for (name, buffer) in lars.state() {
            script.assert_close(&format!("momentum.{name}"), None, &buffer);
        }
    }

    #[test]
    fn golden_lars_follows_the_reference_step_by_step() {
        let Some(family) = Family::open("lars") else { return };
        for case in family.cases() {
            replay(&family, case, Kind::Double);
            replay(&family, case, Kind::Float);
        }
    }

    fn leaf(values: &[f64], shape: &[i64]) -> Tensor {
        Tensor::from_slice(values).view(shape).set_requires_grad(true)
    }

    fn pair() -> Vec<(String, Tensor)> {
        vec![("weight".to_owned(), leaf(&[3.0, 4.0], &[1, 2])), ("bias".to_owned(), leaf(&[1.0], &[1]))]
    }

    fn set_gradient(parameter: &Tensor, gradient: &[f64]) {
        (parameter * Tensor::from_slice(gradient)).sum(None).backward();
    }

    #[test]
    fn a_step_reads_the_gradients_of_a_backward_pass() {
        let parameters = pair();
        let mut lars = Lars::new(&parameters, &LarsConfig { weight_decay: 0.0, ..LarsConfig::paper() }).unwrap();
        set_gradient(&parameters[0].1, &[0.0, 2.0]);
        lars.step(0.1).unwrap();
        // |p| = 5, |g| = 2: q = 0.005 * 5 / 2 / 0.1 = 0.125; the step is 0.1 * 0.125 * 2 * 1.9 along the second axis.
        assert_close("weight", &values(&parameters[0].1), &[3.0, 4.0 - 0.0475], 1e-9);
        assert_eq!(values(&parameters[1].1), [1.0], "a parameter without a gradient moved");
        lars.zero_grad();
        assert_eq!(values(&parameters[0].1.grad()), [0.0, 0.0]);
        assert!(parameters[0].1.requires_grad(), "the parameter left the graph");
    }

    #[test]
    fn every_switch_changes_the_step() {
        let moved = |config: &LarsConfig| {
            let parameters = pair();
            let mut lars = Lars::new(&parameters, config).unwrap();
            let gradients = [Tensor::from_slice(&[0.0, 1e-3]).view([1, 2]), Tensor::from_slice(&[1.0])];
            lars.step_along(0.1, &gradients.each_ref().map(Some)).unwrap();
            [values(&parameters[0].1)[1], values(&parameters[1].1)[0]]
        };
        let paper = LarsConfig { weight_decay: 0.0, ..LarsConfig::paper() };
        // The ratio 0.005 * 5 / 1e-3 / 0.1 is far above one: clipped, the step is lr * g * 1.9.
        assert_close("clipped", &moved(&paper), &[4.0 - 1.9e-4, 1.0 - 0.19], 1e-9);
        let free = LarsConfig { clip: false, ..paper.clone() };
        assert_close("not clipped", &moved(&free), &[4.0 - 25.0 * 1.9e-4, 1.0 - 0.19], 1e-6);
        let plain = LarsConfig { nesterov: false, ..paper.clone() };
        assert_close("heavy ball", &moved(&plain), &[4.0 - 1e-4, 1.0 - 0.1], 1e-9);
        let all = LarsConfig { exclude_bias_and_norm: false, ..paper };
        assert_close("bias scaled too", &moved(&all), &[4.0 - 1.9e-4, 1.0 - 0.05 * 0.19], 1e-9);
    }

    #[test]
    fn saved_momentum_continues_bit_for_bit_in_a_fresh_optimizer() {
        let run = |steps: std::ops::Range<usize>, parameters: &[(String, Tensor)], state: &[(String, Tensor)]| {
            let mut lars = Lars::new(parameters, &LarsConfig::paper()).unwrap();
            lars.load_state(state).unwrap();
            for step in steps {
                let gradient = Tensor::from_slice(&[step as f64 - 1.5, 0.3]).view([1, 2]);
                lars.step_along(0.2, &[Some(&gradient), None]).unwrap();
            }
            lars.state()
        };
        let fresh = Lars::new(&pair(), &LarsConfig::paper()).unwrap().state();
        let (whole, halves) = (pair(), pair());
        run(0..4, &whole, &fresh);
        let mut saved = run(0..2, &halves, &fresh);
        saved.reverse();
        run(2..4, &halves, &saved);
        assert_eq!(values(&whole[0].1), values(&halves[0].1));
    }

    #[test]
    fn a_state_that_does_not_fit_is_refused_whole_with_every_difference() {
        let mut lars = Lars::new(&pair(), &LarsConfig::paper()).unwrap();
        let good = Tensor::from_slice(&[7.0, 7.0]).view([1, 2]);
        let named = |name: &str, tensor: &Tensor| (name.to_owned(), tensor.shallow_clone());
        let state = [named("weight", &good), named("weight", &good), named("head", &good)];
        let message = lars.load_state(&state).unwrap_err().to_string();
        assert_eq!(
            message,
            "the saved momentum buffers do not fit the optimizer: \
             `weight` is given twice; `bias` is missing; `head` is unexpected"
        );
        let state = [named("weight", &good.to_kind(Kind::Float)), named("bias", &good)];
        let message = lars.load_state(&state).unwrap_err().to_string();
        assert!(message.contains("`weight` is Float of [1, 2], expected Double of [1, 2]"), "{message}");
        assert!(message.contains("`bias` is Double of [1, 2], expected Double of [1]"), "{message}");
        assert_eq!(values(&lars.state()[0].1), [0.0, 0.0], "a refused state was copied in part");
    }

    #[test]
    fn refuses_parameters_and_gradients_that_it_cannot_move() {
        let refusal = |parameters: &[(String, Tensor)]| {
            Lars::new(parameters, &LarsConfig::paper()).err().expect("not refused").to_string()
        };
        assert!(refusal(&[]).ends_with("there are none"));
        let counter = ("counter".to_owned(), Tensor::from_slice(&[1i64]));
        assert!(refusal(&[counter]).ends_with("`counter` holds Int64"));
        let [weight, bias] = <[_; 2]>::try_from(pair()).unwrap();
        let again = (bias.0.clone(), bias.1.shallow_clone());
        assert!(refusal(&[weight, bias, again]).ends_with("`bias` is given twice"));
        let mut lars = Lars::new(&pair(), &LarsConfig::paper()).unwrap();
        let message = lars.step_along(0.1, &[None]).unwrap_err().to_string();
        assert!(message.ends_with("expected 2 of them, found 1"), "{message}");
        let wide = Tensor::from_slice(&[1.0, 1.0]);
        let message = lars.step_along(0.1, &[None, Some(&wide)]).unwrap_err().to_string();
        assert!(message.contains("`bias` is Double of [2]"), "{message}");
        for lr in [f64::NAN, -0.1, f64::INFINITY] {
            let message = lars.step(lr).unwrap_err().to_string();
            assert_eq!(message, format!("`lr` must be at least 0 and finite, found {lr}"));
        }
    }

    #[test]
    fn refuses_settings_without_meaning() {
        let paper = LarsConfig::paper;
        let refused = [
            ("momentum", LarsConfig { momentum: f64::NAN, ..paper() }),
            ("momentum", LarsConfig { momentum: 1.0, ..paper() }),
            ("momentum", LarsConfig { momentum: -0.1, ..paper() }),
            ("weight_decay", LarsConfig { weight_decay: f64::NAN, ..paper() }),
            ("weight_decay", LarsConfig { weight_decay: -1e-4, ..paper() }),
            ("weight_decay", LarsConfig { weight_decay: f64::INFINITY, ..paper() }),
            ("eta", LarsConfig { eta: f64::NAN, ..paper() }),
            ("eta", LarsConfig { eta: 0.0, ..paper() }),
            ("eta", LarsConfig { eta: f64::INFINITY, ..paper() }),
            ("nesterov", LarsConfig { momentum: 0.0, ..paper() }),
        ];
        for (key, config) in refused {
            let message = Lars::new(&pair(), &config).err().expect("not refused").to_string();
            assert!(message.starts_with(&format!("`{key}` must be ")), "{config:?}: {message}");
        }
    }

    #[test]
    fn a_misspelt_key_is_refused_by_name() {
        let text = serde_json::to_string(&LarsConfig::paper()).unwrap();
        assert_eq!(serde_json::from_str::<LarsConfig>(&text).unwrap(), LarsConfig::paper());
        let error = serde_json::from_str::<LarsConfig>(&text.replace("eta", "etta")).unwrap_err().to_string();
        assert!(error.contains("unknown field `etta`"), "{error}");
    }
}
