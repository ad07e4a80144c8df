//! Settings and projections that are refused at the door, and values that are not: they must show in the result.

use empssl_loss::{EmpSslLoss, EmpSslLossConfig, LossError, PatchInvariance, TotalCodingRate};
use tch::{Device, Kind, Tensor};

fn paper() -> EmpSslLoss {
    EmpSslLoss::new(&EmpSslLossConfig::paper()).expect("the published settings are valid")
}

fn refusal(config: EmpSslLossConfig) -> LossError {
    EmpSslLoss::new(&config).expect_err("the settings are not valid")
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let good = EmpSslLossConfig::paper();
    for bad in [0.0, -0.2, f64::NAN, f64::INFINITY] {
        let message = refusal(EmpSslLossConfig { eps_sq: bad, ..good.clone() }).to_string();
        assert_eq!(message, format!("`eps_sq` must be a finite number above 0, found {bad}"));
        assert!(TotalCodingRate::new(bad).is_err());
    }
    for bad in [-1.0, f64::NAN, f64::INFINITY] {
        let message = refusal(EmpSslLossConfig { invariance_weight: bad, ..good.clone() }).to_string();
        assert_eq!(message, format!("`invariance_weight` must be a finite number, 0 or more, found {bad}"));
        let message = refusal(EmpSslLossConfig { coding_rate_weight: bad, ..good.clone() }).to_string();
        assert_eq!(message, format!("`coding_rate_weight` must be a finite number, 0 or more, found {bad}"));
    }
}

#[test]
fn unknown_settings_are_refused() {
    let text = r#"{"invariance_weight": 200.0, "coding_rate_weight": 1.0, "eps": 0.2}"#;
    let message = serde_json::from_str::<EmpSslLossConfig>(text).expect_err("`eps` is not a setting").to_string();
    assert!(message.contains("unknown field `eps`"), "{message}");
}

#[test]
fn projections_of_another_shape_are_refused_with_the_shape() {
    for size in [vec![], vec![8], vec![4, 8], vec![2, 2, 4, 8], vec![0, 4, 8], vec![2, 0, 8], vec![2, 4, 0]] {
        let z = Tensor::zeros(&size, (Kind::Float, Device::Cpu));
        let expected = LossError::Shape { found: size };
        assert_eq!(paper().value_and_gradient(&z).expect_err("refused"), expected);
        assert_eq!(paper().forward_autograd(&z).expect_err("refused"), expected);
        assert_eq!(PatchInvariance.value_and_gradient(&z).expect_err("refused"), expected);
        assert!(expected.to_string().contains("[n patches, b images, d features]"));
    }
}

#[test]
fn projections_that_are_not_floats_are_refused_with_their_type() {
    let z = Tensor::ones([2, 4, 8], (Kind::Int64, Device::Cpu));
    assert_eq!(paper().value_and_gradient(&z).expect_err("refused"), LossError::Kind { found: Kind::Int64 });
}

#[test]
fn a_backward_pass_needs_a_graph() {
    let z = Tensor::ones([2, 4, 8], (Kind::Float, Device::Cpu));
    assert_eq!(paper().backward(&z).expect_err("refused"), LossError::NoGraph);
}

#[test]
fn a_backward_pass_works_where_gradients_are_switched_off() {
    let z = Tensor::arange(64, (Kind::Float, Device::Cpu)).sin().view([2, 4, 8]).set_requires_grad(true);
    let _no_graph = tch::no_grad_guard();
    let _ = paper().backward(&z).expect("the projections carry a graph");
    assert!(z.grad().defined());
}

#[test]
fn values_that_are_not_finite_show_in_the_terms_and_in_the_gradient() {
    for (b, d) in [(4, 8), (8, 4)] {
        // The last makes the Gram matrix overflow although every number is finite.
        for bad in [f64::NAN, f64::INFINITY, 1e30] {
            let z = Tensor::ones([2, b, d], (Kind::Float, Device::Cpu));
            let _ = z.get(1).get(0).fill_(bad);
            let (terms, gradient) = paper().value_and_gradient(&z).expect("values are not checked");
            assert!(!terms.total.double_value(&[]).is_finite(), "b {b}, d {d}, {bad}: {terms:?}");
            let finite = bool::try_from(gradient.isfinite().all()).expect("a 0-d tensor becomes a bool");
            assert!(!finite, "b {b}, d {d}, {bad}: the gradient hides it");
        }
    }
}

#[test]
fn a_patch_without_a_factor_leaves_no_finite_rate() {
    let z = Tensor::ones([2, 3, 6], (Kind::Double, Device::Cpu));
    let _ = z.get(1).get(2).fill_(f64::NAN);
    let rate = TotalCodingRate::new(0.2).expect("valid");
    let rates: Vec<f64> = rate.per_patch(&z).expect("values are not checked").try_into().expect("flat");
    assert!(rates[0].is_finite() && rates[1].is_nan(), "{rates:?}");
}

/// Rows so long and so alike that float32 cannot tell their Gram matrix from a singular one. The unfinished factor
/// would still give finite numbers.
#[test]
fn a_factorisation_that_stops_spoils_its_patch_alone() {
    for (b, d) in [(8, 16), (16, 8)] {
        let ripple = Tensor::arange(b * d, (Kind::Float, Device::Cpu)).sin().view([1, b, d]) * 1e-4;
        let alike = (ripple + 1.0) * 1e4;
        let z = Tensor::cat(&[&Tensor::eye_m(b, d, (Kind::Float, Device::Cpu)).unsqueeze(0), &alike], 0);
        let rate = TotalCodingRate::new(0.2).expect("valid");
        let rates: Vec<f32> = rate.per_patch(&z).expect("values are not checked").try_into().expect("flat");
        assert!(rates[0].is_finite() && rates[1].is_nan(), "{rates:?}");
        let (_, gradient) = rate.value_and_gradient(&z).expect("values are not checked");
        let finite = |patch| bool::try_from(gradient.get(patch).isfinite().any()).expect("a 0-d tensor becomes a bool");
        assert!(finite(0) && !finite(1), "b {b}, d {d}");
    }
}
