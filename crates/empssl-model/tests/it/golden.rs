//! The family `resnet`: the official encoder around torchvision's ResNet.

use empssl_golden::{Family, Tensors, assert_close};
use empssl_loss::{EmpSslLoss, EmpSslLossConfig};
use empssl_model::{Block, Embedding, Mode, Network, NetworkConfig, ResNetConfig, Stem};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::{build, values};

/// Both types that networks are kept in, by the names of the golden index.
const KINDS: [(Kind, &str); 2] = [(Kind::Double, "float64"), (Kind::Float, "float32")];

#[test]
fn golden_resnet_forward_backward_and_buffers() {
    let Some(family) = Family::open("resnet") else { return };
    assert!(!family.cases().is_empty(), "the index lists no cases");
    for case in family.cases() {
        for (kind, precision) in KINDS {
            Run::new(&family, case, kind, precision).check();
        }
    }
}

/// A network with golden weights, and what the official one did with the same weights and patches.
struct Run<'a> {
    case: &'a Value,
    precision: &'static str,
    data: Tensors,
    network: Network,
    x: Tensor,
}

impl<'a> Run<'a> {
    fn new(family: &Family, case: &'a Value, kind: Kind, precision: &'static str) -> Self {
        let mut network = build(&network_config(case), kind);
        let weights = family.tensors(text(&case["weights"]));
        let weights: Vec<_> = weights.iter().map(|(key, tensor)| (key.to_owned(), stored(tensor, key))).collect();
        network.load_state_dict(&weights).expect("golden weights fit");
        let data = family.tensors(text(&case["data"]));
        let x = data.get("x");
        let x = Tensor::from_slice(&x.f64()).view(x.sizes().as_slice()).to_kind(kind);
        Self { case, precision, data, network, x }
    }

    /// In the order in which the official network was run.
    fn check(&self) {
        self.check_names();
        self.check_embedding("eval_before", &self.network.forward(&self.x, Mode::Eval));
        let embedding = self.network.forward(&self.x, Mode::Train);
        self.check_embedding("train", &embedding);
        self.check_gradients(&embedding.projections);
        self.check_buffers();
        self.check_embedding("eval_after", &self.network.forward(&self.x, Mode::Eval));
        let features = self.network.encode(&self.x, Mode::Eval);
        self.check_tensor("eval_after.pre_feature", &features);
    }

    fn check_names(&self) {
        let names: Vec<_> = self.network.parameters().iter().map(|(key, _)| Value::from(key.as_str())).collect();
        assert_eq!(Value::from(names), self.case["parameter_order"]);
    }

    fn check_embedding(&self, stage: &str, embedding: &Embedding) {
        self.check_tensor(&format!("{stage}.feature"), &embedding.backbone);
        self.check_tensor(&format!("{stage}.pre_feature"), &embedding.features);
        self.check_tensor(&format!("{stage}.z"), &embedding.projections);
    }

    fn check_gradients(&self, projections: &Tensor) {
        let number = |key: &str| self.case[key].as_f64().expect("the index gives the settings of the loss");
        let config = EmpSslLossConfig {
            invariance_weight: number("patch_sim"),
            coding_rate_weight: number("tcr"),
            eps_sq: number("eps"),
        };
        let z = projections.view([whole(&self.case["n_patches"]), whole(&self.case["batch"]), -1]);
        let terms = EmpSslLoss::new(&config).and_then(|loss| loss.backward(&z)).expect("golden settings are valid");
        for (name, ours) in [
            ("total", &terms.total),
            ("invariance", terms.part("invariance")),
            ("tcr_mean", &-terms.part("coding_rate")),
        ] {
            let truth = self.case["scalars_float64"][name].as_f64().expect("the index gives the loss");
            self.compare(name, ours, &[truth]);
        }
        for (key, parameter) in self.network.parameters() {
            self.check_tensor(&format!("grad.{key}"), &parameter.grad());
        }
    }

    fn check_buffers(&self) {
        let state = self.network.state_dict();
        let buffers = state.iter().filter(|(key, _)| self.data.find(&format!("buffer_after.{key}")).is_some());
        let checked = buffers.inspect(|(key, ours)| self.check_tensor(&format!("buffer_after.{key}"), ours)).count();
        assert_eq!(checked, state.len() - self.network.parameters().len());
    }

    fn check_tensor(&self, name: &str, ours: &Tensor) {
        let truth = self.data.get(name);
        assert_eq!(ours.size(), truth.sizes(), "{name}");
        self.compare(name, ours, &truth.f64());
    }

    fn compare(&self, name: &str, ours: &Tensor, truth: &[f64]) {
        let label = format!("{} {} {name}", self.case["name"], self.precision);
        let tolerance = self.case["tolerance"][self.precision][name].as_f64();
        let tolerance = tolerance.unwrap_or_else(|| panic!("{label}: the index gives no tolerance"));
        assert_close(&label, &values(ours), truth, tolerance);
    }
}

/// A golden weight in the type it is stored in.
fn stored(tensor: &empssl_golden::GoldenTensor, key: &str) -> Tensor {
    let flat = if key.ends_with("num_batches_tracked") {
        Tensor::from_slice(&tensor.i64())
    } else {
        Tensor::from_slice(&tensor.f64()).to_kind(Kind::Float)
    };
    flat.view(tensor.sizes().as_slice())
}

fn network_config(case: &Value) -> NetworkConfig {
    let block = match text(&case["block"]) {
        "BasicBlock" => Block::Basic,
        "Bottleneck" => Block::Bottleneck,
        other => panic!("unknown block {other}"),
    };
    let layers = std::array::from_fn(|i| whole(&case["layers"][i]));
    let resnet =
        ResNetConfig { block, layers, base_width: whole(&case["base_width"]), stem: stem(text(&case["stem"])) };
    assert_eq!(resnet.width(), whole(&case["feature_dim"]));
    NetworkConfig { resnet, hidden: whole(&case["hidden_dim"]), projection: whole(&case["z_dim"]) }
}

fn stem(name: &str) -> Stem {
    match name {
        "cifar" => Stem::Cifar,
        "tinyimagenet" => Stem::TinyImagenet,
        "imagenet" => Stem::Imagenet,
        other => panic!("unknown stem {other}"),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("expected text in the index, found {value}"))
}

fn whole(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("expected a whole number in the index, found {value}"))
}

/// Reads a JSON file of the family beside its index.
pub(crate) fn beside_index(file: &str) -> Option<Value> {
    Family::open("resnet").map(|family| family.json(file))
}

/// `resnet18-cifar`, `resnet50`, ... at full size; plain torchvision networks have the ImageNet stem.
pub(crate) fn full_size(architecture: &str) -> ResNetConfig {
    let (depth, stem_name) = architecture.split_once('-').unwrap_or((architecture, "imagenet"));
    match depth {
        "resnet18" => ResNetConfig::resnet18(stem(stem_name)),
        "resnet34" => ResNetConfig::resnet34(stem(stem_name)),
        "resnet50" => ResNetConfig::resnet50(stem(stem_name)),
        other => panic!("unknown architecture {other}"),
    }
}

#[test]
fn golden_resnet_keys_shapes_and_order_of_full_size_networks() {
    let Some(lists) = beside_index("state_dict_keys.json") else { return };
    for (model, list) in lists["models"].as_object().expect("the file lists models") {
        let encoder = model.strip_prefix("encoder(").and_then(|rest| rest.strip_suffix(')'));
        let backbone = model.strip_prefix("backbone ").or(model.strip_prefix("torchvision "));
        let architecture = encoder.or(backbone).unwrap_or_else(|| panic!("unknown model {model}"));
        // The heads are compared in the encoders; beside a bare backbone they only cost time.
        let small = NetworkConfig { resnet: full_size(architecture), hidden: 1, projection: 1 };
        let config = if encoder.is_some() { NetworkConfig::paper(small.resnet) } else { small };
        let network = build(&config, Kind::Float);
        let ours = if encoder.is_some() { network.state_dict() } else { network.backbone_state_dict() };
        let trained: Vec<_> = network.parameters().iter().map(|(key, _)| key.as_str()).collect();
        let prefix = if encoder.is_some() { "" } else { "backbone." };
        let ours = ours.iter().map(|(key, tensor)| {
            let kind = if trained.contains(&format!("{prefix}{key}").as_str()) { "parameter" } else { "buffer" };
            let dtype = if tensor.kind() == Kind::Int64 { "I64" } else { "F32" };
            serde_json::json!({"key": key, "shape": tensor.size(), "dtype": dtype, "kind": kind})
        });
        let theirs = list["keys"].as_array().expect("a model lists its keys").iter().cloned();
        let theirs = theirs.filter(|entry| !text(&entry["key"]).starts_with("fc."));
        assert_eq!(ours.collect::<Vec<_>>(), theirs.collect::<Vec<_>>(), "{model}");
    }
}
