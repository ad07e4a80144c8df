//! The family `loss`: values and gradients of the official functions, run in float64.

use empssl_golden::{Family, Tensors, assert_close};
use empssl_loss::{EmpSslLoss, EmpSslLossConfig, LossTerms, PatchInvariance, TotalCodingRate};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::{KINDS, values};

#[test]
fn golden_loss_closed_form() {
    for_every_input(|input, loss| {
        let (terms, gradient) = loss.value_and_gradient(&input.z).expect("golden projections are valid");
        input.check_terms(&terms);
        input.check_gradient("grad_total", &gradient);
    });
}

#[test]
fn golden_loss_through_a_graph() {
    for_every_input(|input, loss| {
        let z = input.z.set_requires_grad(true);
        let terms = loss.backward(&z).expect("golden projections are valid");
        input.check_terms(&terms);
        input.check_gradient("grad_total", &z.grad());
    });
}

#[test]
fn golden_loss_autograd() {
    for_every_input(|input, loss| {
        let z = input.z.set_requires_grad(true);
        let terms = loss.forward_autograd(&z).expect("golden projections are valid");
        terms.total.backward();
        input.check_terms(&terms);
        input.check_gradient("grad_total", &z.grad());
    });
}

#[test]
fn golden_loss_single_terms() {
    for_every_input(|input, loss| {
        let rate = TotalCodingRate::new(loss.config().eps_sq).expect("golden settings are valid");
        let per_patch = rate.per_patch(&input.z).expect("golden projections are valid");
        input.check_tensor("tcr_per_patch", &-per_patch);

        let (value, gradient) = rate.value_and_gradient(&input.z).expect("golden projections are valid");
        input.check_scalar("tcr_mean", &-value);
        input.check_gradient("grad_tcr", &-gradient);

        let (value, gradient) = PatchInvariance.value_and_gradient(&input.z).expect("golden projections are valid");
        input.check_scalar("invariance", &value);
        input.check_gradient("grad_invariance", &gradient);
    });
}

/// One set of projections, with what the official code made of them.
struct Input<'a> {
    case: &'a Value,
    tensors: &'a Tensors,
    /// Put in front of every name of a case with several inputs, such as `raw.`; empty otherwise.
    prefix: String,
    precision: &'static str,
    z: Tensor,
}

/// Calls `check` for every input of every case, in both precisions.
fn for_every_input(check: impl Fn(&Input<'_>, &EmpSslLoss)) {
    let Some(family) = Family::open("loss") else { return };
    assert!(!family.cases().is_empty(), "the index lists no cases");
    for case in family.cases() {
        let config = EmpSslLossConfig {
            invariance_weight: number(&case["patch_sim"]),
            coding_rate_weight: number(&case["tcr"]),
            eps_sq: number(&case["eps"]),
        };
        let loss = EmpSslLoss::new(&config).expect("golden settings are valid");
        let tensors = family.tensors(case["file"].as_str().expect("a case names its file"));
        for (kind, precision) in KINDS {
            for prefix in prefixes(case) {
                let z = projections(case, &tensors, &prefix).to_kind(kind);
                check(&Input { case, tensors: &tensors, prefix, precision, z }, &loss);
            }
        }
    }
}

/// The variants of a case: the prefixes that its scalars come with.
fn prefixes(case: &Value) -> Vec<String> {
    let scalars = case["scalars_float64"].as_object().expect("a case lists its scalars");
    scalars.keys().filter_map(|name| name.strip_suffix("total").map(str::to_owned)).collect()
}

/// The input of a variant, `[n, b, d]`.
fn projections(case: &Value, tensors: &Tensors, prefix: &str) -> Tensor {
    let shape = ["n_patches", "batch", "d"].map(|key| case[key].as_i64().expect("a case gives its sizes"));
    let z = Tensor::from_slice(&tensors.get("z").f64()).view(shape);
    match (prefix, tensors.find("row_scale")) {
        ("raw.", Some(scale)) => z * Tensor::from_slice(&scale.f64()).view([shape[0], shape[1], 1]),
        _ => z,
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("expected a number in the index, found {value}"))
}

impl Input<'_> {
    fn check_terms(&self, terms: &LossTerms) {
        self.check_scalar("total", &terms.total);
        self.check_scalar("invariance", terms.part("invariance"));
        self.check_scalar("tcr_mean", &-terms.part("coding_rate"));
    }

    fn check_scalar(&self, name: &str, ours: &Tensor) {
        let name = format!("{}{name}", self.prefix);
        self.compare(&name, &values(ours), &[number(&self.case["scalars_float64"][&name])]);
    }

    fn check_tensor(&self, name: &str, ours: &Tensor) {
        let name = format!("{}{name}", self.prefix);
        self.compare(&name, &values(ours), &self.tensors.get(&name).f64());
    }

    /// Compares a gradient with whatever form of it the case stores.
    fn check_gradient(&self, name: &str, ours: &Tensor) {
        let rows = ours.detach().to_kind(Kind::Double).flatten(0, 1);
        let full = format!("{}{name}", self.prefix);
        if self.tensors.find(&full).is_some() {
            self.check_full_gradient(&full, &rows);
        } else if self.tensors.find(&format!("{full}_rows")).is_some() {
            let sampled = Tensor::from_slice(&self.tensors.get("rows").i64());
            self.check_tensor(&format!("{name}_rows"), &rows.index_select(0, &sampled));
            self.check_tensor(&format!("{name}_row_norm"), &rows.norm_scalaropt_dim(2, [1i64].as_slice(), false));
            self.check_tensor(&format!("{name}_row_sum"), &sum(&rows, 1));
            self.check_tensor(&format!("{name}_col_sum"), &sum(&rows, 0));
        } else {
            assert_ne!(name, "grad_total", "{}: every case stores this gradient", self.case["name"]);
        }
    }

    /// Rows of length 0 have tolerances of their own: the clamp of their norm makes their gradient huge.
    fn check_full_gradient(&self, name: &str, ours: &Tensor) {
        let truth = Tensor::from_slice(&self.tensors.get(name).f64()).view_as(ours);
        if self.tolerance(name).is_some() {
            return self.compare(name, &values(ours), &values(&truth));
        }
        let is_zero = self.z.flatten(0, 1).abs().amax([1i64].as_slice(), false).eq(0.0);
        for (mask, suffix) in [(is_zero.logical_not(), "other rows"), (is_zero, "zero row")] {
            let pick = |rows: &Tensor| values(&rows.index_select(0, &mask.nonzero().view([-1])));
            self.compare(&format!("{name}[{suffix}]"), &pick(ours), &pick(&truth));
        }
    }

    fn compare(&self, name: &str, ours: &[f64], truth: &[f64]) {
        let label = format!("{} {} {name}", self.case["name"], self.precision);
        assert!(!truth.is_empty(), "{label}: nothing to compare with");
        let tolerance = self.tolerance(name).unwrap_or_else(|| panic!("{label}: the index gives no tolerance"));
        assert_close(&label, ours, truth, tolerance);
    }

    fn tolerance(&self, name: &str) -> Option<f64> {
        self.case["tolerance"][self.precision][name].as_f64()
    }
}

fn sum(rows: &Tensor, dim: i64) -> Tensor {
    rows.sum_dim_intlist([dim].as_slice(), false, None::<Kind>)
}
