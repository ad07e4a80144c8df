//! Batch normalisation over ranks is that of one process on the whole batch.

use empssl_torch::processes::ProcessGroup;
use tch::{Device, Kind, Tensor};

use crate::ranks;

/// Numbers that look like chance and are the same in every process.
fn noise(sizes: &[i64], seed: f64) -> Tensor {
    let count = sizes.iter().product::<i64>();
    let wild = ((Tensor::arange(count, (Kind::Double, Device::Cpu)) + seed) * 12.9898).sin() * 43_758.545_3;
    (&wild - wild.floor()).view(sizes)
}

/// Output, gradients of input, gain and bias, and running statistics.
struct Normalised([Tensor; 6]);

/// Gain and bias, and running statistics as they begin.
fn layer(x: &Tensor) -> [Tensor; 4] {
    let (channels, options) = (x.size()[1], (x.kind(), Device::Cpu));
    let leaf = |values: Tensor| values.to_kind(x.kind()).set_requires_grad(true);
    let [weight, bias] = [noise(&[channels], 3.0) + 0.5, noise(&[channels], 4.0)].map(leaf);
    [weight, bias, Tensor::zeros([channels], options), Tensor::ones([channels], options)]
}

/// A loss that is another function of every number of the batch, of those from the image `from` on.
fn loss(y: &Tensor, whole: &[i64], from: i64) -> Tensor {
    let target = (noise(whole, 9.0) * 2.0 - 1.0).to_kind(y.kind()).narrow(0, from, y.size()[0]);
    (y * y.sin() * target).sum(y.kind())
}

/// By libtorch's own normalisation in one process.
fn of_whole(x: &Tensor) -> Normalised {
    let x = x.copy().set_requires_grad(true);
    let [weight, bias, mean, variance] = layer(&x);
    let y = x.batch_norm(Some(&weight), Some(&bias), Some(&mean), Some(&variance), true, 0.1, 1e-5, false);
    loss(&y, &x.size(), 0).backward();
    Normalised([y.detach(), x.grad(), weight.grad(), bias.grad(), mean, variance])
}

/// By the group, of which this rank has its part of the batch and of the loss.
fn of_parts(whole: &Tensor, group: &ProcessGroup) -> Normalised {
    let (rank, part) = (group.rank() as i64, whole.size()[0] / group.world() as i64);
    let x = whole.narrow(0, rank * part, part).copy().set_requires_grad(true);
    let [weight, bias, mean, variance] = layer(&x);
    let y = group.batch_norm(&x, [&weight, &bias], Some(([&mean, &variance], 0.1)), 1e-5).unwrap();
    loss(&y, &whole.size(), rank * part).backward();
    let (dw, db) = (weight.grad(), bias.grad());
    group.sum(&dw).unwrap();
    group.sum(&db).unwrap();
    let together = |part: &Tensor| group.gather(part).unwrap().flatten(0, 1);
    Normalised([together(&y.detach()), together(&x.grad()), dw, db, mean, variance])
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let largest = |x: Tensor| x.to_kind(Kind::Double).abs().max().double_value(&[]);
    largest(a.to_kind(Kind::Double) - b.to_kind(Kind::Double)) / largest(b.copy()).max(1e-300)
}

fn assert_close(whole: &Tensor, group: &ProcessGroup, truth: &Tensor, tolerance: f64) {
    let names = ["output", "dx", "dw", "db", "running mean", "running variance"];
    let (ours, theirs) = (of_parts(whole, group), of_whole(truth));
    for ((name, ours), theirs) in names.iter().zip(&ours.0).zip(&theirs.0) {
        let distance = distance(ours, theirs);
        assert!(distance <= tolerance, "{name} of {:?} {:?}: {distance}", whole.kind(), whole.size());
    }
}

#[test]
fn a_batch_over_ranks_is_normalised_as_one() {
    ranks::everywhere("norm::a_batch_over_ranks_is_normalised_as_one", 3, |group| {
        let offset = Tensor::arange(5, (Kind::Double, Device::Cpu));
        let maps = noise(&[6, 5, 3, 4], 1.0) * 3.0 + offset.view([5, 1, 1]);
        let rows = noise(&[6, 5], 2.0) - &offset;
        for x in [&maps, &rows] {
            assert_close(x, group, x, 1e-12);
            assert_close(&x.to_kind(Kind::Float), group, x, 1e-5);
        }
        let last = maps.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        assert_close(&last, group, &maps, 1e-12);
        // One number a channel on each rank: no rank could normalise its part alone.
        assert_close(&rows.narrow(0, 0, 3), group, &rows.narrow(0, 0, 3), 1e-12);
    });
}

#[test]
fn a_mean_far_from_zero_leaves_the_variance_its_digits() {
    ranks::everywhere("norm::a_mean_far_from_zero_leaves_the_variance_its_digits", 2, |group| {
        // Sums of squares in float32 would leave no digit of a variance a millionth of the squared mean.
        let x = ((noise(&[64, 2, 4, 4], 5.0) + 1000.0).to_kind(Kind::Float)).to_kind(Kind::Double);
        let (ours, truth) = (of_parts(&x.to_kind(Kind::Float), group), of_whole(&x));
        assert!(distance(&ours.0[5], &truth.0[5]) <= 1e-5, "running variance");
        assert!(distance(&ours.0[0], &truth.0[0]) <= 1e-3, "output");
    });
}

#[test]
fn what_needs_no_gradient_gets_none_and_running_statistics_may_stay() {
    ranks::everywhere("norm::what_needs_no_gradient_gets_none_and_running_statistics_may_stay", 2, |group| {
        let x = noise(&[4, 3], group.rank() as f64);
        let weight = Tensor::ones([3], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let bias = Tensor::zeros([3], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let y = group.batch_norm(&x, [&weight, &bias], None, 1e-5).unwrap();
        (&y * &y).sum(Kind::Double).backward();
        assert!(!x.grad().defined() && weight.grad().defined());
        let y = tch::no_grad(|| group.batch_norm(&x, [&weight, &bias], None, 1e-5).unwrap());
        assert!(!y.requires_grad());
        let error = group.batch_norm(&x, [&weight.narrow(0, 0, 2), &bias], None, 1e-5).unwrap_err().to_string();
        assert!(error.starts_with("libtorch: "), "{error}");
        group.barrier().unwrap();
    });
}
