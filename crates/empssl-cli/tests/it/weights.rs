//! Weights from elsewhere and for elsewhere: import, and export in both formats.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use empssl_golden::Python;
use empssl_model::{Mode, Network, NetworkConfig, Portion, ResNetConfig, Stem, import, weights};
use tch::{CModule, Device, Kind, Tensor};

use crate::chain::json;
use crate::{empssl, recipe, refuses, stdout, succeeds};

/// A committed file that PyTorch wrote; `make_torch.py` beside it made it.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../empssl-pickle/tests/data").join(name)
}

/// `empssl import` of a fixture by the smoke recipe, with changes.
fn import_by_recipe(folder: &Path, name: &str, changes: &[&str]) -> Output {
    let (file, recipe) = (fixture(name), recipe("synthetic/smoke.toml"));
    let mut arguments = vec!["import", file.to_str().unwrap(), "--recipe", recipe.to_str().unwrap(), "--out", "run"];
    arguments.extend(changes.iter().flat_map(|change| ["--set", change]));
    empssl(folder, &arguments)
}

fn export(folder: &Path, run: &str, arguments: &[&str]) -> Output {
    empssl(folder, &[&["export", run][..], arguments].concat())
}

const OFFICIAL: [&str; 4] =
    ["network.base_width=1", "network.hidden=4", "network.projection=3", "evaluation.probe.epochs=2"];

#[test]
fn an_official_checkpoint_is_scored_like_a_run_and_survives_export_and_import() {
    let folder = tempfile::tempdir().unwrap();
    let text = stdout(&succeeds(import_by_recipe(folder.path(), "official.pt", &OFFICIAL)));
    assert!(text.starts_with("an EMP-SSL network (") && text.ends_with("run\n"), "{text}");
    let table = stdout(&succeeds(empssl(folder.path(), &["eval", "run", "--device", "cpu"])));
    assert!(table.contains("recipe smoke, seed 0, weights imported from official.pt\n"), "{table}");
    let report = json(&folder.path().join("run/report.json"));
    let rows = report["rows"].as_array().unwrap();
    for encoder in ["trained", "untrained", "pixels"] {
        for (probe, n_rows) in [("linear", 1), ("knn", 4), ("linear-optimum", 1)] {
            let here = rows.iter().filter(|row| row["encoder"] == encoder && row["probe"] == probe).count();
            assert_eq!(here, n_rows, "{encoder}, {probe}");
        }
    }

    let file = |name: &str| folder.path().join(name);
    succeeds(export(folder.path(), "run", &["--out", "first.safetensors"]));
    succeeds(empssl(folder.path(), &["import", "first.safetensors", "--dataset", "synthetic"]));
    let again = ["--part", "network", "--out", "second.safetensors"];
    succeeds(export(folder.path(), "runs/imported-first", &again));
    let original = import::read(&fixture("official.pt")).unwrap().tensors;
    let by_name = |path: &Path| weights::read(path).unwrap().tensors.into_iter().collect::<BTreeMap<_, _>>();
    let (first, second) = (by_name(&file("first.safetensors")), by_name(&file("second.safetensors")));
    assert_eq!(first, original.into_iter().collect(), "bit for bit");
    assert_eq!(first, second, "bit for bit");
    let stored = fs::read_to_string(file("runs/imported-first/recipe.toml")).unwrap();
    assert!(stored.contains("hidden = 4\n") && stored.contains("base_width = 1\n"), "sizes are derived: {stored}");
    assert!(!stored.contains("[[published]]"), "a claim about trainings: {stored}");

    let sentence = refuses(&empssl(folder.path(), &["train", "--resume", "run", "--device", "cpu"]), 6);
    assert!(sentence.contains("imported from official.pt, and no training"), "{sentence}");
}

#[test]
fn of_a_backbone_its_output_is_scored_and_what_is_left_out_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let changes = ["network.base_width=1", "network.stem=cifar-padded", "evaluation.probe.epochs=1"];
    let text = stdout(&succeeds(import_by_recipe(folder.path(), "solo.ckpt", &changes)));
    for part in ["left out: classifier.weight, classifier.bias, projector.0.weight", "34 x 34", "argparse.Namespace"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let table = stdout(&succeeds(empssl(folder.path(), &["eval", "run", "--device", "cpu"])));
    assert!(table.contains("weights imported from solo.ckpt, the backbone's output\n"), "{table}");
    let sentence = refuses(&export(folder.path(), "run", &["--out", "x.safetensors"]), 6);
    assert!(sentence.contains("export --part backbone"), "{sentence}");
    assert!(!folder.path().join("x.safetensors").exists());
    succeeds(export(folder.path(), "run", &["--part", "backbone", "--out", "x.safetensors"]));
    let again = import::read(&folder.path().join("x.safetensors")).unwrap();
    assert_eq!((again.resnet.stem, again.portion), (Stem::CifarPadded, Portion::Backbone), "our exports tell the stem");
    let text = stdout(&succeeds(empssl(folder.path(), &["import", fixture("torchvision.pth").to_str().unwrap()])));
    assert!(text.contains("left out: fc.weight, fc.bias\n") && text.contains("ImageNet's mean"), "{text}");
    let recipe = fs::read_to_string(folder.path().join("runs/imported-torchvision/recipe.toml")).unwrap();
    assert!(recipe.contains("side = 224") && recipe.contains("stem = \"imagenet\""), "{recipe}");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let sentence = refuses(&import_by_recipe(folder.path(), "official.pt", &[]), 4);
    for part in
        ["`network.base_width` is 4 there and 1", "`network.hidden` is 64", "`network.projection` is 32", "--set"]
    {
        assert!(sentence.contains(part), "{part}: {sentence}");
    }
    let sentence = refuses(&import_by_recipe(folder.path(), "torchvision.pth", &["network.base_width=1"]), 4);
    assert!(sentence.contains("`network.stem` is \"cifar\" there and \"imagenet\" in the weights"), "{sentence}");
    let import = |bytes: &[u8]| {
        fs::write(folder.path().join("file.pt"), bytes).unwrap();
        refuses(&empssl(folder.path(), &["import", "file.pt"]), 6)
    };
    let hostile = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02cposix\nsystem\nX\x0c\0\0\0touch pwned;\x85R.";
    let sentence = import(hostile);
    assert!(sentence.contains("file.pt cannot be imported") && sentence.contains("`posix.system`"), "{sentence}");
    assert!(!folder.path().join("pwned").exists());
    assert!(import(b"hello").contains("begins neither as a zip archive"));
    let whole = fs::read(fixture("official.pt")).unwrap();
    assert!(import(&whole[..whole.len() / 2]).contains("zip archive is damaged"));

    let resnet = ResNetConfig { layers: [1, 1, 1, 1], base_width: 1, ..ResNetConfig::resnet18(Stem::Cifar) };
    let other = Network::new(&NetworkConfig { resnet, hidden: 2, projection: 2 }, 1, Kind::Float, Device::Cpu).unwrap();
    weights::write(&folder.path().join("file.pt"), &other.state_dict(), &BTreeMap::new()).unwrap();
    let sentence = refuses(&empssl(folder.path(), &["import", "file.pt"]), 6);
    assert!(sentence.contains("[1, 1, 1, 1] basic blocks; ResNet-18, -34 and -50 are known"), "{sentence}");
    assert!(!folder.path().join("runs").exists() && !folder.path().join("run").exists());
}

/// Numbers that differ, `[n, 3, side, side]`.
fn patches(n: i64, side: i64) -> Tensor {
    let x = (Tensor::arange(n * 3 * side * side, (Kind::Double, Device::Cpu)) * 0.7).sin();
    x.view([n, 3, side, side]).to_kind(Kind::Float)
}

#[track_caller]
fn close(ours: &Tensor, theirs: &Tensor, tolerance: f64) {
    let scale = theirs.abs().max().double_value(&[]);
    let apart = (ours - theirs).abs().max().double_value(&[]);
    assert!(ours.size() == theirs.size() && apart <= tolerance * scale, "{apart} apart of {scale}");
}

/// The network that the official fixture is of.
fn official() -> Network {
    let import = import::read(&fixture("official.pt")).unwrap();
    let config = NetworkConfig { resnet: import.resnet.clone(), hidden: 4, projection: 3 };
    import.network(&config, 1).unwrap()
}

#[test]
fn a_torchscript_module_has_pytorchs_names_and_takes_any_batch_side_and_precision() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(import_by_recipe(folder.path(), "official.pt", &OFFICIAL));
    let network = official();
    for (part, portion) in [("backbone", Portion::Backbone), ("encoder", Portion::Encoder)] {
        let arguments = ["--format", "torchscript", "--part", part, "--out", "module.pt"];
        succeeds(export(folder.path(), "run", &arguments));
        let mut module = CModule::load(folder.path().join("module.pt")).unwrap();
        let expected = |x: &Tensor| match portion {
            Portion::Backbone => network.encode_backbone(x, Mode::Eval),
            _ => network.encode(x, Mode::Eval),
        };
        for (n, side) in [(1, 32), (5, 32), (2, 48), (3, 17)] {
            let x = patches(n, side);
            close(&module.forward_ts(&[&x]).unwrap(), &expected(&x), 1e-5);
        }
        let names: Vec<String> = module.named_parameters().unwrap().into_iter().map(|(name, _)| name).collect();
        let ours = if portion == Portion::Backbone {
            network.backbone_state_dict()
        } else {
            network.portion_state_dict(portion)
        };
        let buffers = ["running_mean", "running_var", "num_batches_tracked"];
        let learnt = ours.iter().map(|(name, _)| name).filter(|name| !buffers.iter().any(|b| name.ends_with(b)));
        assert_eq!(names, learnt.cloned().collect::<Vec<_>>(), "in the order of state_dict");
        let x = patches(4, 32);
        module.to(Device::Cpu, Kind::Double, false);
        close(&module.forward_ts(&[x.to_kind(Kind::Double)]).unwrap().to_kind(Kind::Float), &expected(&x), 1e-5);
        module.to(Device::Cpu, Kind::BFloat16, false);
        let rounded = module.forward_ts(&[x.to_kind(Kind::BFloat16)]).unwrap();
        assert_eq!(rounded.kind(), Kind::BFloat16);
        close(&rounded.to_kind(Kind::Float), &expected(&x), 0.1);
    }
}

#[test]
fn a_torchscript_network_gives_features_and_projections_and_learns_statistics_in_training() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(import_by_recipe(folder.path(), "official.pt", &OFFICIAL));
    succeeds(export(folder.path(), "run", &["--format", "torchscript", "--out", "full.pt"]));
    let (network, x) = (official(), patches(4, 32));
    let outputs = |module: &CModule| {
        let pair = module.forward_is(&[tch::IValue::Tensor(x.shallow_clone())]).unwrap();
        <(Tensor, Tensor)>::try_from(pair).unwrap()
    };
    let mut module = CModule::load(folder.path().join("full.pt")).unwrap();
    let (features, projections) = outputs(&module);
    let ours = network.forward(&x, Mode::Eval);
    close(&features, &ours.features, 1e-5);
    close(&projections, &ours.projections, 1e-5);

    module.set_train();
    close(&outputs(&module).1, &network.forward(&x, Mode::Train).projections, 1e-4);
    module.set_eval();
    close(&outputs(&module).1, &network.forward(&x, Mode::Eval).projections, 1e-4);
    let pixels = Tensor::from_slice(&[0_u8, 51, 255]);
    let prepared = module.method_ts("prepare", &[pixels]).unwrap();
    close(&prepared, &Tensor::from_slice(&[-1.0_f32, -0.6, 1.0]), 1e-6);
}

/// Two images, and what the network takes of them.
fn images(folder: &Path) -> Tensor {
    let pixel = |index: u32, x: u32, y: u32| [(x * 8 + index) as u8, (y * 7 + x) as u8, (index * 90 + y) as u8];
    let mut pixels = Vec::new();
    for index in 0..2 {
        let image = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb(pixel(index, x, y)));
        image.save(folder.join(format!("{index}.png"))).unwrap();
        pixels.extend_from_slice(image.as_raw());
    }
    let bytes = Tensor::from_slice(&pixels).view([2, 32, 32, 3]).permute([0, 3, 1, 2]);
    bytes.to_kind(Kind::Float) / 127.5 - 1.0
}

#[test]
fn the_python_example_gets_our_numbers_from_every_export() {
    let packages = "torch, torchvision, safetensors.torch, PIL, numpy";
    let Some(python) = Python::with(packages, "the example of docs/export.md") else { return };
    let folder = tempfile::tempdir().unwrap();
    let x = images(folder.path());
    for (stem, parts) in [(Stem::Cifar, &["backbone", "encoder", "full"][..]), (Stem::Imagenet, &["full"])] {
        let config = NetworkConfig { resnet: ResNetConfig::resnet18(stem), hidden: 24, projection: 6 };
        let network = Network::new(&config, 1, Kind::Float, Device::Cpu).unwrap();
        let _ = network.forward(&x, Mode::Train);
        weights::write(&folder.path().join("w.safetensors"), &network.state_dict(), &BTreeMap::new()).unwrap();
        succeeds(empssl(folder.path(), &["import", "w.safetensors", "--force"]));
        for (part, format) in parts.iter().flat_map(|part| ["safetensors", "torchscript"].map(|format| (part, format)))
        {
            let file = folder.path().join(if format == "safetensors" { "x.safetensors" } else { "x.pt" });
            let arguments = ["--part", part, "--format", format, "--out", file.to_str().unwrap()];
            succeeds(export(folder.path(), "runs/imported-w", &arguments));
            let ours = network.forward(&x, Mode::Eval);
            let ours = if *part == "backbone" { ours.backbone } else { ours.features };
            close(&example(&python, folder.path(), &file), &ours, 1e-5);
        }
        pytorch_agrees(&python, folder.path());
    }
}

/// What the example of the documentation prints for the two images.
fn example(python: &Python, folder: &Path, file: &Path) -> Tensor {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/use_features.py");
    let images = ["0.png", "1.png"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    let text = python.run(&[script.to_str().unwrap(), file.to_str().unwrap(), &images[0], &images[1]]);
    let rows: Vec<Vec<f32>> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Tensor::from_slice(&rows.concat()).view([2, -1])
}

/// The full module in Python: its `state_dict`, half precision, training and evaluation.
fn pytorch_agrees(python: &Python, folder: &Path) {
    const SCRIPT: &str = r#"
import sys, torch
from safetensors.torch import load_file
module = torch.jit.load(sys.argv[1] + "/x.pt")
state, weights = module.state_dict(), load_file(sys.argv[1] + "/x.safetensors")
assert list(state) and set(state) == set(weights), set(state) ^ set(weights)
assert all(torch.equal(state[key], weights[key]) for key in weights)
assert not module.training
pixels = (torch.arange(3 * 3 * 40 * 40) * 37 % 251).to(torch.uint8).view(3, 3, 40, 40)
with torch.no_grad():
    features, z = module(module.prepare(pixels))
    assert z.shape == (3, 6) and torch.allclose(z.norm(dim=1), torch.ones(3), atol=1e-5)
    module.train()(module.prepare(pixels))
    assert module.backbone.bn1.num_batches_tracked == weights["backbone.bn1.num_batches_tracked"] + 1
    module.load_state_dict(weights)
    module.eval()
    assert torch.equal(module(module.prepare(pixels))[0], features)
    for wide in (module.double(), module.half(), module.to(torch.bfloat16)):
        x = wide.prepare(pixels)
        again = wide(x)[0]
        assert x.dtype == again.dtype == next(wide.parameters()).dtype
        assert (again.float() - features).abs().max() < 0.1 * features.abs().max(), x.dtype
"#;
    python.run(&["-c", SCRIPT, folder.to_str().unwrap()]);
}
