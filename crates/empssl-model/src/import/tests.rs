//! Files of other programs, genuine and made up.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{Block, Mode, StateMismatch, weights};

use super::*;

/// A committed file that PyTorch wrote; `make_torch.py` beside it made it.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../empssl-pickle/tests/data").join(name)
}

fn config(import: &Import) -> NetworkConfig {
    let (hidden, projection) = (import.hidden.unwrap_or(2), import.projection.unwrap_or(2));
    NetworkConfig { resnet: import.resnet.clone(), hidden, projection }
}

/// The patches of which `make_torch.py` wrote down what its encoder makes.
fn patches() -> Tensor {
    let count = 2 * 3 * 32 * 32;
    let x = (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.7).sin();
    x.view([2, 3, 32, 32]).to_kind(Kind::Float)
}

fn close(name: &str, ours: &Tensor, theirs: &Tensor) {
    let scale = theirs.abs().max().double_value(&[]);
    let apart = (ours - theirs).abs().max().double_value(&[]);
    assert!(ours.size() == theirs.size() && apart <= 1e-5 * scale, "{name}: {apart} apart of {scale}");
}

#[test]
fn the_official_encoder_gives_the_features_that_python_computed() {
    let outputs: BTreeMap<_, _> =
        weights::read(&fixture("official.safetensors")).unwrap().tensors.into_iter().collect();
    close("x", &patches().narrow(2, 0, 2).narrow(3, 0, 2), &outputs["x"]);
    for name in ["official.pt", "official-legacy.pt"] {
        let import = read(&fixture(name)).unwrap();
        let expected = ResNetConfig { base_width: 1, ..ResNetConfig::resnet18(Stem::Cifar) };
        assert_eq!((&import.resnet, import.portion), (&expected, Portion::Full), "{name}");
        assert_eq!((import.hidden, import.projection), (Some(4), Some(3)));
        assert!(import.left_out.is_empty() && import.notes.is_empty(), "{:?}", import.notes);
        let ours = import.network(&config(&import), 2).unwrap().forward(&patches(), Mode::Eval);
        close("backbone", &ours.backbone, &outputs["backbone"]);
        close("features", &ours.features, &outputs["features"]);
        close("z", &ours.projections, &outputs["z"]);
    }
}

#[test]
fn torchvisions_classifier_and_solo_learns_heads_are_left_out_by_name() {
    let import = read(&fixture("torchvision.pth")).unwrap();
    assert_eq!((import.resnet.stem, import.resnet.layers, import.portion), (Stem::Imagenet, [2; 4], Portion::Backbone));
    assert_eq!(import.left_out, ["fc.weight", "fc.bias"]);
    assert!(import.notes.iter().any(|note| note.contains("pooled output is what is scored")), "{:?}", import.notes);
    assert!(import.notes.iter().any(|note| note.contains("ImageNet's mean")), "{:?}", import.notes);
    assert_eq!(import.stems(), [Stem::TinyImagenet, Stem::Imagenet]);
    import.network(&config(&import), 2).unwrap();

    let import = read(&fixture("solo.ckpt")).unwrap();
    assert_eq!((import.resnet.stem, import.portion), (Stem::CifarPadded, Portion::Backbone));
    let heads =
        ["classifier.weight", "classifier.bias", "projector.0.weight", "projector.0.bias", "projector.1.weight"];
    assert_eq!(import.left_out[..5], heads);
    for part in ["34 x 34", "omegaconf.dictconfig.DictConfig", "nothing of them was carried out"] {
        assert!(import.notes.iter().any(|note| note.contains(part)), "{part}: {:?}", import.notes);
    }
    let padded = import.network(&config(&import), 2).unwrap().encode_backbone(&patches(), Mode::Eval);
    let resnet = ResNetConfig { stem: Stem::Cifar, ..import.resnet.clone() };
    let plain = import.network(&NetworkConfig { resnet, ..config(&import) }, 2).unwrap();
    assert_ne!(padded, plain.encode_backbone(&patches(), Mode::Eval), "the padding shows");
}

fn tiny(block: Block, stem: Stem) -> Network {
    let resnet = ResNetConfig { block, layers: [1, 2, 1, 1], base_width: 2, stem };
    Network::new(&NetworkConfig { resnet, hidden: 6, projection: 5 }, 1, Kind::Float, Device::Cpu).unwrap()
}

#[test]
fn every_network_and_portion_is_recognised_by_its_shapes() {
    for block in [Block::Basic, Block::Bottleneck] {
        for stem in [Stem::Cifar, Stem::Imagenet] {
            for (portion, heads) in [
                (Portion::Backbone, (None, None)),
                (Portion::Encoder, (Some(6), None)),
                (Portion::Full, (Some(6), Some(5))),
            ] {
                let network = tiny(block, stem);
                let state = network.portion_state_dict(portion);
                let import = recognise(Source::of(network.portion_state_dict(portion))).unwrap();
                assert_eq!((&import.resnet, import.portion), (&network.config().resnet, portion));
                assert_eq!((import.hidden, import.projection), heads);
                let again = import.network(network.config(), 2).unwrap().portion_state_dict(portion);
                assert_eq!(again, state, "bit for bit");
            }
            let network = tiny(block, stem);
            let import = recognise(Source::of(network.backbone_state_dict())).unwrap();
            assert_eq!((&import.resnet, import.portion), (&network.config().resnet, Portion::Backbone));
        }
    }
}

fn mismatch(state: state::State) -> StateMismatch {
    let import = recognise(Source::of(state)).unwrap();
    match import.network(&NetworkConfig { hidden: 6, projection: 5, resnet: import.resnet.clone() }, 2) {
        Err(ModelError::State(mismatch)) => mismatch,
        other => panic!("expected a mismatch, found {other:?}"),
    }
}

#[test]
fn every_missing_and_extra_key_is_named() {
    let mut state = tiny(Block::Basic, Stem::Cifar).state_dict();
    state.retain(|(key, _)| key != "backbone.layer2.1.bn2.bias" && key != "projection.0.bias");
    state.push(("backbone.layer5.weight".to_owned(), Tensor::from(1.0_f32)));
    state.push(("momentum.queue".to_owned(), Tensor::from(1.0_f32)));
    let found = mismatch(state);
    assert_eq!(found.missing, ["backbone.layer2.1.bn2.bias", "projection.0.bias"]);
    assert_eq!(found.unexpected, ["backbone.layer5.weight", "momentum.queue"]);

    let mut state = tiny(Block::Basic, Stem::Cifar).backbone_state_dict();
    state.retain(|(key, _)| key != "bn1.running_var");
    state.push(("layer1.0.se.weight".to_owned(), Tensor::from(1.0_f32)));
    let found = mismatch(state);
    assert_eq!(found.missing, ["backbone.bn1.running_var"]);
    assert_eq!(found.unexpected, ["backbone.layer1.0.se.weight"]);
}

#[test]
fn counters_that_old_files_lack_begin_at_zero_and_wide_numbers_are_rounded_with_a_note() {
    let network = tiny(Block::Basic, Stem::Cifar);
    let mut state = network.backbone_state_dict();
    state.retain(|(key, _)| !key.ends_with("num_batches_tracked"));
    state.iter_mut().for_each(|(_, tensor)| *tensor = tensor.to_kind(Kind::Double));
    let import = recognise(Source::of(state)).unwrap();
    assert!(import.notes.iter().any(|note| note.contains("before PyTorch 0.4.1")), "{:?}", import.notes);
    assert!(import.notes.iter().any(|note| note.contains("rounded to float32")), "{:?}", import.notes);
    let loaded = import.network(network.config(), 2).unwrap();
    assert_eq!(loaded.backbone_state_dict(), network.backbone_state_dict());
}

#[test]
fn what_is_no_network_of_ours_is_refused_by_key() {
    let refusal = |state: state::State| recognise(Source::of(state)).unwrap_err();
    let named = |key: &str, size: &[i64]| (key.to_owned(), Tensor::zeros(size, (Kind::Float, Device::Cpu)));
    assert!(refusal(vec![named("features.0.weight", &[64, 3, 3, 3])]).contains("begin with features.0.weight"));
    assert!(refusal(vec![named("conv1.weight", &[64, 3, 5, 5])]).contains("`backbone.conv1.weight` is of size"));
    assert!(refusal(vec![named("backbone.conv1.weight", &[64, 1, 3, 3])]).contains("[64, 1, 3, 3]"));
    let mut short = tiny(Block::Basic, Stem::Cifar).backbone_state_dict();
    short.retain(|(key, _)| !key.starts_with("layer4"));
    assert!(refusal(short).contains("it has no `backbone.layer4.0.conv1.weight`"));
    let mut flat = tiny(Block::Basic, Stem::Cifar).state_dict();
    flat.iter_mut().filter(|(key, _)| key == "pre_feature.0.weight").for_each(|(_, w)| *w = w.view([-1]));
    assert!(refusal(flat).contains("`pre_feature.0.weight` is of size"));
}

#[test]
fn weights_that_are_no_numbers_or_far_too_few_are_refused() {
    let network = tiny(Block::Basic, Stem::Cifar);
    let mut state: state::State = network.state_dict().into_iter().map(|(key, tensor)| (key, tensor.copy())).collect();
    let (key, tensor) = state.iter_mut().find(|(key, _)| key.ends_with("layer2.1.bn1.bias")).unwrap();
    let (key, _) = (key.clone(), tensor.fill_(f64::NAN));
    let import = recognise(Source::of(state)).unwrap();
    let refusal = import.network(network.config(), 2).unwrap_err().to_string();
    assert_eq!(refusal, format!("`{key}` holds numbers that are not finite"));

    // A few small tensors that claim to be a network of terabytes.
    let (wide, zeros) = (1 << 20, |size: &[i64]| Tensor::zeros(size, (Kind::Float, Device::Cpu)));
    let mut state = vec![("conv1.weight".to_owned(), zeros(&[wide, 3, 3, 3]))];
    state.extend((1..=4).map(|i| (format!("layer{i}.0.conv1.weight"), zeros(&[1]))));
    let import = recognise(Source::of(state)).unwrap();
    let refusal = import.network(&config(&import), 2).unwrap_err();
    assert!(matches!(refusal, ModelError::TooFew { .. }), "{refusal}");
}

#[test]
fn files_that_are_no_weights_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.pt");
    let refusal = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let refusal = read(&path).unwrap_err().to_string();
        assert!(refusal.contains("file.pt"), "{refusal}");
        refusal
    };
    assert!(refusal(b"hello").contains("begins neither as a zip archive"));
    assert!(refusal(b"").contains("begins neither"));
    let evil = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.";
    assert!(refusal(evil).contains("would have Python reach for `posix.system`"));
    let metadata = BTreeMap::from([("format".to_owned(), "empssl checkpoint".to_owned())]);
    weights::write(&path, &tiny(Block::Basic, Stem::Cifar).state_dict(), &metadata).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("`empssl eval RUN`"));
    weights::write(&path, &tiny(Block::Basic, Stem::Cifar).state_dict(), &BTreeMap::new()).unwrap();
    assert_eq!(read(&path).unwrap().portion, Portion::Full);
    assert!(matches!(read(&folder.path().join("absent.pt")).unwrap_err(), ModelError::Read { .. }));
}
