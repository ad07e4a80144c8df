//! Weights that fit, in memory and in files, and weights that do not.

use std::collections::BTreeMap;

use empssl_model::{Mode, ModelError, Network, Portion, StateMismatch, weights};
use tch::{Device, Kind, Tensor};

use crate::{build, build_seeded, patches, tiny, values};

type State = Vec<(String, Tensor)>;

fn projections(network: &Network) -> Vec<f64> {
    values(&network.forward(&patches(2, 8, network.kind()), Mode::Eval).projections)
}

/// The state of a network whose running statistics are not the initial ones.
fn trained() -> Network {
    let network = build(&tiny(), Kind::Float);
    let _ = network.forward(&patches(4, 8, Kind::Float), Mode::Train);
    network
}

fn mismatch(result: Result<(), ModelError>) -> StateMismatch {
    match result {
        Err(ModelError::State(mismatch)) => mismatch,
        other => panic!("expected a mismatch, found {other:?}"),
    }
}

#[test]
fn a_file_carries_a_network_into_a_fresh_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("weights.safetensors");
    let source = trained();
    let metadata = BTreeMap::from([("epoch".to_owned(), "1".to_owned())]);
    weights::write(&path, &source.state_dict(), &metadata).expect("the folder is writable");

    let file = weights::read(&path).expect("the file is whole");
    assert_eq!(file.metadata, metadata);
    let mut fresh = build_seeded(&tiny(), Kind::Float, 2);
    assert_ne!(projections(&fresh), projections(&source));
    fresh.load_state_dict(&file.tensors).expect("the file fits");
    assert_eq!(projections(&fresh), projections(&source));
    let compared = fresh.state_dict().into_iter().zip(source.state_dict());
    assert!(compared.into_iter().all(|((_, ours), (_, theirs))| values(&ours) == values(&theirs)));
}

#[test]
fn a_backbone_travels_alone_under_torchvisions_names() {
    let source = trained();
    let state = source.backbone_state_dict();
    assert_eq!(state[0].0, "conv1.weight");
    let official = state.into_iter().map(|(key, tensor)| (format!("backbone.{key}"), tensor));
    let mut state: Vec<_> = official.collect();

    let mut fresh = build_seeded(&tiny(), Kind::Float, 2);
    let head = |network: &Network| values(&network.parameters().last().expect("there are parameters").1);
    let head_before = head(&fresh);
    fresh.load_portion_state_dict(Portion::Backbone, &state).expect("the backbone fits");
    let backbone = |network: &Network| values(&network.forward(&patches(2, 8, Kind::Float), Mode::Eval).backbone);
    assert_eq!(backbone(&fresh), backbone(&source));
    assert_eq!(head(&fresh), head_before);

    let absent = "backbone.layer3.0.bn2.running_var";
    state.retain(|(key, _)| key != absent);
    assert_eq!(mismatch(fresh.load_portion_state_dict(Portion::Backbone, &state)).missing, [absent]);
}

#[test]
fn numbers_are_converted_and_the_network_keeps_its_type() {
    let source = trained();
    let mut wide = build_seeded(&tiny(), Kind::Double, 2);
    wide.load_state_dict(&source.state_dict()).expect("float32 weights fit a float64 network");
    assert!(wide.parameters().iter().all(|(_, tensor)| tensor.kind() == Kind::Double && tensor.requires_grad()));
    let (ours, theirs) = (wide.state_dict(), source.state_dict());
    assert!(ours.iter().zip(&theirs).all(|((_, a), (_, b))| values(a) == values(b)));

    let mut narrow = build_seeded(&tiny(), Kind::Float, 3);
    narrow.load_state_dict(&wide.state_dict()).expect("float64 weights fit a float32 network");
    assert_eq!(narrow.kind(), Kind::Float);
    assert_eq!(projections(&narrow), projections(&source));
}

#[test]
fn the_prefix_of_data_parallel_is_dropped() {
    let source = trained();
    let prefixed: State =
        source.state_dict().into_iter().map(|(key, tensor)| (format!("module.{key}"), tensor)).collect();
    let mut fresh = build_seeded(&tiny(), Kind::Float, 2);
    fresh.load_state_dict(&prefixed).expect("the prefix is known");
    assert_eq!(projections(&fresh), projections(&source));
}

#[test]
fn every_key_at_fault_is_named_and_nothing_is_copied() {
    let mut state = trained().state_dict();
    let twice = (state[1].0.clone(), state[1].1.copy());
    state.retain(|(key, _)| key != "backbone.bn1.bias" && key != "projection.3.weight");
    state.push(("classifier.weight".to_owned(), Tensor::zeros([1], (Kind::Float, Device::Cpu))));
    state.push(twice);
    for (key, tensor) in &mut state {
        match key.as_str() {
            "backbone.conv1.weight" => *tensor = Tensor::zeros([4, 3, 7, 7], (Kind::Float, Device::Cpu)),
            "pre_feature.1.num_batches_tracked" => *tensor = tensor.to_kind(Kind::Float),
            _ => {}
        }
    }
    let mut network = build_seeded(&tiny(), Kind::Float, 2);
    let before = projections(&network);
    let refusal = network.load_state_dict(&state).expect_err("the weights do not fit");
    let message = refusal.to_string();
    assert_eq!(projections(&network), before);
    let found = mismatch(Err(refusal));
    assert_eq!(found.missing, ["backbone.bn1.bias", "projection.3.weight"]);
    assert_eq!(found.unexpected, ["classifier.weight"]);
    assert_eq!(found.repeated, ["backbone.bn1.weight"]);
    let unlike = |key: &str, expected: &str, found: &str| (key.to_owned(), expected.to_owned(), found.to_owned());
    let expected = [
        unlike("backbone.conv1.weight", "floats [4, 3, 3, 3]", "floats [4, 3, 7, 7]"),
        unlike("pre_feature.1.num_batches_tracked", "whole numbers []", "floats []"),
    ];
    assert_eq!(found.unlike, expected);
    assert_eq!(
        message,
        "these weights do not fit the network: missing: backbone.bn1.bias, projection.3.weight; \
         unexpected: classifier.weight; given twice: backbone.bn1.weight; \
         of another form: backbone.conv1.weight (floats [4, 3, 3, 3], found floats [4, 3, 7, 7]), \
         pre_feature.1.num_batches_tracked (whole numbers [], found floats [])"
    );
}
