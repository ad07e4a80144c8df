#!/usr/bin/env python3
"""A training step of EMP-SSL in plain PyTorch, eager, for comparison with `empssl bench step`.

    pip install torch==2.11.0
    python3 crates/empssl-train/benches/reference/eager.py --recipe configs/cifar10/one-epoch.toml --device cuda

Network, batch and settings come from the same recipe. The step is written the way the published code computes it
(arXiv 2304.03977; tsb0601/EMP-SSL at 8fc3758):

- all n x b patches through the network at once, BatchNorm over all of them;
- the objective patch by patch, a d x d log-determinant each, gradients by autograd;
- LARS in a Python loop over the parameters, which reads two norms of each back to the host, around torch.optim.SGD.

Patches are random bytes made before the clock starts and lie in pinned memory on CUDA; each step copies a batch to the
device and normalises it there. Nothing is cut, decoded or augmented, which `empssl bench step` does beside its steps.

bf16 is torch.autocast around the network; on a CPU that is another arithmetic than empssl's, which rounds there.
There is one memory mode, that which keeps everything. One line of JSON is printed; a step that does not fit says so in it.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
import tomllib

import torch
from torch import nn
from torch.nn import functional as F

BLOCKS = {"resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3]}


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inside, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        changes = stride != 1 or inside != out
        shortcut = [nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)]
        self.downsample = nn.Sequential(*shortcut) if changes else nn.Identity()

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Network(nn.Module):
    """ResNet, pre-feature layer and projector; projections of length 1."""

    def __init__(self, recipe):
        super().__init__()
        width, hidden, projection = (recipe[key] for key in ("base_width", "hidden", "projection"))
        if recipe["stem"] == "cifar":
            stem = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        else:
            stem = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            stem.append(nn.MaxPool2d(3, 2, 1))
        blocks, inside = [], width
        for stage, count in enumerate(BLOCKS[recipe["backbone"]]):
            for index in range(count):
                out = width << stage
                blocks.append(Block(inside, out, 2 if stage > 0 and index == 0 else 1))
                inside = out
        self.backbone = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.pre_feature = nn.Sequential(nn.Linear(inside, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        head = [nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, projection)]
        self.projection = nn.Sequential(*head)

    def forward(self, x):
        return F.normalize(self.projection(self.pre_feature(self.backbone(x))).float(), p=2)


def objective(z, n, recipe):
    """The published objective for projections [n * b, d], patch-major."""
    patches = z.chunk(n)
    mean = torch.stack(patches).mean(0)
    similarity = rate = 0
    for patch in patches:
        b, d = patch.shape
        similarity = similarity + F.cosine_similarity(patch, mean, dim=1).mean()
        eye = torch.eye(d, device=z.device)
        rate = rate + torch.logdet(eye + d / (b * recipe["eps_sq"]) * patch.T @ patch) / 2
    return -(recipe["invariance_weight"] * similarity + recipe["coding_rate_weight"] * rate) / n


class Lars:
    """Layer-wise rates around SGD, with the semantics of the published wrapper."""

    def __init__(self, parameters, recipe, lr):
        self.parameters, self.recipe, self.lr = list(parameters), recipe, lr
        momentum, nesterov = recipe["momentum"], recipe["nesterov"]
        self.sgd = torch.optim.SGD(self.parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=0)

    def zero_grad(self):
        self.sgd.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self):
        decay, eta = self.recipe["weight_decay"], self.recipe["eta"]
        for p in self.parameters:
            if p.grad is None or (self.recipe["exclude_bias_and_norm"] and p.ndim == 1):
                continue
            p_norm, g_norm = torch.norm(p), torch.norm(p.grad)
            if p_norm != 0 and g_norm != 0:  # here the host waits for the device
                rate = eta * p_norm / (g_norm + decay * p_norm + 1e-8)
                if self.recipe["clip"]:
                    rate = torch.clamp(rate / self.lr, max=1)
                p.grad.add_(p, alpha=decay).mul_(rate)
        self.sgd.step()


def load(path):
    """A recipe file over those that it extends."""
    with open(path, "rb") as file:
        own = tomllib.load(file)
    bases, recipe = own.pop("extends", []), {}
    for base in [bases] if isinstance(bases, str) else bases:
        merge(recipe, load(os.path.join(os.path.dirname(path), base)))
    return merge(recipe, own)


def merge(recipe, own):
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(recipe.get(key), dict):
            merge(recipe[key], value)
        else:
            recipe[key] = value
    return recipe


def read_recipe(arguments):
    """The recipe with the changes of --set and of the short options."""
    recipe = load(arguments.recipe)
    short = {"training.n_patches": arguments.n, "training.batch_size": arguments.b, "patches.side": arguments.side}
    changes = [change.split("=", 1) for change in arguments.set]
    for key, value in changes + [(key, str(value)) for key, value in short.items() if value is not None]:
        *sections, last = key.strip().split(".")
        here = recipe
        for section in sections:
            here = here[section]
        if last not in here:
            sys.exit(f"--set {key}: the recipe has no such key")
        try:
            here[last] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            here[last] = value.strip()
    return recipe


class Stopwatch:
    """Seconds, with everything done that the device was given."""

    def __init__(self, device):
        self.device = device

    def __call__(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def steps(recipe, arguments, device, precision):
    """Seconds of each measured step, and the mean of as many without waiting in between."""
    training = recipe["training"]
    n, b, side = training["n_patches"], training["batch_size"], recipe["patches"]["side"]
    torch.manual_seed(0)
    network = Network(recipe["network"]).to(device)
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)
    lars = Lars(network.parameters(), recipe["optimizer"], recipe["schedule"]["lr"])
    batches = [torch.randint(256, (n * b, 3, side, side), dtype=torch.uint8) for _ in range(2)]
    if device.type == "cuda":
        batches = [batch.pin_memory() for batch in batches]

    def step(number):
        x = batches[number % 2].to(device, non_blocking=True)
        x = (x.float() / 127.5 - 1).contiguous(memory_format=layout)
        lars.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            z = network(x)
        objective(z, n, recipe["loss"]).backward()
        lars.step()

    now = Stopwatch(device)
    for number in range(arguments.warmup):
        step(number)
    seconds = []
    for number in range(arguments.steps):
        began = now()
        step(number)
        seconds.append(now() - began)
    overlapped = None
    if device.type == "cuda":
        began = now()
        for number in range(arguments.steps):
            step(number)
        overlapped = (now() - began) / arguments.steps
    return seconds, overlapped


def processor():
    """The model of the processor, where Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help="a TOML file of configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in `empssl bench step`")
    parser.add_argument("--n", type=int, help="patches an image, instead of the recipe's")
    parser.add_argument("--b", type=int, help="images a step")
    parser.add_argument("--side", type=int, help="side of a patch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16"], help="instead of the recipe's")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--threads", type=int, help="CPU threads [default: one per core]")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    arguments = parser.parse_args()

    recipe = read_recipe(arguments)
    if recipe["network"]["backbone"] not in BLOCKS:
        sys.exit(f"this script knows {' and '.join(BLOCKS)}, the recipe has {recipe['network']['backbone']}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    precision = arguments.precision or recipe["training"]["precision"]
    arguments.channels_last |= recipe["training"]["layout"] == "channels-last"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    cuda = device.type == "cuda"
    patches = recipe["training"]["n_patches"] * recipe["training"]["batch_size"]
    report = {
        "command": " ".join(sys.argv),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": arguments.device,
        "device_name": torch.cuda.get_device_name(device) if cuda else processor(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "layout": "channels-last" if arguments.channels_last else "contiguous",
        "patches": patches,
    }
    try:
        seconds, overlapped = steps(recipe, arguments, device, precision)
    except torch.OutOfMemoryError:
        print(json.dumps(report | {"fits": False}))
        return
    typical = overlapped or statistics.median(seconds)
    peak = torch.cuda.max_memory_allocated(device) if cuda else None
    report |= {
        "fits": True,
        "each_step_seconds": seconds,
        "step_seconds": {"median": statistics.median(seconds)},
        "overlapped_step_seconds": overlapped,
        "patches_per_s": patches / typical,
        "peak_bytes": {"device": peak, "host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
