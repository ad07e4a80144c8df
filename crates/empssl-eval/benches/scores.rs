//! The scores at the published width, beside the rate at which this machine multiplies matrices.
//!
//! `scores/rate` multiplies two 2048 x 2048 matrices. `scores/probe_*` takes 100 steps of the published probe, batches of
//! 100 at width 4096, for 10 and for 100 classes. At last the neighbours of 10,000 among 50,000 images of width 4096 are
//! found, for the published k and for four in one pass; those are printed with their share of the rate, which is
//! measured right before.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use empssl_eval::{FeatureBank, KnnConfig, LinearProbe, LinearProbeConfig, WeightedKnn};
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 4096;
const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);

fn bank(name: &str, n_images: i64, n_classes: i64) -> FeatureBank {
    let features = Tensor::rand([n_images, WIDTH], OPTIONS);
    let labels = Tensor::arange(n_images, (Kind::Int64, Device::Cpu)).remainder(n_classes);
    FeatureBank::new(name, &features, &labels, n_classes).expect("the bank is whole")
}

fn squares() -> [Tensor; 2] {
    [(); 2].map(|()| Tensor::randn([2048, 2048], OPTIONS))
}

fn probes(c: &mut Criterion) {
    let mut group = c.benchmark_group("scores");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_secs(1));
    let [a, b] = squares();
    group.bench_function("rate", |bencher| bencher.iter(|| drop(black_box(a.matmul(&b)))));
    let one = LinearProbeConfig { epochs: 5, ..LinearProbeConfig::published() };
    for n_classes in [10, 100] {
        let train = bank("train", 2000, n_classes);
        let probe = LinearProbe::new(&one, 0).expect("the settings are valid");
        group.bench_function(format!("probe_{n_classes}"), |bencher| {
            bencher.iter(|| drop(black_box(probe.fit(&train).expect("the probe fits"))));
        });
    }
}

fn seconds(run: impl FnOnce()) -> f64 {
    let started = Instant::now();
    run();
    started.elapsed().as_secs_f64()
}

/// Operations a second, from the median of several products.
fn rate() -> f64 {
    let [a, b] = squares();
    let mut all: Vec<f64> = (0..15).map(|_| seconds(|| drop(black_box(a.matmul(&b))))).collect();
    all.sort_by(f64::total_cmp);
    2.0 * 2048f64.powi(3) / all[7]
}

fn neighbours(_: &mut Criterion) {
    let (train, test) = (bank("train", 50_000, 10), bank("test", 10_000, 10));
    let operations = 2.0 * 50_000.0 * 10_000.0 * WIDTH as f64;
    let say = |what: &str, rate: f64, seconds: f64| {
        let gigaflops = operations / seconds / 1e9;
        let share = operations / seconds / rate;
        println!("{what}: {seconds:.2} s, {gigaflops:.1} of {:.1} GFLOP/s, {share:.3}", rate / 1e9);
    };
    for (what, k) in [("kNN, k 20", vec![20]), ("kNN, four k", vec![1, 5, 20, 200])] {
        let knn = WeightedKnn::new(&KnnConfig { k, ..KnnConfig::published() }).expect("the settings are valid");
        let rate = rate();
        say(what, rate, seconds(|| drop(black_box(knn.score_each(&train, &test).expect("the banks agree")))));
    }
}

criterion_group!(benches, probes, neighbours);
criterion_main!(benches);
