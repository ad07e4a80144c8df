"""Makes the files of weights beside this one, as PyTorch and the programs around it write them. Run with torch 2.11,
torchvision and safetensors:

    python3 make_torch.py

Networks are one channel wide where the published ones have 64, so that each file stays small:

- official.pt, official-legacy.pt: `torch.save(net.state_dict())` of the official encoder within DataParallel, in both
  forms of file; official.safetensors: what it computes of the input in it;
- torchvision.pth: a ResNet-18 with its classifier;
- solo.ckpt: what PyTorch Lightning saves of a solo-learn run, with settings of classes of other packages;
- views.pt, views-legacy.pt: tensors of every type, shared, transposed, strided, scalar and empty;
- settings.ckpt: one tensor beside settings of odd classes.
"""

import argparse
import collections
import enum
import os
import pathlib
import sys
import types

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH, HIDDEN, PROJECTION, CLASSES = 1, 4, 3, 5


class Narrow(ResNet):
    """torchvision's ResNet-18, its code and its names, with fewer channels."""

    def __init__(self, stem):
        nn.Module.__init__(self)
        self._norm_layer, self.dilation, self.groups, self.base_width = nn.BatchNorm2d, 1, 1, 64
        self.inplanes = WIDTH
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        else:
            # tsb0601/EMP-SSL pads by 1, solo-learn by 2.
            self.conv1 = nn.Conv2d(3, WIDTH, 3, 1, 2 if stem == "solo-learn" else 1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1, self.relu = nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True)
        self.layer1 = self._make_layer(BasicBlock, WIDTH, 2)
        self.layer2 = self._make_layer(BasicBlock, 2 * WIDTH, 2, stride=2)
        self.layer3 = self._make_layer(BasicBlock, 4 * WIDTH, 2, stride=2)
        self.layer4 = self._make_layer(BasicBlock, 8 * WIDTH, 2, stride=2)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Identity()


class Encoder(nn.Module):
    """The structure of the official encoder (tsb0601/EMP-SSL model/model.py)."""

    def __init__(self):
        super().__init__()
        self.backbone = Narrow("cifar")
        self.pre_feature = nn.Sequential(nn.Linear(8 * WIDTH, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU())
        self.projection = nn.Sequential(
            nn.Linear(HIDDEN, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PROJECTION)
        )


def lively(net):
    """Draws weights and statistics that differ from their initial ones."""
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim() == 1:
            tensor.uniform_(-0.1, 0.5)
        else:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
    return net.eval()


def path(name):
    return os.path.join(HERE, name)


def official():
    net = lively(Encoder())
    with torch.no_grad():
        # So that the ReLU lets most features through.
        net.pre_feature[1].bias.add_(6)
    x = (torch.arange(2 * 3 * 32 * 32, dtype=torch.float64) * 0.7).sin().view(2, 3, 32, 32).float()
    with torch.no_grad():
        backbone = net.backbone(x)
        features = net.pre_feature(backbone)
        z = nn.functional.normalize(net.projection(features), p=2)
    save_file({"backbone": backbone, "features": features, "z": z, "x": x[:, :, :2, :2].contiguous()}, path("official.safetensors"))
    print("backbone", backbone, "features", features, "z", z, sep="\n")
    state = nn.DataParallel(net).state_dict()
    torch.save(state, path("official.pt"))
    torch.save(state, path("official-legacy.pt"), _use_new_zipfile_serialization=False)


def torchvision_file():
    net = Narrow("imagenet")
    net.fc = nn.Linear(8 * WIDTH, CLASSES)
    torch.save(lively(net).state_dict(), path("torchvision.pth"))


def odd_settings():
    """Settings as programs keep them, of classes that the reader does not have."""
    omegaconf, inner = types.ModuleType("omegaconf"), types.ModuleType("omegaconf.dictconfig")
    sys.modules.update({"omegaconf": omegaconf, "omegaconf.dictconfig": inner})
    inner.DictConfig = type("DictConfig", (dict,), {"__module__": "omegaconf.dictconfig"})
    config = inner.DictConfig(optimizer={"lr": 0.3, "betas": (0.9, 0.999)})
    config.parent = config
    inner.Kind = enum.Enum("Kind", "first second", module="omegaconf.dictconfig")
    return {
        "cfg": config,
        "namespace": argparse.Namespace(seed=2**70, names={"a", "b"}),
        "folder": pathlib.PurePosixPath("trained/models"),
        "kind": inner.Kind.second,
        "defaults": collections.defaultdict(dict, {"a": {}}),
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
    }


def solo():
    net = nn.Module()
    net.backbone = Narrow("solo-learn")
    net.classifier = nn.Linear(8 * WIDTH, CLASSES)
    net.projector = nn.Sequential(nn.Linear(8 * WIDTH, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU())
    state = lively(net).state_dict()
    checkpoint = {
        "epoch": 3,
        "global_step": 400,
        "pytorch-lightning_version": "1.9.5",
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(WIDTH, 3, 3, 3)}}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": odd_settings(),
    }
    torch.save(checkpoint, path("solo.ckpt"))


def views():
    grid = torch.arange(12, dtype=torch.float32).view(3, 4)
    state = {
        "grid": grid,
        "turned": grid.t(),
        "column": grid[:, 2],
        "part": grid[1:, 1:3],
        "trained": nn.Parameter(torch.tensor([1.5, -2.5])),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 4, dtype=torch.float64),
        "f64": torch.tensor([0.1], dtype=torch.float64),
        "f16": torch.tensor([0.5, -1.0], dtype=torch.float16),
        "bf16": torch.tensor([0.5, -1.0], dtype=torch.bfloat16),
        "i32": torch.tensor([-2, 3], dtype=torch.int32),
        "i16": torch.tensor([-2, 3], dtype=torch.int16),
        "i8": torch.tensor([-2, 3], dtype=torch.int8),
        "u8": torch.tensor([2, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
    }
    torch.save(state, path("views.pt"))
    torch.save(state, path("views-legacy.pt"), _use_new_zipfile_serialization=False)


def main():
    torch.manual_seed(0)
    official()
    torchvision_file()
    solo()
    views()
    torch.save({"state_dict": {"w": torch.ones(2)}, "hyper_parameters": odd_settings()}, path("settings.ckpt"))


if __name__ == "__main__":
    main()
