//! A step of LARS on the CPU, for ResNet-18 with its heads, beside the memory traffic that it cannot avoid.
//!
//! `lars/three_products` multiplies three flat buffers of all parameters in place: the traffic of parameters, gradients
//! and momentum, each read and written once. `lars/step` is [`Lars::step`], gradients in the parameters.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use empssl_model::{Network, NetworkConfig, ResNetConfig, Stem};
use empssl_train::{Lars, LarsConfig};
use tch::{Device, Kind, Tensor};

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("lars");
    group.sample_size(30).measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_secs(1));

    let network = NetworkConfig { resnet: ResNetConfig::resnet18(Stem::Cifar), hidden: 4096, projection: 1024 };
    let network = Network::new(&network, 1, Kind::Float, Device::Cpu).expect("the published network is valid");
    let n_parameters: i64 = network.parameters().iter().map(|(_, parameter)| parameter.numel() as i64).sum();
    let mut flat = [0, 1, 2].map(|_| Tensor::ones([n_parameters], (Kind::Float, Device::Cpu)));
    group.bench_function("three_products", |bencher| {
        bencher.iter(|| flat.iter_mut().for_each(|buffer| drop(buffer.g_mul_scalar_(0.999))));
    });

    let mut lars = Lars::new(network.parameters(), &LarsConfig::paper()).expect("the published settings are valid");
    let squares = network.parameters().iter().map(|(_, parameter)| (parameter * parameter).sum(Kind::Float) * 0.01);
    squares.for_each(|square| square.backward());
    group.bench_function("step", |bencher| {
        bencher.iter(|| lars.step(0.3).expect("the gradients are there"));
    });
}

criterion_group!(benches, step);
criterion_main!(benches);
