"""Communication against computing in one training step, by arithmetic alone: `python3 docs/scaling.py`.

Nothing here was measured. The assumptions are the constants below; change them to those of a machine.
`python3 docs/scaling.py N IMAGES` prints what a rank puts into the collectives of a step of ResNet-18 with N patches of
IMAGES images a rank, which `empssl train --nproc` counts while it trains.
"""

import sys

PATCHES, IMAGES, D, H = 20, 16, 1024, 4096  # n; images of a GPU; widths of the projections and the features
NETWORK_FLOPS = 100e12  # achieved in convolutions and products, bf16
OBJECTIVE_FLOPS = 40e12  # achieved in float32 products
LINKS = {"25 GB/s": 25e9, "200 GB/s": 200e9}  # of a GPU, in one direction: one 200 Gb/s port; a switch within a host


def network(depth):
    """Multiplications of a forward pass over one patch of 32 pixels, parameters, channels of each BatchNorm."""
    macs, parameters, norms = 0, 0, []

    def conv(start, to, kernel, stride, side):
        nonlocal macs, parameters
        side //= stride
        macs += start * to * kernel**2 * side**2
        parameters += start * to * kernel**2 + 2 * to
        norms.append(to)
        return side

    side, channels = conv(3, 64, 3, 1, 32), 64
    for stage, blocks in enumerate([2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3]):
        planes = 64 << stage
        out = planes if depth == 18 else 4 * planes
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            if depth == 18:
                after = conv(channels, planes, 3, stride, side)
                conv(planes, planes, 3, 1, after)
            else:
                conv(channels, planes, 1, 1, side)
                after = conv(planes, planes, 3, stride, side)
                conv(planes, out, 1, 1, after)
            if stride != 1 or channels != out:
                conv(channels, out, 1, stride, side)
            side, channels = after, out
    for start, to, has_norm in [(channels, H, True), (H, H, True), (H, D, False)]:
        macs += start * to
        parameters += start * to + to + (2 * to if has_norm else 0)
        norms += [to] if has_norm else []
    return macs, parameters, norms


def row(depth, gpus):
    macs, parameters, norms = network(depth)
    batch = gpus * IMAGES
    step = 3 * 2 * macs * PATCHES * IMAGES / NETWORK_FLOPS
    narrow = min(batch, D)
    # Gram matrices, the product with the gradient's map, and factor and inverse of the smaller side.
    objective = PATCHES * (3 * 2 * batch * D * narrow + 2 * narrow**3) / OBJECTIVE_FLOPS
    ring = 2 * (gpus - 1) / gpus
    gradients = ring * 4 * parameters
    projections = (gpus - 1) * PATCHES * IMAGES * D * 4
    statistics = (gpus - 1) * 8 * (2 * sum(norms) + len(norms)) + ring * 8 * 2 * sum(norms)
    total = gradients + projections + statistics
    cells = [f"ResNet-{depth}", gpus, batch, f"{step * 1e3:.1f} ms", f"{objective * 1e3:.1f} ms"]
    cells += [f"{bytes / 1e6:,.0f} MB" for bytes in (gradients, projections, statistics)]
    cells += [f"{total / link * 1e3:.1f} ms" for link in LINKS.values()]
    return "| " + " | ".join(map(str, cells)) + " |"


def put(patches, images):
    """Megabytes of a step that one rank hands over, whatever the number of ranks: gradients, projections, BatchNorm."""
    _, parameters, norms = network(18)
    parts = 4 * parameters, patches * images * D * 4, sum(8 * (2 * c + 1) + 8 * 2 * c for c in norms)
    return [bytes / 1e6 for bytes in (*parts, sum(parts))]


def main():
    if len(sys.argv) == 3:
        print("gradients {:.2f} MB, projections {:.2f} MB, BatchNorm {:.2f} MB, together {:.2f} MB".format(
            *put(*map(int, sys.argv[1:]))))
        return
    heads = ["network", "GPUs", "b", "network's time", "objective's time", "gradients", "projections", "BatchNorm"]
    heads += [f"at {link}" for link in LINKS]
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for depth in (18, 50):
        for gpus in (8, 64, 512):
            print(row(depth, gpus))


main()
