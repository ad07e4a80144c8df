"""Makes the small image files in `decode/` and, beside each, the pixels that Pillow gives for it.

    python -m venv venv && venv/bin/pip install Pillow==13.0.0 numpy==2.4.6
    venv/bin/python crates/empssl-data/tests/data/make_fixtures.py

`NAME.EXT.rgb` holds `Image.open("NAME.EXT").convert("RGB")`, row after row. The files are the oddities of ImageNet and
the kinds of JPEG that photographs come in.

`photographs.txt` has a line for every photograph of `imagenet-photos`, where EMPSSL_SHARED_DATA names the folder that
holds them: its name, width, height, and the Adler-32 sum of Pillow's pixels.
"""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).parent / "decode"


def picture(width, height, channels=3, seed=0):
    """Slopes, edges and noise; no reflection maps it to itself."""
    y, x = np.mgrid[:height, :width]
    planes = []
    for channel in range(channels):
        slope = 255 * (x * (channel + 1) + 2 * y) / (width * (channel + 1) + 2 * height)
        edges = 60 * ((x // 5 + y // (3 + channel)) % 2)
        planes.append(slope * 0.7 + edges)
    noise = np.random.default_rng(seed).normal(0, 6, (height, width, channels))
    return (np.stack(planes, -1) + noise).clip(0, 255).astype(np.uint8)


def jpeg(image, **options):
    file = BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def png(image, **options):
    file = BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def png_by_hand(samples, colour_type):
    """A 16-bit PNG file of `[height, width, channels]`, which Pillow does not write itself."""
    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def adobe_segment(data):
    """The place of the APP14 segment with Adobe's mark."""
    place = data.index(b"\xff\xee\x00\x0eAdobe")
    return place, place + 16


def without_adobe(data):
    start, end = adobe_segment(data)
    return data[:start] + data[end:]


def as_ycck(data):
    """Declares the first three of four inks to be luma and chroma."""
    _, end = adobe_segment(data)
    return data[: end - 1] + b"\x02" + data[end:]


def files():
    rgb = Image.fromarray(picture(37, 23))
    grey = Image.fromarray(picture(37, 23, 1)[..., 0])
    inks = Image.frombytes("CMYK", (37, 23), picture(37, 23, 4).tobytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "444.jpg", jpeg(rgb, quality=90, subsampling="4:4:4")
    yield "422.jpg", jpeg(rgb, quality=90, subsampling="4:2:2")
    yield "420.jpg", jpeg(rgb, quality=90, subsampling="4:2:0")
    yield "420-even.jpg", jpeg(Image.fromarray(picture(48, 32)), quality=75, subsampling="4:2:0")
    yield "420-17x1.jpg", jpeg(Image.fromarray(picture(17, 1)), quality=75, subsampling="4:2:0")
    yield "420-1x1.jpg", jpeg(Image.fromarray(picture(1, 1)), quality=75, subsampling="4:2:0")
    yield "422-16x9.jpg", jpeg(Image.fromarray(picture(16, 9)), quality=60, subsampling="4:2:2")
    yield "420-coarse.jpg", jpeg(rgb, quality=8, subsampling="4:2:0")
    yield "444-fine.jpg", jpeg(rgb, quality=100, subsampling="4:4:4")
    yield "restarts.jpg", jpeg(rgb, quality=90, restart_marker_blocks=2)
    yield "progressive-420.jpg", jpeg(rgb, quality=90, subsampling="4:2:0", progressive=True)
    yield "progressive-444.jpg", jpeg(rgb, quality=90, subsampling="4:4:4", progressive=True)
    yield "progressive-grey.jpg", jpeg(grey, quality=90, progressive=True)
    yield "grey.jpg", jpeg(grey, quality=90)
    yield "plain-rgb.jpg", jpeg(rgb, quality=90, keep_rgb=True)
    yield "exif-orientation.jpg", jpeg(rgb, quality=90, exif=exif)
    cmyk = jpeg(inks, quality=90)
    yield "cmyk.jpg", cmyk
    yield "cmyk-no-adobe.jpg", without_adobe(cmyk)
    yield "ycck.jpg", as_ycck(cmyk)
    yield "ycck-progressive.jpg", as_ycck(jpeg(inks, quality=90, progressive=True))
    yield "png-in-disguise.JPEG", png(rgb)
    palette = rgb.quantize(40)
    yield "palette.png", png(palette)
    yield "palette-4-bit-transparent.png", png(rgb.quantize(11), transparency=3)
    yield "rgba.png", png(Image.fromarray(picture(19, 14, 4), "RGBA"))
    yield "rgb-transparent.png", png(rgb, transparency=(1, 2, 3))
    yield "grey-alpha.png", png(Image.merge("LA", (grey, grey.rotate(180))))
    yield "grey-transparent.png", png(grey, transparency=7)
    yield "grey-2-bit.png", png(grey, bits=2)
    yield "one-bit.png", png(grey.convert("1"))
    deep = picture(37, 23, 4).astype(np.uint16) * 257 - np.arange(4, dtype=np.uint16) * 3
    deep[0, 0] = 0, 127, 128, 65535
    yield "grey-16-bit.png", png_by_hand(deep[..., :1], 0)
    yield "rgb-16-bit.png", png_by_hand(deep[..., :3], 2)
    yield "grey-alpha-16-bit.png", png_by_hand(deep[..., :2], 4)
    yield "rgba-16-bit.png", png_by_hand(deep, 6)


def photographs(root):
    for path in sorted(root.rglob("*.JPEG")):
        image = Image.open(path)
        yield f"{path.name} {image.width} {image.height} {zlib.adler32(image.convert('RGB').tobytes())}\n"


def main():
    OUT.mkdir(exist_ok=True)
    for name, data in files():
        (OUT / name).write_bytes(data)
        with Image.open(BytesIO(data)) as image:
            (OUT / f"{name}.rgb").write_bytes(image.convert("RGB").tobytes())
            print(f"{name}: {image.mode} {image.size}, {len(data)} bytes")
    if root := os.environ.get("EMPSSL_SHARED_DATA"):
        lines = photographs(Path(root) / "imagenet-photos")
        (OUT.parent / "photographs.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
