//! Forward, objective, backward, LARS and schedule together, step by step, against the official training loop.

use empssl_golden::{Family, GoldenTensor, Tensors, assert_close, processes};
use empssl_loss::{EmpSslLoss, EmpSslLossConfig};
use empssl_model::{Block, Mode, Network, NetworkConfig, ResNetConfig, Stem};
use empssl_train::{CosineSchedule, Lars, LarsConfig};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

#[test]
fn golden_step_float64() {
    all_cases(Kind::Double, "float64");
}

/// Instructions that every x86-64 processor has. Wider ones split sums elsewhere, and in float32 an activation within
/// rounding of zero may then land on the other side of a ReLU, which moves a gradient by far more than rounding.
const COMMON_INSTRUCTIONS: [(&str, &str); 3] =
    [("ATEN_CPU_CAPABILITY", "default"), ("ONEDNN_MAX_CPU_ISA", "SSE41"), ("MKL_CBWR", "COMPATIBLE")];

#[test]
fn golden_step_float32() {
    // They are chosen once in the life of a process.
    if COMMON_INSTRUCTIONS.iter().all(|(name, value)| std::env::var(name).as_deref() == Ok(value)) {
        return all_cases(Kind::Float, "float32");
    }
    processes::run_test("step::golden_step_float32", &COMMON_INSTRUCTIONS);
}

fn all_cases(kind: Kind, precision: &str) {
    // The reference ran on one thread; more threads split sums elsewhere, too.
    tch::set_num_threads(1);
    let Some(family) = Family::open("step") else { return };
    assert!(!family.cases().is_empty(), "the family `step` lists no case");
    for case in family.cases() {
        Case { family: &family, case, kind, precision }.check();
    }
}

struct Case<'a> {
    family: &'a Family,
    case: &'a Value,
    kind: Kind,
    precision: &'a str,
}

impl Case<'_> {
    fn check(&self) {
        let mut network = self.network();
        let loss = self.loss();
        let mut lars = Lars::new(network.parameters(), &self.lars_config()).unwrap();
        let schedule = CosineSchedule::new(self.f64("lr"), self.i64("T_max") as u64).unwrap();
        network.load_state_dict(&self.state(&self.tensors("init"), "")).unwrap();
        let (batches, truth) = (self.tensors("batches"), self.tensors("final"));
        let (x, z_truth) = (self.tensor(batches.get("x")), self.tensor(truth.get("z")));
        for step in 0..self.i64("steps") {
            let lr = schedule.lr(step as u64);
            assert_close("lr", &[lr], &[self.history("lr_used", step)], 1e-14);
            lars.zero_grad();
            let z = network.forward(&x.get(step), Mode::Train).projections;
            self.close(&format!("z of step {step}"), &z, &z_truth.get(step), self.tolerance_at("z", step));
            let (n, b) = (self.i64("n_patches"), self.i64("batch"));
            let terms = loss.backward(&z.view([n, b, -1])).unwrap();
            self.close_term("total", &terms.total, step);
            self.close_term("invariance", terms.part("invariance"), step);
            self.close_term("tcr_mean", &-terms.part("coding_rate"), step);
            lars.step(lr).unwrap();
            self.check_sums(&network, step);
        }
        for (key, ours) in network.state_dict() {
            let truth = self.tensor(truth.get(&format!("f64.{key}")));
            let tolerance = self.case["tolerance"][self.precision][format!("final.{key}")].as_f64();
            self.close(&key, &ours, &truth, tolerance.unwrap_or(0.0));
        }
    }

    fn network(&self) -> Network {
        let block = match self.text("block") {
            "BasicBlock" => Block::Basic,
            _ => Block::Bottleneck,
        };
        let stem = match self.text("stem") {
            "cifar" => Stem::Cifar,
            _ => Stem::Imagenet,
        };
        let layers: Vec<i64> = self.case["layers"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
        let resnet =
            ResNetConfig { block, layers: layers.try_into().unwrap(), base_width: self.i64("base_width"), stem };
        let config = NetworkConfig { resnet, hidden: self.i64("hidden_dim"), projection: self.i64("z_dim") };
        Network::new(&config, 1, self.kind, Device::Cpu).unwrap()
    }

    fn loss(&self) -> EmpSslLoss {
        let (invariance_weight, coding_rate_weight) = (self.f64("patch_sim"), self.f64("tcr"));
        EmpSslLoss::new(&EmpSslLossConfig { invariance_weight, coding_rate_weight, eps_sq: self.f64("eps") }).unwrap()
    }

    fn lars_config(&self) -> LarsConfig {
        let flag = |key: &str| self.case[key].as_bool().unwrap();
        LarsConfig {
            momentum: self.f64("momentum"),
            weight_decay: self.f64("weight_decay"),
            eta: self.f64("eta"),
            nesterov: flag("nesterov"),
            clip: flag("clip"),
            exclude_bias_and_norm: flag("exclude_bias_n_norm"),
        }
    }

    /// Sum and sum of absolute values of every parameter and buffer after a step.
    fn check_sums(&self, network: &Network, step: i64) {
        let at = |what: &str| &self.case[what][step as usize];
        let tolerance =
            |what: &str| self.case["checksum_tolerance"][self.precision][what][step as usize].as_f64().unwrap();
        for (key, tensor) in network.state_dict() {
            let (sums, tolerance) = match at("param_checksums").get(&key) {
                Some(sums) => (sums, tolerance("param")),
                None => (&at("buffer_checksums")[&key], tolerance("buffer")),
            };
            let truth = [sums[0].as_f64().unwrap(), sums[1].as_f64().unwrap()];
            let tensor = tensor.to_kind(Kind::Double);
            let ours = [tensor.sum(Kind::Double).double_value(&[]), tensor.abs().sum(Kind::Double).double_value(&[])];
            assert_close(
                &self.name(&format!("sums of {key} after step {step}")),
                &ours,
                &truth,
                tolerance * truth[1] + 1e-12,
            );
        }
    }

    fn close_term(&self, key: &str, ours: &Tensor, step: i64) {
        let name = format!("{key} of step {step}");
        assert_close(
            &self.name(&name),
            &[ours.double_value(&[])],
            &[self.history(key, step)],
            self.tolerance_at(key, step),
        );
    }

    fn close(&self, name: &str, ours: &Tensor, truth: &Tensor, tolerance: f64) {
        assert_eq!(ours.size(), truth.size(), "{}", self.name(name));
        let values =
            |tensor: &Tensor| Vec::<f64>::try_from(tensor.detach().to_kind(Kind::Double).flatten(0, -1)).unwrap();
        assert_close(&self.name(name), &values(ours), &values(truth), tolerance);
    }

    fn name(&self, what: &str) -> String {
        format!("{} {}: {what}", self.text("name"), self.precision)
    }

    fn history(&self, key: &str, step: i64) -> f64 {
        self.case["history_float64"][key][step as usize].as_f64().unwrap()
    }

    fn tolerance_at(&self, key: &str, step: i64) -> f64 {
        self.case["tolerance"][self.precision][key][step as usize].as_f64().unwrap()
    }

    fn state(&self, tensors: &Tensors, prefix: &str) -> Vec<(String, Tensor)> {
        tensors.iter().map(|(key, tensor)| (format!("{prefix}{key}"), self.tensor(tensor))).collect()
    }

    /// Counters stay integers; everything else takes the precision under test (rounding the truth so costs far less than
    /// any tolerance).
    fn tensor(&self, stored: &GoldenTensor) -> Tensor {
        if stored.sizes().is_empty() {
            return Tensor::from(stored.i64()[0]);
        }
        let tensor = Tensor::from_slice(&stored.f64()).view(stored.sizes().as_slice());
        tensor.to_kind(self.kind)
    }

    fn tensors(&self, key: &str) -> Tensors {
        self.family.tensors(self.text(key))
    }

    fn text(&self, key: &str) -> &str {
        self.case[key].as_str().unwrap()
    }

    fn i64(&self, key: &str) -> i64 {
        self.case[key].as_i64().unwrap()
    }

    fn f64(&self, key: &str) -> f64 {
        self.case[key].as_f64().unwrap()
    }
}
