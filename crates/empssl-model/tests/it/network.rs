//! Shapes, modes and input that is refused.

use empssl_model::{Block, Mode, ModelError, Network, NetworkConfig, ResNet, ResNetConfig, Stem};
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
fn the_parts_of_the_backbone_run_one_by_one_give_the_whole() {
    let network = build(&tiny(), Kind::Double);
    let x = patches(4, 16, Kind::Double);
    let resnet = network.resnet();
    let mut y = resnet.stem(&x, Mode::Eval);
    let mut sides = vec![y.size()[2]];
    for stage in resnet.stages() {
        y = stage.forward(&y, Mode::Eval);
        sides.push(y.size()[2]);
    }
    assert_eq!(sides, [16, 16, 8, 4, 2]);
    let parts = network.heads(ResNet::pool(&y), Mode::Eval);
    let whole = network.forward(&x, Mode::Eval);
    assert_eq!(values(&parts.projections), values(&whole.projections));
    assert_eq!(values(&network.encode(&x, Mode::Eval)), values(&whole.features));
}

/// A stage may be run again from its input, so it must not write over it.
#[test]
fn a_stage_leaves_its_input_alone() {
    let network = build(&tiny(), Kind::Float);
    for stage in &network.resnet().stages()[..1] {
        let input = patches(2, 8, Kind::Float).repeat([1, 2, 1, 1]).narrow(1, 0, 4).contiguous();
        let before = values(&input);
        let _ = stage.forward(&input, Mode::Train);
        assert_eq!(values(&input), before);
    }
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
}

#[test]
fn impossible_networks_are_refused() {
    let config = NetworkConfig { hidden: 0, ..tiny() };
    let message = Network::new(&config, Kind::Float, Device::Cpu).expect_err("refused").to_string();
    assert_eq!(message, "`hidden` must be at least 1, found 0");
    for kind in [Kind::Half, Kind::BFloat16, Kind::Int64] {
        let refusal = Network::new(&tiny(), kind, Device::Cpu).expect_err("refused");
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
