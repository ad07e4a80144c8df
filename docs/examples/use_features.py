"""Features of images from a network that `empssl export` wrote, in PyTorch. See docs/export.md.

    python3 use_features.py encoder.pt photo.png other.png
    python3 use_features.py backbone.safetensors photo.png

Prints one line of JSON for each image. Needs torch and pillow; for .safetensors also torchvision and safetensors. All
images of one call must be of one size.
"""

import json
import sys

import numpy
import torch
from PIL import Image
from torch import nn


def load(path):
    """A module that takes pixels less their middle (see `patches`), whatever part of the network the file holds."""
    if not path.endswith(".safetensors"):
        return torch.jit.load(path).eval()  # TorchScript brings its own code
    from safetensors.torch import load_file

    state = load_file(path)
    if "conv1.weight" in state:
        module = backbone(state, "")
    else:
        module = Encoder(state)
    module.load_state_dict(state, strict=True)
    return module.eval()


def backbone(state, prefix):
    """torchvision's ResNet without classifier, of the depth and with the stem of the weights."""
    import torchvision

    blocks = len({key.split(".")[prefix.count(".") + 1] for key in state if key.startswith(f"{prefix}layer3.")})
    is_bottleneck = f"{prefix}layer1.0.conv3.weight" in state
    net = getattr(torchvision.models, "resnet50" if is_bottleneck else {2: "resnet18", 6: "resnet34"}[blocks])()
    net.fc = nn.Identity()
    if state[f"{prefix}conv1.weight"].shape[-1] == 3:
        net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        net.maxpool = nn.Identity()
    return net


class Encoder(nn.Module):
    """Backbone and pre-feature layer; with the projector, the full network, which gives a pair."""

    def __init__(self, state):
        super().__init__()
        hidden, width = state["pre_feature.0.weight"].shape
        self.backbone = backbone(state, "backbone.")
        self.pre_feature = nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        if "projection.3.weight" in state:
            out = state["projection.3.weight"].shape[0]
            self.projection = nn.Sequential(
                nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out)
            )

    def forward(self, x):
        features = self.pre_feature(self.backbone(x))
        if not hasattr(self, "projection"):
            return features
        return features, nn.functional.normalize(self.projection(features), p=2)


def patches(paths):
    """Images as the network takes them: [N, 3, height, width], pixels from 0 to 255 as x / 127.5 - 1."""
    pixels = numpy.stack([numpy.asarray(Image.open(path).convert("RGB")) for path in paths])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def features(module, x):
    """What is evaluated: of the full network the first of its two outputs."""
    with torch.no_grad():
        y = module(x)
    return y[0] if isinstance(y, tuple) else y


if __name__ == "__main__":
    for row in features(load(sys.argv[1]), patches(sys.argv[2:])).tolist():
        print(json.dumps(row))
