//! What holds for any projections, and the closed form against two other ways to the same gradient.

use empssl_loss::{EmpSslLoss, EmpSslLossConfig};
use proptest::prelude::{ProptestConfig, Strategy, prop_assert, proptest};
use tch::{Device, Kind, Tensor};

use crate::values;

/// Projections with rows of length 1 or of very different lengths, on both sides of b = d.
fn projections() -> impl Strategy<Value = Tensor> {
    (1..5i64, 1..9i64, 1..9i64, 0..u64::MAX / 2, proptest::bool::ANY).prop_map(|(n, b, d, seed, normalised)| {
        let z = seeded(seed, [n, b, d]);
        if normalised { unit_rows(&z) } else { z * (seeded(seed + 1, [n, b, 1]) * 3.0).exp() }
    })
}

/// Numbers between -1 and 1 by SplitMix64: libtorch's own generator is shared by all tests that run at this moment.
fn seeded(seed: u64, size: [i64; 3]) -> Tensor {
    let mut state = seed;
    let draw = |_| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) as f64 / 2f64.powi(63) - 1.0
    };
    Tensor::from_slice(&(0..size.iter().product()).map(draw).collect::<Vec<_>>()).view(size)
}

fn unit_rows(z: &Tensor) -> Tensor {
    z / z.norm_scalaropt_dim(2, [2i64].as_slice(), true)
}

fn loss(invariance_weight: f64, coding_rate_weight: f64) -> EmpSslLoss {
    let config = EmpSslLossConfig { invariance_weight, coding_rate_weight, eps_sq: 0.2 };
    EmpSslLoss::new(&config).expect("the settings are valid")
}

fn total(loss: &EmpSslLoss, z: &Tensor) -> f64 {
    loss.value_and_gradient(z).expect("the projections are valid").0.total.double_value(&[])
}

/// The same projections in another order along one dimension.
fn shuffled(z: &Tensor, dim: i64) -> Tensor {
    let length = z.size()[dim as usize];
    z.index_select(dim, &seeded(99, [length, 1, 1]).flatten(0, -1).argsort(0, false))
}

/// The largest deviation from `truth`, relative to its largest entry.
fn relative_deviation(ours: &Tensor, truth: &Tensor) -> f64 {
    let deviation = (ours.to_kind(Kind::Double) - truth).abs().max().double_value(&[]);
    deviation / truth.abs().max().double_value(&[]).max(1e-12)
}

/// So many cases, in every run the same: `.cargo/config.toml` sets the seed.
fn settings() -> ProptestConfig {
    ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn order_of_images_and_of_patches_does_not_matter(z in projections()) {
        let loss = loss(200.0, 1.0);
        let reference = total(&loss, &z);
        for dim in [0, 1] {
            let deviation = (total(&loss, &shuffled(&z, dim)) - reference).abs();
            prop_assert!(deviation <= 1e-10 * reference.abs(), "dimension {dim}: {deviation:e}");
        }
    }

    #[test]
    fn the_closed_form_is_the_gradient_that_autograd_finds(z in projections()) {
        let loss = loss(3.0, 1.0);
        let (terms, gradient) = loss.value_and_gradient(&z).expect("the projections are valid");
        let leaf = z.set_requires_grad(true);
        let autograd = loss.forward_autograd(&leaf).expect("the projections are valid");
        autograd.total.backward();
        prop_assert!(relative_deviation(&terms.total, &autograd.total.detach()) <= 1e-10);
        prop_assert!(relative_deviation(&gradient, &leaf.grad()) <= 1e-8);
    }

    #[test]
    fn the_gradient_predicts_small_steps(z in projections()) {
        let loss = loss(3.0, 1.0);
        let (_, gradient) = loss.value_and_gradient(&z).expect("the projections are valid");
        let direction = unit_rows(&seeded(7, z.size3().expect("projections have three dimensions").into()));
        // Rows differ in length, so each moves by the same small part of its own.
        let step = direction * z.norm_scalaropt_dim(2, [2i64].as_slice(), true) * 1e-5;
        let predicted = 2.0 * (&gradient * &step).sum(Kind::Double).double_value(&[]);
        let seen = total(&loss, &(&z + &step)) - total(&loss, &(&z - &step));
        prop_assert!((seen - predicted).abs() <= 1e-6 * predicted.abs() + 1e-11, "seen {seen:e}, predicted {predicted:e}");
    }

    #[test]
    fn the_weights_are_weights(z in projections()) {
        let separate = [loss(200.0, 0.0), loss(0.0, 3.0)].map(|loss| total(&loss, &z));
        let together = total(&loss(200.0, 3.0), &z);
        prop_assert!((separate[0] + separate[1] - together).abs() <= 1e-10 * together.abs().max(1.0));
    }
}

#[test]
fn orthogonal_images_beat_collapsed_ones() {
    let (n, b, d) = (3, 6, 8);
    let orthogonal = Tensor::eye(d, (Kind::Double, Device::Cpu)).narrow(0, 0, b).expand([n, b, d], false);
    let collapsed = orthogonal.narrow(1, 0, 1).expand([n, b, d], false);
    let loss = loss(200.0, 1.0);
    let [spread, collapse] = [&orthogonal, &collapsed].map(|z| loss.value_and_gradient(z).expect("valid").0);
    // Patches agree in both, so the coding rate decides.
    for terms in [&spread, &collapse] {
        assert!((terms.part("invariance").double_value(&[]) + 1.0).abs() < 1e-12);
    }
    let scale = d as f64 / (b as f64 * 0.2);
    let expected = [b as f64 * (1.0 + scale).ln() / 2.0, (1.0 + b as f64 * scale).ln() / 2.0];
    for (terms, expected) in [&spread, &collapse].into_iter().zip(expected) {
        assert!(
            (terms.part("coding_rate").double_value(&[]) - expected).abs() < 1e-12,
            "{terms:?}, expected {expected}"
        );
    }
    assert!(spread.total.double_value(&[]) < collapse.total.double_value(&[]));
}

#[test]
fn narrow_types_are_computed_in_float32_and_get_their_gradient_in_their_own() {
    let loss = loss(200.0, 1.0);
    for (kind, tolerance) in [(Kind::Half, 1e-3), (Kind::BFloat16, 8e-3), (Kind::Float, 1e-5)] {
        let z = unit_rows(&seeded(3, [4, 10, 24])).to_kind(kind);
        let (terms, gradient) = loss.value_and_gradient(&z).expect("the projections are valid");
        let (truth, true_gradient) = loss.value_and_gradient(&z.to_kind(Kind::Double)).expect("valid");
        assert_eq!((terms.total.kind(), gradient.kind()), (Kind::Float, kind));
        let deviation = (terms.total.double_value(&[]) / truth.total.double_value(&[]) - 1.0).abs();
        assert!(deviation < 1e-6, "{kind:?}: the value is off by {deviation:e}");
        assert!(relative_deviation(&gradient, &true_gradient) < tolerance, "{kind:?}");

        let leaf = z.set_requires_grad(true);
        let _ = loss.backward(&leaf).expect("the projections carry a graph");
        assert_eq!(values(&leaf.grad()), values(&gradient), "{kind:?}");
    }
}

#[test]
fn float32_gradients_are_exact_to_five_digits_at_the_published_size() {
    let loss = EmpSslLoss::new(&EmpSslLossConfig::paper()).expect("the published settings are valid");
    for size in [[4, 100, 1024], [5, 128, 64]] {
        let z = unit_rows(&seeded(11, size)).to_kind(Kind::Float);
        let (_, truth) = loss.value_and_gradient(&z.to_kind(Kind::Double)).expect("valid");
        let (_, gradient) = loss.value_and_gradient(&z).expect("valid");
        let deviation = relative_deviation(&gradient, &truth);
        assert!(deviation <= 1e-5, "{size:?}: {deviation:e}");
    }
}

#[test]
fn any_layout_of_memory_gives_the_same_result() {
    let loss = loss(200.0, 1.0);
    let z = seeded(5, [3, 7, 4]);
    let strided = z.permute([2, 0, 1]).contiguous().permute([1, 2, 0]);
    assert!(!strided.is_contiguous());
    let (_, gradient) = loss.value_and_gradient(&z).expect("valid");
    let (_, from_strided) = loss.value_and_gradient(&strided).expect("valid");
    assert!(relative_deviation(&from_strided, &gradient) < 1e-12);
}
