//! The scores at the published width, beside the rate at which this machine multiplies matrices.
//!
//! `scores/rate` multiplies two 2048 x 2048 matrices. `scores/one_head_*` and `scores/twelve_heads_*` take 100 steps of
//! batches of 100 at width 4096, the published probe and the grid's heads side by side, for 10 and for 100 classes; the
//! grid also scores a tenth of the images, once. At last the neighbours of 10,000 among 50,000 images of width 4096 are
//! found once for the published vote and once for a grid; those are printed with their share of the rate, which is
//! measured right before.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use empssl_eval::{
    EvalError, FeatureBank, GridProbe, GridProbeConfig, KnnConfig, KnnGrid, KnnGridConfig, LinearProbe,
    LinearProbeConfig, Metric, WeightedKnn,
};
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
    let (lrs, weight_decays) = (vec![0.1, 0.03, 0.01, 0.003, 0.001, 0.0003], vec![0.0, 5e-5]);
    let twelve = GridProbeConfig { lrs, weight_decays, momentum: 0.9, batch_size: 100, epochs: 5 };
    for n_classes in [10, 100] {
        let train = bank("train", 2000, n_classes);
        let probe = LinearProbe::new(&one, 0).expect("the settings are valid");
        group.bench_function(format!("one_head_{n_classes}"), |bencher| {
            bencher.iter(|| drop(black_box(probe.fit(&train).expect("the probe fits"))));
        });
        // Nine tenths of it are 2,000 images and a rest that fills no batch.
        let train = bank("train", 2230, n_classes);
        let probe = GridProbe::new(&twelve, 0).expect("the settings are valid");
        group.bench_function(format!("twelve_heads_{n_classes}"), |bencher| {
            bencher.iter(|| drop(black_box(probe.explore(&train).expect("the heads fit"))));
        });
    }
}

fn seconds(run: impl FnOnce()) -> f64 {
    let started = Instant::now();
    run();
    started.elapsed().as_secs_f64()
}

fn scored<T>(score: impl FnOnce() -> Result<T, EvalError>) -> f64 {
    seconds(|| {
        let _ = black_box(score().expect("the banks agree"));
    })
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
    let knn = WeightedKnn::new(&KnnConfig::published()).expect("the settings are valid");
    say("kNN, k 20", rate(), scored(|| knn.score(&train, &test)));
    let (ks, temperatures) = (vec![1, 5, 10, 20, 50, 100, 200], vec![0.04, 0.07, 0.2]);
    let grid = KnnGridConfig { ks, temperatures, metrics: vec![Metric::Cosine, Metric::Euclidean] };
    let grid = KnnGrid::new(&grid).expect("the settings are valid");
    say("kNN, 28 settings", rate(), scored(|| grid.score(&train, &test)));
}

criterion_group!(benches, probes, neighbours);
criterion_main!(benches);
