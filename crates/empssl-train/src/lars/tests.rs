//! LARS against the reference and by hand.

use super::*;
use empssl_golden::{Family, Tensors, assert_close};
use serde_json::Value;
use tch::Device;

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
    assert!(!parameters[0].1.grad().defined());
    lars.step(0.1).unwrap();
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
    let still = LarsConfig { nesterov: false, momentum: 0.0, ..paper.clone() };
    assert_close("no momentum", &moved(&still), &[4.0 - 1e-4, 1.0 - 0.1], 1e-9);
    let all = LarsConfig { exclude_bias_and_norm: false, ..paper };
    assert_close("bias scaled too", &moved(&all), &[4.0 - 1.9e-4, 1.0 - 0.05 * 0.19], 1e-9);
}

/// Parameters of many shapes, the weights of convolutions with their channels last where asked for.
fn network(n_layers: i64, channels_last: bool) -> Vec<(String, Tensor)> {
    let wave = |size: &[i64]| {
        let numbers = Tensor::arange(size.iter().product::<i64>(), (Kind::Double, Device::Cpu));
        let tensor = (numbers * 0.7 + size[0] as f64).sin().view(size);
        let last = channels_last && size.len() == 4;
        let tensor = if last { tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]) } else { tensor };
        tensor.set_requires_grad(true)
    };
    let layer = |index: i64| {
        let shapes = [vec![4 + index, 3, 3, 3], vec![5, 60 + index], vec![300 + index]];
        shapes.into_iter().map(move |shape| (format!("{index}.{}", shape.len()), wave(&shape)))
    };
    (0..n_layers).flat_map(layer).collect()
}

fn gradients(parameters: &[(String, Tensor)], step: i64) -> Vec<Tensor> {
    parameters.iter().map(|(_, parameter)| (parameter.detach() * 3.0 + step as f64).cos()).collect()
}

fn steps(lars: &mut Lars, parameters: &[(String, Tensor)], range: std::ops::Range<i64>) {
    for step in range {
        let gradients = gradients(parameters, step);
        lars.step_along(0.2, &gradients.iter().map(Some).collect::<Vec<_>>()).unwrap();
    }
}

#[test]
fn both_layouts_lead_to_the_same_place() {
    let ends = [false, true].map(|channels_last| {
        let parameters = network(3, channels_last);
        let strides: Vec<_> = parameters.iter().map(|(_, parameter)| parameter.stride()).collect();
        let mut lars = Lars::new(&parameters, &LarsConfig::paper()).unwrap();
        steps(&mut lars, &parameters, 0..5);
        assert_eq!(parameters.iter().map(|(_, parameter)| parameter.stride()).collect::<Vec<_>>(), strides);
        parameters.iter().flat_map(|(_, parameter)| values(parameter)).collect::<Vec<_>>()
    });
    assert_close("parameters", &ends[1], &ends[0], 1e-12);
}

#[test]
fn a_layout_that_changes_between_steps_takes_the_momentum_along() {
    let (still, changed) = (network(2, false), network(2, false));
    let mut optimizers = [&still, &changed].map(|parameters| Lars::new(parameters, &LarsConfig::paper()).unwrap());
    steps(&mut optimizers[0], &still, 0..4);
    steps(&mut optimizers[1], &changed, 0..2);
    for (_, parameter) in changed.iter().filter(|(_, parameter)| parameter.dim() == 4) {
        let last = parameter.detach().permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        parameter.shallow_clone().set_data(&last);
    }
    steps(&mut optimizers[1], &changed, 2..4);
    for ((name, still), (_, changed)) in still.iter().zip(&changed) {
        assert_close(name, &values(changed), &values(still), 1e-12);
    }
}

#[test]
fn a_missing_gradient_leaves_its_parameter_alone() {
    let parameters = network(2, false);
    let before = values(&parameters[1].1);
    let mut lars = Lars::new(&parameters, &LarsConfig::paper()).unwrap();
    let gradients = gradients(&parameters, 1);
    let given: Vec<_> = gradients.iter().enumerate().map(|(i, g)| (i != 1).then_some(g)).collect();
    lars.step_along(0.2, &given).unwrap();
    lars.step_along(0.2, &vec![None; parameters.len()]).unwrap();
    assert_eq!(values(&parameters[1].1), before);
    assert_eq!(values(&lars.state()[1].1).iter().map(|value| value.abs()).sum::<f64>(), 0.0);
    assert_ne!(values(&lars.state()[0].1)[0], 0.0);
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
    assert!(refusal(&[counter]).ends_with("`counter` is Int64 on Cpu, expected Float on Cpu"));
    let half = ("half".to_owned(), leaf(&[1.0], &[1]).to_kind(Kind::Half));
    assert!(
        refusal(&[("weight".to_owned(), leaf(&[1.0], &[1])), half])
            .ends_with("`half` is Half on Cpu, expected Double on Cpu")
    );
    let gaps = leaf(&[1.0, 2.0, 3.0, 4.0], &[4]).slice(0, 0, 4, 2);
    assert!(refusal(&[("gaps".to_owned(), gaps)]).ends_with("`gaps` does not fill its memory"));
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
