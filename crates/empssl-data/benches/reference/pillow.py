"""Patches per second of the published augmentation in Python, to compare with `cargo bench -p empssl-data`.

Pinned versions: torch 2.11.0, torchvision 0.26.0, Pillow 13.0.0, numpy 2.4.6.

    python -m venv venv && venv/bin/pip install torch==2.11.0 torchvision==0.26.0 Pillow==13.0.0 numpy==2.4.6
    cargo bench -p empssl-data -- patches
    venv/bin/python crates/empssl-data/benches/reference/pillow.py
    cargo bench -p empssl-data -- patches

One thread, images decoded in memory, 20 patches an image. The images are those of the benchmark, which it leaves in
`target/bench-images` (another folder may be given as the argument): `cifar32.rgb`, raw 32x32 images, and
`imagenet224.ppm`, one photograph of 500x375. Run it on the same core as the benchmark, with nothing else on the
machine: only the ratio of the figures means anything.
"""

import random
import sys
import time
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms

PINNED = {"torch": "2.11.0", "torchvision": "0.26.0", "Pillow": "13.0.0", "numpy": "2.4.6"}
PATCHES, SECONDS = 20, 1.5
IMAGES = Path(__file__).parents[4] / "target" / "bench-images"


class Sometimes:
    """Applies a function with probability p."""

    def __init__(self, p, function):
        self.p, self.function = p, function

    def __call__(self, image):
        return self.function(image) if random.random() < self.p else image


def augmented(crop):
    """The steps up to the PIL image (tsb0601/EMP-SSL dataset/aug.py:116-138, dataset/aug4img.py:57-69)."""
    jitter = transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)
    blur = Sometimes(0.1, lambda image: image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0))))
    return [
        crop,
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.RandomApply([jitter], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        blur,
        Sometimes(0.1, ImageOps.solarize),
    ]


def recipes(folder):
    """Name, images and first step of either recipe."""
    records = np.fromfile(folder / "cifar32.rgb", np.uint8).reshape(-1, 32, 32, 3)
    photograph = Image.open(folder / "imagenet224.ppm").convert("RGB")
    assert photograph.size == (500, 375)
    bicubic = transforms.InterpolationMode.BICUBIC
    return [
        ("cifar32", [Image.fromarray(record) for record in records],
         transforms.RandomResizedCrop(32, scale=(0.25, 0.25), ratio=(1, 1))),
        ("imagenet224", [photograph], transforms.RandomResizedCrop(224, scale=(0.25, 0.25), interpolation=bicubic)),
    ]


def patches_per_second(pipeline, images):
    """The median of rounds over all images, after one to warm up."""
    rates, begin = [], time.perf_counter()
    while len(rates) < 4 or time.perf_counter() - begin < SECONDS:
        start = time.perf_counter()
        for image in images:
            for _ in range(PATCHES):
                pipeline(image)
        rates.append(len(images) * PATCHES / (time.perf_counter() - start))
    return float(np.median(rates[1:]))


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
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    if not folder.is_dir():
        sys.exit(f"no images in {folder}: run `cargo bench -p empssl-data -- patches` first, which writes them")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    normalised = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    for name, images, crop in recipes(folder):
        for form, steps in [("a PIL image", augmented(crop)), ("a normalised tensor", augmented(crop) + normalised)]:
            rate = patches_per_second(transforms.Compose(steps), images)
            print(f"patches/{name}, to {form}: {rate:,.0f} patches/s")


if __name__ == "__main__":
    main()
