//! Precision and layout on a CUDA device, where there is one.

use empssl_loss::{EmpSslLoss, EmpSslLossConfig};
use empssl_model::{Arithmetic, Layout, Network, NetworkConfig, Products, ResNetConfig, Stem};
use empssl_torch::device;
use empssl_train::{BatchNormStats, MemoryMode, StepPlan};
use tch::{Device, Kind, Tensor};

const LAYOUTS: [Layout; 2] = [Layout::Contiguous, Layout::ChannelsLast];

/// The gradients of all parameters of one network after one step on `device`, end to end, on the CPU in float64.
fn gradient(
    device: Device,
    arithmetic: Arithmetic,
    memory: MemoryMode,
    tf32: bool,
    weights: &[(String, Tensor)],
) -> Tensor {
    let mut network = Network::new(&config(), 1, Kind::Float, device).unwrap();
    network.load_state_dict(weights).unwrap();
    network.set_arithmetic(arithmetic).unwrap();
    let patches = (Tensor::arange(4 * 16 * 3 * 32 * 32, (Kind::Double, Device::Cpu)) * 12.9898).sin() * 127.0 + 128.0;
    let patches = patches.to_kind(Kind::Uint8).view([4, 16, 3, 32, 32]).to_device(device);
    let loss = EmpSslLoss::new(&EmpSslLossConfig::paper()).unwrap();
    let plan = StepPlan { memory, norms: BatchNormStats::Batch, tf32 };
    let terms = plan.backward(&network, &loss, &patches, None).unwrap();
    assert_eq!(terms.total.kind(), Kind::Float);
    let gradients: Vec<Tensor> = network.parameters().iter().map(|(_, p)| p.grad().flatten(0, -1)).collect();
    assert!(network.state_dict().iter().all(|(_, tensor)| matches!(tensor.kind(), Kind::Float | Kind::Int64)));
    Tensor::cat(&gradients, 0).to_device(Device::Cpu).to_kind(Kind::Double)
}

fn config() -> NetworkConfig {
    let resnet = ResNetConfig { base_width: 16, ..ResNetConfig::resnet18(Stem::Cifar) };
    NetworkConfig { resnet, hidden: 64, projection: 32 }
}

fn cosine(a: &Tensor, b: &Tensor) -> f64 {
    (a.dot(b) / (a.norm() * b.norm())).double_value(&[])
}

#[test]
fn every_precision_layout_and_mode_points_where_the_cpu_points() {
    if let Err(problem) = device::open() {
        eprintln!("skipped: precision and layout on CUDA: {problem}");
        return;
    }
    empssl_torch::precision::set_tf32(false).unwrap();
    let weights = Network::new(&config(), 1, Kind::Float, Device::Cpu).unwrap().state_dict();
    let cpu = gradient(Device::Cpu, Arithmetic::PLAIN, MemoryMode::Whole, false, &weights);
    for layout in LAYOUTS {
        for memory in [MemoryMode::Whole, MemoryMode::ByStage] {
            for (products, tf32, least) in
                [(Products::Own, false, 0.9999), (Products::Own, true, 0.99), (Products::Bf16, false, 0.9)]
            {
                let arithmetic = Arithmetic { products, layout };
                let cuda = gradient(Device::Cuda(0), arithmetic, memory, tf32, &weights);
                let found = cosine(&cuda, &cpu);
                assert!(found >= least, "{arithmetic:?}, {memory:?}, TF32 {tf32}: cosine {found}");
            }
        }
    }
}
