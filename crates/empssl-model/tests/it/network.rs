//! Shapes, modes and input that is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use empssl_model::{
    Arithmetic, Block, Layout, Mode, ModelError, Network, NetworkConfig, Part, Products, ResNetConfig, SharedNorm, Stem,
};
use tch::{Device, Kind, Tensor};

use crate::{build, build_seeded, patches, tiny, values};

#[test]
fn every_stem_and_block_gives_features_and_unit_projections() {
    let blocks = [(Block::Basic, [1, 2, 1, 1]), (Block::Bottleneck, [1, 1, 1, 1])];
    for ((block, layers), stem) in
        blocks.into_iter().flat_map(|block| [Stem::Cifar, Stem::TinyImagenet, Stem::Imagenet].map(|stem| (block, stem)))
    {
        let resnet = ResNetConfig { block, layers, base_width: 4, stem };
        let network = build(&NetworkConfig { resnet: resnet.clone(), ..tiny() }, Kind::Float);
        let embedding = network.forward(&patches(3, 33, Kind::Float), Mode::Train);
        assert_eq!(embedding.backbone.size(), [3, resnet.width()], "{resnet:?}");
        assert_eq!(embedding.features.size(), [3, 16]);
        assert_eq!(embedding.projections.size(), [3, 8]);
        for length in values(&embedding.projections.norm_scalaropt_dim(2, [1i64].as_slice(), false)) {
            assert!((length - 1.0).abs() < 1e-6, "{resnet:?}: length {length}");
        }
        assert!(embedding.features.min().double_value(&[]) >= 0.0, "features come out of a ReLU");
    }
}

#[test]
fn the_stages_run_one_by_one_give_the_whole() {
    let network = build(&tiny(), Kind::Double);
    let x = patches(4, 16, Kind::Double);
    let mut y = x.shallow_clone();
    let mut sides: Vec<i64> = Vec::new();
    for stage in network.stages() {
        y = stage.forward(&y, Mode::Eval);
        sides.extend(y.size().get(2));
    }
    assert_eq!(sides, [16, 16, 8, 4, 2]);
    assert_eq!(values(&y), values(&network.forward(&x, Mode::Eval).projections));
}

/// A stage may be run again from its input, so it must not write over it.
#[test]
fn a_stage_leaves_its_input_alone_and_gives_the_same_again() {
    let network = build(&tiny(), Kind::Float);
    let mut x = patches(4, 16, Kind::Float);
    for stage in network.stages() {
        let before = values(&x);
        let first = stage.forward(&x, Mode::Train);
        assert_eq!(values(&x), before);
        let state: Vec<_> = network.state_dict().iter().map(|(_, tensor)| values(tensor)).collect();
        assert_eq!(values(&stage.forward(&x, Mode::Again)), values(&first));
        let after: Vec<_> = network.state_dict().iter().map(|(_, tensor)| values(tensor)).collect();
        assert_eq!(state, after, "the second look moved a running statistic");
        x = first.detach();
    }
}

#[test]
fn the_parts_of_a_batch_move_the_running_statistics_once_and_each_by_its_share() {
    let x = patches(9, 8, Kind::Double);
    let bounds = [0, 4, 6, 9];
    let stem_mean = |network: &Network| values(&network.state_dict()[3].1);
    let alone: Vec<_> = bounds
        .windows(2)
        .map(|part| {
            let network = build_seeded(&tiny(), Kind::Double, 4);
            let _ = network.forward(&x.narrow(0, part[0], part[1] - part[0]), Mode::Train);
            stem_mean(&network)
        })
        .collect();
    let network = build_seeded(&tiny(), Kind::Double, 4);
    assert_eq!(network.state_dict()[3].0, "backbone.bn1.running_mean");
    for step in 1..=2 {
        for part in bounds.windows(2) {
            let (from, to) = (part[0], part[1]);
            let _ = network.forward(&x.narrow(0, from, to - from), Mode::Part(Part { from, to, of: 9 }));
        }
        let state = network.state_dict();
        let (_, counter) = state.iter().find(|(key, _)| key.ends_with("num_batches_tracked")).expect("it is counted");
        assert_eq!(values(counter), [f64::from(step)], "a batch in parts is one batch");
    }
    // From 0 the first step moved to `moved`, the second to 0.9 `moved` + `moved`.
    let moved = |channel: usize| (4.0 * alone[0][channel] + 2.0 * alone[1][channel] + 3.0 * alone[2][channel]) / 9.0;
    let expected: Vec<f64> = (0..4).map(|channel| 1.9 * moved(channel)).collect();
    empssl_golden::assert_close("running mean after two steps", &stem_mean(&network), &expected, 1e-15);
}

#[test]
fn only_training_moves_the_running_statistics_and_counts() {
    let network = build(&tiny(), Kind::Float);
    let x = patches(4, 8, Kind::Float);
    let snapshot = || network.state_dict().iter().map(|(_, tensor)| values(tensor)).collect::<Vec<_>>();
    let fresh = snapshot();
    let _ = network.forward(&x, Mode::Eval);
    assert_eq!(snapshot(), fresh);
    for _ in 0..2 {
        let _ = network.forward(&x, Mode::Train);
    }
    let keys: Vec<_> = network.state_dict().into_iter().map(|(key, _)| key).collect();
    for ((key, before), after) in keys.iter().zip(&fresh).zip(snapshot()) {
        match key.rsplit('.').next() {
            Some("num_batches_tracked") => assert_eq!(after, [2.0], "{key}"),
            Some("running_mean" | "running_var") => assert_ne!(before, &after, "{key}"),
            _ => assert_eq!(before, &after, "{key}"),
        }
    }
}

#[test]
fn a_seed_means_one_network_whatever_its_type() {
    let state = |kind, seed| {
        let network = build_seeded(&tiny(), kind, seed);
        network.state_dict().iter().flat_map(|(_, tensor)| values(tensor)).collect::<Vec<_>>()
    };
    let reference = state(Kind::Float, 5);
    assert_eq!(state(Kind::Float, 5), reference);
    assert_eq!(state(Kind::Double, 5), reference);
    assert_ne!(state(Kind::Float, 6), reference);
    std::thread::scope(|scope| {
        let networks = [5, 6, 5, 6].map(|seed| scope.spawn(move || state(Kind::Float, seed)));
        let [first, other, second, _] = networks.map(|network| network.join().expect("it is built"));
        assert!(first == reference && second == reference && other != reference, "threads see one another's draws");
    });
}

#[test]
fn impossible_networks_are_refused() {
    let config = NetworkConfig { hidden: 0, ..tiny() };
    let message = Network::new(&config, 1, Kind::Float, Device::Cpu).expect_err("refused").to_string();
    assert_eq!(message, "`hidden` must be at least 1, found 0");
    for kind in [Kind::Half, Kind::BFloat16, Kind::Int64] {
        let refusal = Network::new(&tiny(), 1, kind, Device::Cpu).expect_err("refused");
        assert!(matches!(refusal, ModelError::Kind { found } if found == kind), "{refusal}");
    }
}

#[test]
fn input_that_does_not_fit_is_refused_with_expected_and_found() {
    let network = build(&tiny(), Kind::Float);
    let refusal = |x: &Tensor, mode| network.check_input(x, mode).expect_err("refused").to_string();
    let zeros = |size: &[i64], kind| Tensor::zeros(size, (kind, Device::Cpu));
    for size in [vec![2, 3, 8], vec![2, 1, 8, 8], vec![0, 3, 8, 8], vec![2, 3, 0, 8]] {
        let message = refusal(&zeros(&size, Kind::Float), Mode::Eval);
        assert!(message.contains("[N, 3, s, s]") && message.contains(&format!("{size:?}")), "{message}");
    }
    let message = refusal(&zeros(&[2, 3, 8, 8], Kind::Double), Mode::Eval);
    assert!(message.contains("Float patches") && message.contains("found Double"), "{message}");

    let single = zeros(&[1, 3, 8, 8], Kind::Float);
    assert!(refusal(&single, Mode::Train).contains("N of 2 or more"));
    assert!(network.check_input(&single, Mode::Eval).is_ok());
}

#[test]
#[should_panic(expected = "the network takes Float patches [N, 3, s, s]")]
fn a_forward_pass_on_such_input_says_so() {
    let _ = build(&tiny(), Kind::Float).forward(&patches(2, 8, Kind::Double), Mode::Eval);
}

#[test]
fn parameters_are_leaves_with_gradients_and_share_memory_with_the_network() {
    let network = build(&tiny(), Kind::Float);
    let (key, last) = network.parameters().last().expect("there are parameters");
    assert_eq!(key, "projection.3.bias");
    assert!(network.parameters().iter().all(|(_, tensor)| tensor.requires_grad() && tensor.is_leaf()));
    assert!(network.state_dict().iter().all(|(_, tensor)| !tensor.requires_grad()));
    tch::no_grad(|| {
        let _ = last.shallow_clone().fill_(0.25);
    });
    let state = network.state_dict();
    let (_, seen) = state.iter().find(|(key, _)| key == "projection.3.bias").expect("it is in the state");
    assert_eq!(values(seen), [0.25; 8]);
}

/// Whether every number has a neighbour in bf16 that is itself.
fn is_on_grid(x: &Tensor) -> bool {
    x.kind() == Kind::Float && *x == x.to_kind(Kind::BFloat16).to_kind(Kind::Float)
}

fn tiny_in(products: Products, layout: Layout) -> Network {
    let mut network = build_seeded(&tiny(), Kind::Float, 8);
    network.set_arithmetic(Arithmetic { products, layout }).expect("float32 weights can do all");
    network
}

#[test]
fn in_bf16_activations_lie_on_the_grid_and_all_that_is_kept_is_float32() {
    let network = tiny_in(Products::Bf16, Layout::Contiguous);
    let mut x = patches(6, 16, Kind::Float);
    let stages = network.stages();
    for (index, stage) in stages.iter().enumerate() {
        x = stage.forward(&x, Mode::Train);
        assert_eq!(is_on_grid(&x), index + 1 < stages.len(), "stage {index}: projections alone are divided in float32");
    }
    (x * Tensor::arange(8, (Kind::Float, Device::Cpu))).sum(Kind::Float).backward();
    for (name, tensor) in network.parameters() {
        assert_eq!((tensor.kind(), tensor.grad().kind()), (Kind::Float, Kind::Float), "{name}");
        // Gradients of what was rounded are rounded; gains and biases of normalisations were not.
        let is_norm = tensor.dim() == 1 && !name.ends_with("0.bias") && !name.ends_with("3.bias");
        assert_eq!(is_on_grid(&tensor.grad()), !is_norm, "{name}");
        assert!(!is_on_grid(&tensor.detach()) || is_norm, "{name}: the masters are not rounded");
    }
    for (name, tensor) in network.state_dict().iter().filter(|(name, _)| name.contains("running")) {
        assert!(!is_on_grid(tensor), "{name}: statistics are not rounded");
    }
    let embedding = network.forward(&patches(6, 16, Kind::Float), Mode::Train);
    assert!(is_on_grid(&embedding.features) && is_on_grid(&embedding.backbone));
}

#[test]
fn bf16_stays_near_float32_and_is_not_it() {
    let x = patches(6, 16, Kind::Float);
    let projections = |products| tiny_in(products, Layout::Contiguous).forward(&x, Mode::Train).projections;
    let (full, rounded) = (projections(Products::Own), projections(Products::Bf16));
    let cosine = Tensor::cosine_similarity(&full, &rounded, 1, 1e-8).min().double_value(&[]);
    assert!((0.99..0.999_999).contains(&cosine), "{cosine}");
}

#[test]
fn channels_last_is_kept_through_the_network_and_changes_no_number_by_more_than_rounding() {
    let x = patches(6, 16, Kind::Float);
    for stem in [Stem::Cifar, Stem::Imagenet] {
        let resnet = ResNetConfig { stem, ..tiny().resnet };
        let network = |layout| {
            let mut network = build_seeded(&NetworkConfig { resnet: resnet.clone(), ..tiny() }, Kind::Float, 8);
            network.set_arithmetic(Arithmetic { products: Products::Own, layout }).expect("always possible");
            network
        };
        let (plain, last) = (network(Layout::Contiguous), network(Layout::ChannelsLast));
        let mut y = x.shallow_clone();
        for stage in &last.stages()[..5] {
            y = stage.forward(&y, Mode::Eval);
            assert_eq!(y.stride()[1], 1, "{stem:?}: {:?} {:?}", y.size(), y.stride());
        }
        for network in [&plain, &last] {
            let z = network.forward(&x, Mode::Train).projections;
            (z * Tensor::arange(8, (Kind::Float, Device::Cpu))).sum(Kind::Float).backward();
        }
        let largest = |(_, tensor): &(String, Tensor)| tensor.grad().abs().max().double_value(&[]);
        let scale = plain.parameters().iter().map(largest).fold(0.0, f64::max);
        for ((name, ours), (_, theirs)) in last.parameters().iter().zip(plain.parameters()) {
            assert!(ours.grad().is_contiguous(), "{name}: parameters know of no layout");
            empssl_golden::assert_close(name, &values(&ours.grad()), &values(&theirs.grad()), 1e-5 * scale);
        }
    }
}

/// libtorch 2.11.0 wrote past its memory here, which ends a process at once or later: hence the repetitions.
#[test]
fn narrow_networks_train_on_large_patches_in_channels_last() {
    let x = patches(16, 224, Kind::Float);
    let resnet = ResNetConfig { stem: Stem::Imagenet, base_width: 4, ..tiny().resnet };
    let network = |layout| {
        let mut network = build_seeded(&NetworkConfig { resnet: resnet.clone(), ..tiny() }, Kind::Float, 8);
        network.set_arithmetic(Arithmetic { products: Products::Own, layout }).expect("always possible");
        network
    };
    let (plain, last) = (network(Layout::Contiguous), network(Layout::ChannelsLast));
    for _ in 0..3 {
        let [ours, theirs] = [&last, &plain].map(|network| network.forward(&x, Mode::Again).backbone);
        ours.square().sum(Kind::Float).backward();
        empssl_golden::assert_close("backbone", &values(&ours), &values(&theirs), 1e-4);
    }
}

#[test]
fn bf16_of_a_float64_network_is_refused() {
    let bf16 = Arithmetic { products: Products::Bf16, layout: Layout::Contiguous };
    let refusal = build(&tiny(), Kind::Double).set_arithmetic(bf16).expect_err("refused").to_string();
    assert_eq!(refusal, "bf16 products need weights in float32, found Double");
}

/// A part that is the whole batch, and how often it was normalised and moved.
#[derive(Debug, Default)]
struct Whole {
    normalised: AtomicUsize,
    moved: AtomicUsize,
}

impl SharedNorm for Whole {
    fn normalise(
        &self,
        x: &Tensor,
        [gain, bias]: [&Tensor; 2],
        running: Option<([&Tensor; 2], f64)>,
        eps: f64,
    ) -> Tensor {
        self.normalised.fetch_add(1, Ordering::Relaxed);
        self.moved.fetch_add(usize::from(running.is_some()), Ordering::Relaxed);
        let (momentum, running) = (running.map_or(0.0, |(_, by)| by), running.map(|(two, _)| two));
        let [mean, variance] = [0, 1].map(|index| running.map(|two| two[index]));
        x.batch_norm(Some(gain), Some(bias), mean, variance, true, momentum, eps, false)
    }
}

#[test]
fn a_shared_batch_is_normalised_by_whoever_knows_the_others() {
    let (own, mut shared) = (build(&tiny(), Kind::Double), build_seeded(&tiny(), Kind::Double, 2));
    shared.load_state_dict(&own.state_dict()).unwrap();
    let norm = Arc::new(Whole::default());
    shared.set_shared_norm(Some(norm.clone()));
    let x = patches(4, 16, Kind::Double);
    for mode in [Mode::Train, Mode::Again, Mode::Part(Part { from: 0, to: 4, of: 8 })] {
        assert_eq!(
            values(&shared.forward(&x, mode).projections),
            values(&own.forward(&x, mode).projections),
            "{mode:?}"
        );
    }
    let state = |network: &Network| network.state_dict().iter().map(|(_, tensor)| values(tensor)).collect::<Vec<_>>();
    assert_eq!(state(&shared), state(&own));
    let counts = |norm: &Whole| [&norm.normalised, &norm.moved].map(|count| count.load(Ordering::Relaxed));
    let [normalised, moved] = counts(&norm);
    assert!(normalised > 0 && moved * 3 == normalised * 2, "{normalised} {moved}");
    let _ = shared.forward(&x, Mode::Eval);
    assert_eq!(counts(&norm)[0], normalised, "evaluation looks at no batch");
    // One patch is a batch when others have more.
    shared.check_input(&patches(1, 16, Kind::Double), Mode::Train).unwrap();
    shared.set_shared_norm(None);
    assert!(shared.check_input(&patches(1, 16, Kind::Double), Mode::Train).is_err());
}
