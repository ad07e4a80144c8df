//! The memory modes against each other.

use empssl_loss::EmpSslLossConfig;
use empssl_model::{Arithmetic, Layout, NetworkConfig, Products, ResNetConfig, Stem};
use empssl_torch::precision;
use tch::{Device, Kind};

use super::*;
use crate::measure::tests::spans_of;

/// Parts of a step, images, side of a patch.
const N: i64 = 4;
const B: i64 = 5;
const SIDE: i64 = 16;

/// Numbers from 0 to 1 that look like chance and are the same in every process.
fn noise(count: i64, seed: f64) -> Tensor {
    let wild = ((Tensor::arange(count, (Kind::Double, Device::Cpu)) + seed) * 12.9898).sin() * 43_758.545_3;
    &wild - wild.floor()
}

/// The same network every time, with running statistics that its patches have moved.
fn network(kind: Kind) -> Network {
    let resnet = ResNetConfig { base_width: 4, layers: [1, 2, 1, 1], ..ResNetConfig::resnet18(Stem::Cifar) };
    let network = Network::new(&NetworkConfig { resnet, hidden: 16, projection: 8 }, 1, kind, Device::Cpu).unwrap();
    no_grad(|| {
        for (index, (_, parameter)) in network.parameters().iter().enumerate() {
            let fan_in = parameter.numel() as f64 / parameter.size()[0] as f64;
            let (centre, width) = if parameter.dim() == 1 { (1.0, 0.2) } else { (0.0, 2.0 / fan_in.sqrt()) };
            let values = (noise(parameter.numel() as i64, index as f64 * 1e4) - 0.5) * 2.0 * width + centre;
            parameter.shallow_clone().copy_(&values.view_as(parameter));
        }
        for _ in 0..20 {
            let _ = network.forward(&network_input(&patches(), kind), Mode::Train);
        }
        for (_, counter) in network.state_dict().iter().filter(|(name, _)| name.ends_with("num_batches_tracked")) {
            let _ = counter.shallow_clone().zero_();
        }
    });
    network
}

fn patches() -> Tensor {
    (noise(N * B * 3 * SIDE * SIDE, 0.5) * 255.0).to_kind(Kind::Uint8).view([N, B, 3, SIDE, SIDE])
}

fn loss() -> EmpSslLoss {
    EmpSslLoss::new(&EmpSslLossConfig::paper()).unwrap()
}

fn plan(memory: MemoryMode, norms: BatchNormStats) -> StepPlan {
    StepPlan { memory, norms, tf32: false }
}

/// The objective, every gradient and the state of a network after one backward pass.
struct Passed {
    total: f64,
    gradients: Vec<(String, Tensor)>,
    state: Vec<(String, Tensor)>,
}

fn pass(network: &Network, plan: StepPlan) -> Passed {
    for (_, parameter) in network.parameters() {
        parameter.shallow_clone().zero_grad();
    }
    let terms = plan.backward(network, &loss(), &patches(), None).unwrap();
    let gradients = network.parameters().iter().map(|(name, tensor)| (name.clone(), tensor.grad().copy())).collect();
    Passed { total: terms.total.double_value(&[]), gradients, state: network.state_dict() }
}

/// Largest difference of two tensors of the same name, relative to the largest number of that tensor.
fn distance(a: &[(String, Tensor)], b: &[(String, Tensor)]) -> f64 {
    let largest = |x: &Tensor| x.to_kind(Kind::Double).abs().max().double_value(&[]);
    assert_eq!(a.len(), b.len());
    let relative = |a: &Tensor, b: &Tensor| largest(&(a - b)) / largest(b);
    a.iter().zip(b).map(|((_, a), (_, b))| relative(a, b)).fold(0.0, f64::max)
}

const TOLERANCES: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::Double, 1e-10)];

#[test]
fn by_stage_has_the_gradient_and_the_statistics_of_the_whole() {
    for (kind, tolerance) in TOLERANCES {
        let whole = pass(&network(kind), plan(MemoryMode::Whole, BatchNormStats::Batch));
        let stages = pass(&network(kind), plan(MemoryMode::ByStage, BatchNormStats::Batch));
        assert!(distance(&stages.gradients, &whole.gradients) <= tolerance, "{kind:?}");
        assert!((stages.total - whole.total).abs() <= tolerance * whole.total.abs());
        assert_eq!(stages.state, whole.state, "the running statistics moved otherwise");
    }
}

#[test]
fn by_patches_has_the_gradient_of_the_whole_when_batchnorm_looks_at_no_batch() {
    for (kind, tolerance) in TOLERANCES {
        let whole = pass(&network(kind), plan(MemoryMode::Whole, BatchNormStats::Running));
        for part in [1, 2, 4] {
            let parts = pass(&network(kind), plan(MemoryMode::ByPatches(part), BatchNormStats::Running));
            let distance = distance(&parts.gradients, &whole.gradients);
            assert!(distance <= tolerance, "{kind:?}, {part} at a time: {distance}");
            assert!((parts.total - whole.total).abs() <= tolerance * whole.total.abs());
            assert_eq!(parts.state, network(kind).state_dict(), "running statistics stay where they are normalised by");
        }
    }
}

#[test]
fn by_patches_normalises_every_part_by_itself_and_one_part_is_the_whole() {
    let whole = pass(&network(Kind::Double), plan(MemoryMode::Whole, BatchNormStats::Batch));
    let one = pass(&network(Kind::Double), plan(MemoryMode::ByPatches(N as usize), BatchNormStats::Batch));
    assert!(distance(&one.gradients, &whole.gradients) <= 1e-10);
    assert!(distance(&one.state, &whole.state) <= 1e-14);
    let parts = pass(&network(Kind::Double), plan(MemoryMode::ByPatches(2), BatchNormStats::Batch));
    assert!(distance(&parts.gradients, &whole.gradients) > 1e-3, "two parts are another training");
}

#[test]
fn every_memory_mode_opens_the_spans_of_its_phases_in_order() {
    let once = ["forward", "loss", "backward"];
    let recomputed = |times: usize| ["recompute", "backward"].repeat(times);
    for (memory, expected) in [
        (MemoryMode::Whole, once.to_vec()),
        (MemoryMode::ByStage, [once.to_vec(), recomputed(5)].concat()),
        (MemoryMode::ByPatches(2), [vec!["forward", "loss"], recomputed(2)].concat()),
    ] {
        let (network, plan) = (network(Kind::Float), plan(memory, BatchNormStats::Batch));
        let (terms, spans) = spans_of(|| plan.backward(&network, &loss(), &patches(), None));
        assert!(terms.is_ok());
        assert_eq!(spans, expected, "{memory:?}");
    }
}

/// The gradient by patches is the derivative of what it computed, not of the whole.
#[test]
fn by_patches_agrees_with_finite_differences() {
    let network = network(Kind::Double);
    let plan = plan(MemoryMode::ByPatches(2), BatchNormStats::Batch);
    let gradients = pass(&network, plan).gradients;
    for name in ["backbone.layer1.0.conv1.weight", "backbone.bn1.bias", "projection.3.weight"] {
        let (_, parameter) = network.parameters().iter().find(|(other, _)| other == name).unwrap();
        let (_, gradient) = gradients.iter().find(|(other, _)| other == name).unwrap();
        let gradient = gradient.flatten(0, -1);
        let index = gradient.abs().argmax(0, false).int64_value(&[]);
        let moved = |by: f64| {
            let _ = no_grad(|| parameter.flatten(0, -1).get(index).g_add_scalar_(by));
            let total = pass(&network, plan).total;
            let _ = no_grad(|| parameter.flatten(0, -1).get(index).g_add_scalar_(-by));
            total
        };
        let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
        let expected = gradient.double_value(&[index]);
        assert!((slope - expected).abs() <= 1e-4 * expected.abs(), "{name}: {slope} against {expected}");
    }
}

#[test]
fn the_running_statistics_move_once_in_every_mode() {
    let modes = [MemoryMode::Whole, MemoryMode::ByStage, MemoryMode::ByPatches(2)];
    for memory in modes {
        let network = network(Kind::Double);
        let before: Vec<Tensor> = network.state_dict().iter().map(|(_, tensor)| tensor.copy()).collect();
        let after = pass(&network, plan(memory, BatchNormStats::Batch)).state;
        for ((name, after), before) in after.iter().zip(&before) {
            if name.ends_with("num_batches_tracked") {
                assert_eq!(after.int64_value(&[]), 1, "{memory:?}");
            } else if name == "backbone.bn1.running_mean" {
                // The mean over parts of equal size is the mean over the batch.
                let x = network_input(&patches(), Kind::Double);
                let (_, weight) = &network.state_dict()[0];
                let of_batch = x.conv2d(weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1).mean_dim(
                    [0i64, 2, 3].as_slice(),
                    false,
                    None::<Kind>,
                );
                let expected = before * 0.9 + of_batch * 0.1;
                assert!((after - expected).abs().max().double_value(&[]) <= 1e-14, "{memory:?}");
            }
        }
    }
}

#[test]
fn gradients_add_to_those_that_are_there() {
    let network = network(Kind::Double);
    let plan = plan(MemoryMode::ByStage, BatchNormStats::Running);
    let once = pass(&network, plan).gradients;
    plan.backward(&network, &loss(), &patches(), None).unwrap();
    let twice: Vec<_> = network.parameters().iter().map(|(name, tensor)| (name.clone(), tensor.grad() / 2.0)).collect();
    assert!(distance(&once, &twice) <= 1e-14);
}

#[test]
fn every_mode_takes_bf16_and_channels_last() {
    let arithmetic = Arithmetic { products: Products::Bf16, layout: Layout::ChannelsLast };
    let rounded = |memory| {
        let mut network = network(Kind::Float);
        network.set_arithmetic(arithmetic).unwrap();
        pass(&network, plan(memory, BatchNormStats::Running))
    };
    let whole = rounded(MemoryMode::Whole);
    assert!(whole.gradients.iter().all(|(_, gradient)| gradient.kind() == Kind::Float));
    let stages = rounded(MemoryMode::ByStage);
    assert!(distance(&stages.gradients, &whole.gradients) <= 1e-5, "the same roundings, so the same numbers");
    // Gradients of parameters are rounded part by part, so they differ by the last of the eight bits.
    let parts = rounded(MemoryMode::ByPatches(2));
    assert!(distance(&parts.gradients, &whole.gradients) <= 2e-2);
}

#[test]
fn tf32_is_for_the_network_and_never_for_the_objective() {
    let tf32 = || precision::tf32().unwrap().products;
    let plan = StepPlan { tf32: true, ..plan(MemoryMode::Whole, BatchNormStats::Batch) };
    assert!(!tf32());
    {
        let _network = plan.scope(true).unwrap();
        assert!(tf32());
        let _objective = plan.scope(false).unwrap();
        assert!(!tf32());
    }
    let _ = pass(&network(Kind::Float), plan);
    assert!(!tf32(), "the switch goes back after a step");
}

#[test]
fn the_modes_are_written_as_recipes_write_them() {
    let text = |mode| serde_json::to_string(&mode).unwrap();
    assert_eq!(text(MemoryMode::Whole), "\"whole\"");
    assert_eq!(text(MemoryMode::ByStage), "\"by-stage\"");
    assert_eq!(text(MemoryMode::ByPatches(4)), "{\"by-patches\":4}");
    let shown: Vec<String> = MemoryMode::all(6, 1).map(|mode| mode.to_string()).collect();
    assert_eq!(shown, ["\"whole\"", "\"by-stage\"", "{ by-patches = 3 }", "{ by-patches = 2 }"]);
}
