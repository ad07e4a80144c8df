"""Patches per second of the published augmentation in Python, to compare with `cargo bench -p empssl-data`.

Pinned versions: torch 2.11.0, torchvision 0.26.0, Pillow 13.0.0, numpy 2.4.6.

    python -m venv venv && venv/bin/pip install torch==2.11.0 torchvision==0.26.0 Pillow==13.0.0 numpy==2.4.6
    venv/bin/python crates/empssl-data/benches/reference/pillow.py

One thread, images decoded in memory, 20 patches an image. Run it one after the other on the same machine as the benchmark, with nothing
else on the machine: only the ratio of the two figures means anything.
"""

import random
import time

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms

PINNED = {"torch": "2.11.0", "torchvision": "0.26.0", "Pillow": "13.0.0", "numpy": "2.4.6"}
IMAGES, PATCHES, ROUNDS = 50, 20, 5


class Sometimes:
    """Applies a function with probability p."""

    def __init__(self, p, function):
        self.p, self.function = p, function

    def __call__(self, image):
        return self.function(image) if random.random() < self.p else image


def recipe():
    """The 32-pixel recipe up to the PIL image (tsb0601/EMP-SSL dataset/aug.py:116-138)."""
    jitter = transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)
    blur = Sometimes(0.1, lambda image: image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0))))
    return [
        transforms.RandomResizedCrop(32, scale=(0.25, 0.25), ratio=(1, 1)),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.RandomApply([jitter], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        blur,
        Sometimes(0.1, ImageOps.solarize),
    ]


def gratings(count):
    """Coloured 32x32 gratings with a little noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    for _ in range(count):
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 8)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
        colours = rng.uniform(80, 176, 3) + wave[..., None] * rng.uniform(-60, 60, 3)
        yield Image.fromarray((colours + rng.uniform(-6, 6, (32, 32, 1))).clip(0, 255).astype(np.uint8))


def patches_per_second(pipeline, images):
    """The fastest of a few rounds, after one to warm up."""
    rates = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        for image in images:
            for _ in range(PATCHES):
                pipeline(image)
        rates.append(len(images) * PATCHES / (time.perf_counter() - start))
    return max(rates[1:])


def main():
    found = {
        "torch": torch.__version__.split("+")[0],
        "torchvision": torchvision.__version__.split("+")[0],
        "Pillow": PIL.__version__,
        "numpy": np.__version__,
    }
    for name, version in PINNED.items():
        if found[name] != version:
            print(f"note: {name} {found[name]} instead of {version}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    images = list(gratings(IMAGES))
    to_tensor = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    for name, steps in [("to a PIL image", recipe()), ("to a normalised tensor", recipe() + to_tensor)]:
        print(f"patches/cifar32, {name}: {patches_per_second(transforms.Compose(steps), images):.0f} patches/s")


if __name__ == "__main__":
    main()
