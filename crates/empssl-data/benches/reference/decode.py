"""Photographs decoded per second by Pillow, to compare with `cargo bench -p empssl-data --bench decode`.

Pinned version: Pillow 13.0.0, whose wheel brings libjpeg-turbo.

    python -m venv venv && venv/bin/pip install Pillow==13.0.0
    EMPSSL_SHARED_DATA=DIR venv/bin/python crates/empssl-data/benches/reference/decode.py

One thread, files in memory. Run it one after the other on the same machine as the benchmark: only the ratio of the two
figures means anything.
"""

import io
import os
import statistics
import time
from pathlib import Path

import PIL
from PIL import Image, features

PINNED = "13.0.0"
ROUNDS = 11


def images_per_second(photographs):
    """The median of a few rounds, after one to warm up, as criterion shows the middle of its samples."""
    rates = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        for data in photographs:
            Image.open(io.BytesIO(data)).convert("RGB")
        rates.append(len(photographs) / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def main():
    if PIL.__version__ != PINNED:
        print(f"note: Pillow {PIL.__version__} instead of {PINNED}")
    root = Path(os.environ.get("EMPSSL_SHARED_DATA", "target/shared-data")) / "imagenet-photos"
    photographs = [path.read_bytes() for path in sorted(root.rglob("*.JPEG"))]
    if not photographs:
        print(f"skipped: no photographs below {root}")
        return
    print(f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}, {len(photographs)} photographs")
    print(f"decode/imagenet: {images_per_second(photographs):.0f} images/s")


if __name__ == "__main__":
    main()
