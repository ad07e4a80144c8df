//! Our files in PyTorch and PyTorch's in ours, run by the Python that imports torch, torchvision and safetensors.
//!
//! `EMPSSL_PYTHON` names another interpreter than `python3`. Where the packages are missing the test prints why it is
//! skipped.

use std::collections::BTreeMap;
use std::path::Path;

use empssl_golden::Python;
use empssl_model::{Mode, NetworkConfig, ResNetConfig, Stem, weights};
use tch::{Kind, Tensor};

use crate::{build, build_seeded, patches, values};

/// The structure of the official encoder (tsb0601/EMP-SSL `model/model.py`) with narrower heads. It loads our files
/// strictly, runs them on our patches, and saves its outputs, and its weights after a step of training mode.
const SCRIPT: &str = r#"
import sys, torch, torchvision
from safetensors.torch import load_file, save_file
from torch import nn
folder, stem, hidden, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def backbone():
    net = torchvision.models.resnet18()
    net.fc = nn.Identity()
    if stem == "cifar":
        net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        net.maxpool = nn.Identity()
    return net

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = backbone()
        self.pre_feature = nn.Sequential(nn.Linear(512, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        self.projection = nn.Sequential(
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out))
    def forward(self, x):
        features = self.pre_feature(self.backbone(x))
        return features, nn.functional.normalize(self.projection(features), p=2)

net = Encoder()
ours = load_file(f"{folder}/ours.safetensors")
net.load_state_dict(ours, strict=True)
alone = backbone()
alone.load_state_dict(load_file(f"{folder}/backbone.safetensors"), strict=True)
x = load_file(f"{folder}/x.safetensors")["x"]
with torch.no_grad():
    net.eval(), alone.eval()
    features, z = net(x)
    outputs = {"features": features, "z": z, "backbone": alone(x)}
    net.train()(x)
    net.eval()
    outputs["z_after"] = net(x)[1]
save_file(outputs, f"{folder}/outputs.safetensors")
save_file(net.state_dict(), f"{folder}/theirs.safetensors")
"#;

fn write(folder: &Path, file: &str, tensors: &[(String, Tensor)]) {
    weights::write(&folder.join(file), tensors, &BTreeMap::new()).expect("the folder is writable");
}

fn read(folder: &Path, file: &str) -> Vec<(String, Tensor)> {
    weights::read(&folder.join(file)).expect("PyTorch wrote it").tensors
}

#[test]
fn files_move_between_pytorch_and_us_strictly() {
    let packages = "torch, torchvision, safetensors.torch";
    let Some(python) = Python::with(packages, "loading our weights in PyTorch") else { return };
    for (stem, name) in [(Stem::Cifar, "cifar"), (Stem::Imagenet, "imagenet")] {
        let config = NetworkConfig { resnet: ResNetConfig::resnet18(stem), hidden: 32, projection: 16 };
        round_trip(&python, &config, name);
    }
}

fn round_trip(python: &Python, config: &NetworkConfig, stem: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let network = build(config, Kind::Float);
    let x = patches(4, 32, Kind::Float);
    let _ = network.forward(&x, Mode::Train);
    write(folder.path(), "ours.safetensors", &network.state_dict());
    write(folder.path(), "backbone.safetensors", &network.backbone_state_dict());
    write(folder.path(), "x.safetensors", &[("x".to_owned(), x.shallow_clone())]);

    let place = folder.path().to_str().expect("temporary folders have plain names");
    let (hidden, out) = (config.hidden.to_string(), config.projection.to_string());
    python.run(&["-c", SCRIPT, place, stem, &hidden, &out]);

    let theirs: BTreeMap<_, _> = read(folder.path(), "outputs.safetensors").into_iter().collect();
    let ours = network.forward(&x, Mode::Eval);
    close("features", &ours.features, &theirs["features"]);
    close("z", &ours.projections, &theirs["z"]);
    close("backbone", &ours.backbone, &theirs["backbone"]);

    let mut fresh = build_seeded(config, Kind::Float, 2);
    fresh.load_state_dict(&read(folder.path(), "theirs.safetensors")).expect("PyTorch's weights fit");
    close("z_after", &fresh.forward(&x, Mode::Eval).projections, &theirs["z_after"]);
}

fn close(name: &str, ours: &Tensor, theirs: &Tensor) {
    let scale = theirs.abs().max().double_value(&[]);
    empssl_golden::assert_close(name, &values(ours), &values(theirs), 1e-5 * scale);
}
