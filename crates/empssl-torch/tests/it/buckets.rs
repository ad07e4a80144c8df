//! Gradients summed over ranks during a backward pass.

use empssl_torch::processes::{GradientBuckets, GroupError};
use tch::{Device, Kind, Tensor};

use crate::ranks;

fn parameters() -> Vec<Tensor> {
    let sizes: [&[i64]; 4] = [&[3, 2], &[5], &[2, 2, 2], &[1]];
    let leaf = |sizes: &&[i64]| Tensor::ones(*sizes, (Kind::Double, Device::Cpu)).set_requires_grad(true);
    sizes.iter().map(leaf).collect()
}

/// A function of all parameters but the last, with another gradient on every rank.
fn objective(parameters: &[Tensor], rank: usize) -> Tensor {
    let terms = parameters[..3]
        .iter()
        .enumerate()
        .map(|(index, p)| (p * p).sum(Kind::Double) * ((index + 1) * (rank + 1)) as f64);
    terms.sum()
}

fn gradients(parameters: &[Tensor]) -> Vec<f64> {
    parameters.iter().map(|p| p.grad().max().double_value(&[])).collect()
}

#[test]
fn every_gradient_is_summed_once_whatever_the_size_of_the_buckets() {
    ranks::everywhere("buckets::every_gradient_is_summed_once_whatever_the_size_of_the_buckets", 3, |group| {
        for bytes in [1, 50, GradientBuckets::BYTES] {
            let parameters = parameters();
            let list: Vec<&Tensor> = parameters.iter().collect();
            let mut buckets = GradientBuckets::new(group, &list, bytes).unwrap();
            for _ in 0..2 {
                list.iter().for_each(|p| p.shallow_clone().zero_grad());
                buckets.arm();
                objective(&parameters, group.rank()).backward();
                buckets.finish().unwrap();
                // 1 + 2 + 3 ranks, and a parameter that nobody reached.
                assert_eq!(gradients(&parameters), [12.0, 24.0, 36.0, 0.0]);
            }
            // Two passes in one step, of which the second is the last.
            list.iter().for_each(|p| p.shallow_clone().zero_grad());
            objective(&parameters, group.rank()).backward();
            buckets.arm();
            objective(&parameters, group.rank()).backward();
            buckets.finish().unwrap();
            assert_eq!(gradients(&parameters), [24.0, 48.0, 72.0, 0.0]);
            drop(buckets);
            objective(&parameters, group.rank()).backward();
            assert_eq!(gradients(&parameters)[0], 24.0 + 2.0 * (group.rank() + 1) as f64, "nobody listens any more");
        }
    });
}

#[test]
fn buckets_travel_during_the_pass_and_take_leaves_only() {
    ranks::everywhere("buckets::buckets_travel_during_the_pass_and_take_leaves_only", 2, |group| {
        let parameters = parameters();
        let list: Vec<&Tensor> = parameters[..3].iter().collect();
        let mut buckets = GradientBuckets::new(group, &list, 1).unwrap();
        let before = group.traffic().calls;
        buckets.arm();
        objective(&parameters, group.rank()).backward();
        assert_eq!(group.traffic().calls - before, 3, "all were sent before anybody asked");
        buckets.finish().unwrap();
        assert_eq!(group.traffic().calls - before, 3);
        let constant = Tensor::ones([2], (Kind::Double, Device::Cpu));
        let error = GradientBuckets::new(group, &[&constant], 1).unwrap_err();
        assert!(matches!(&error, GroupError::Refused(_)) && error.to_string().contains("parameter 0"), "{error}");
    });
}
