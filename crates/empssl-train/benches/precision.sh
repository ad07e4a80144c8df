#!/usr/bin/env bash
# How far bf16 training ends from fp32 training: a recipe with three seeds in both, and the mean linear probe of each.
#
#   crates/empssl-train/benches/precision.sh OUT [RECIPE] [more arguments of `empssl train`, such as --data DIR]
#
# RECIPE is configs/synthetic/quick.toml unless given. Runs that are finished in OUT are not repeated.
set -euo pipefail
out=$1
recipe=${2:-configs/synthetic/quick.toml}
shift $(($# < 2 ? $# : 2))
cargo build --release -p empssl-cli
for precision in fp32 bf16; do
    for seed in 0 1 2; do
        run="$out/$precision-s$seed"
        [ -f "$run/report.json" ] && continue
        target/release/empssl train --recipe "$recipe" --seed "$seed" --out "$run" --force \
            --set "training.precision=$precision" "$@"
        target/release/empssl eval "$run"
    done
done
python3 - "$out" <<'PYTHON'
import json, statistics, sys

def linear(precision, seed):
    rows = json.load(open(f"{sys.argv[1]}/{precision}-s{seed}/report.json"))["rows"]
    return next(row["top1"] for row in rows if (row["encoder"], row["probe"]) == ("trained", "linear"))

means = {}
for precision in ("fp32", "bf16"):
    scores = [linear(precision, seed) for seed in range(3)]
    means[precision] = statistics.mean(scores)
    print(f"{precision}: {scores}, mean {means[precision]:.2f} +- {statistics.stdev(scores):.2f}")
print(f"bf16 - fp32: {means['bf16'] - means['fp32']:+.2f} points (bar: within 2)")
PYTHON
