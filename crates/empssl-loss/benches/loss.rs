//! The objective, forward and backward, in closed form and as published.
//!
//! `empssl/*` is [`EmpSslLoss::backward`]; `reference/*` is the published formula (tsb0601/EMP-SSL `loss.py:76-90`,
//! `main.py:76-102`): a loop over the patches, a `d x d` log-determinant each, gradients by autograd. Both run on the
//! same libtorch with the same threads, on unit rows, and end with the gradient in `z.grad()`. Both run with freed
//! memory kept by the process: otherwise a fresh gradient of 80 MB costs more in page faults than in arithmetic.
//!
//! `floor/*` is the arithmetic that no form of the objective avoids: the Gram matrices, one Cholesky factorisation of
//! each, and one product of as many operations as the Gram matrices for the gradient.
//!
//! The reference at n = 200 takes over ten seconds an iteration and runs only when it is asked for by name:
//! `cargo bench -p empssl-loss -- reference/n200_b100_d1024`. What each takes of the memory is told by the bench `peak`.

mod common;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use empssl_loss::{EmpSslLoss, EmpSslLossConfig};
use tch::{Device, Kind, Tensor};

use common::{SIZES, id, published, unit_rows};

fn closed_form(c: &mut Criterion) {
    empssl_torch::memory::keep_freed_memory();
    let loss = EmpSslLoss::new(&EmpSslLossConfig::paper()).expect("the published settings are valid");
    let mut group = c.benchmark_group("empssl");
    group.sample_size(50).measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
    for size in SIZES {
        let z = unit_rows(size);
        group.bench_function(id(size), |bencher| {
            bencher.iter(|| {
                let leaf = z.detach().set_requires_grad(true);
                loss.backward(&leaf).expect("the projections are valid");
                leaf.grad()
            });
        });
    }
}

fn floor(c: &mut Criterion) {
    let mut group = c.benchmark_group("floor");
    group.sample_size(50).measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
    for size @ [_, b, d] in SIZES.into_iter().filter(|[_, b, d]| b < d) {
        let z = unit_rows(size);
        let identity = Tensor::eye(b, (Kind::Float, Device::Cpu));
        let scale = d as f64 / (b as f64 * 0.2);
        group.bench_function(id(size), |bencher| {
            bencher.iter(|| {
                let matrices = identity.baddbmm(&z, &z.transpose(1, 2), 1.0, scale);
                let (lower, _) = matrices.linalg_cholesky_ex(false, false);
                lower.bmm(&z)
            });
        });
    }
}

fn reference(c: &mut Criterion) {
    let config = EmpSslLossConfig::paper();
    let mut group = c.benchmark_group("reference");
    group.sample_size(10).measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
    for size in SIZES.into_iter().filter(is_wanted) {
        let z = unit_rows(size);
        group.bench_function(id(size), |bencher| {
            bencher.iter(|| {
                let leaf = z.detach().set_requires_grad(true);
                published(&leaf, &config).backward();
                leaf.grad()
            });
        });
    }
}

fn is_wanted([n, ..]: &[i64; 3]) -> bool {
    *n < 200 || std::env::args().any(|argument| argument.contains("reference/n200"))
}

criterion_group!(benches, closed_form, floor, reference);
criterion_main!(benches);
