#!/usr/bin/env bash
# The training step on a GPU: every memory mode, precision and layout that fits, beside the same step in plain PyTorch.
#
#   crates/empssl-train/benches/cuda.sh OUT [--data DIR ...]
#
# Three steps of the one-epoch recipe: n = 20 and n = 200 at 32 pixels, and n = 20 at 224 pixels with the ImageNet stem.
# The images are the synthetic set, or what the arguments after OUT name; at 224 pixels always the synthetic set.
# OUT gets a JSON file for every case, the message of every one that has none, and table.md with card and versions.
# A case that needs more memory than there is counts as one that does not fit; any other failure ends in exit code 1.
# Cases that are in OUT already are not measured again.
#
# The environment may change what is measured:
#   DEVICE       cuda:0                     where to compute
#   STEPS        10                         steps of each case, after WARMUP (3)
#   PRECISIONS   "fp32 tf32 bf16"           and LAYOUTS, "contiguous channels-last"
#   PYTHON       python3                    with torch 2.11.0; without torch the comparison is left out
#   EMPSSL       target/release/empssl      which is built unless it is named
#   TRIAL        unset                      1 shrinks network and batch until a CPU does all of it in two minutes:
#
#   DEVICE=cpu TRIAL=1 STEPS=1 WARMUP=1 PRECISIONS="fp32 bf16" crates/empssl-train/benches/cuda.sh OUT
set -euo pipefail
out=${1:?usage: cuda.sh OUT [--data DIR ...]}
shift
here=$(dirname "$0")
python=${PYTHON:-python3}
empssl=${EMPSSL:-target/release/empssl}
[ -n "${EMPSSL:-}" ] || cargo build --release -p empssl-cli
mkdir -p "$out"
failures=0

common=(--recipe configs/cifar10/one-epoch.toml --device "${DEVICE:-cuda:0}" --steps "${STEPS:-10}"
    --warmup "${WARMUP:-3}")
if [ -n "${TRIAL:-}" ]; then
    common+=(--set network.base_width=4 --set network.hidden=32 --set network.projection=16 --set training.batch_size=4)
fi
synthetic=(--dataset synthetic)
chosen=("$@")
[ $# -gt 0 ] || chosen=("${synthetic[@]}")

# attempt NAME FILE COMMAND...: the command's output in FILE, or its complaint in NAME.none or NAME.failed.
attempt() {
    local name=$1 file=$2
    shift 2
    if [ -s "$out/$name.json" ] || [ -s "$out/$name.none" ]; then
        return
    fi
    echo "$name" >&2
    rm -f "$out/$name.failed"
    if "$@" >"$out/$file.part" 2>"$out/$name.failed"; then
        mv "$out/$file.part" "$out/$file"
        rm "$out/$name.failed"
        return
    fi
    rm -f "$out/$file.part" "$out/$name.json"
    if grep -qi 'out of memory' "$out/$name.failed"; then
        mv "$out/$name.failed" "$out/$name.none"
    else
        echo "  failed, see $out/$name.failed" >&2
        failures=$((failures + 1))
    fi
}

# cases SIZE PART: all of one size, with the arguments in `size` for both programs and those in `images` for empssl;
# by patches, PART patches of each image go at once.
cases() {
    local precision layout memory name
    for precision in ${PRECISIONS:-fp32 tf32 bf16}; do
        for layout in ${LAYOUTS:-contiguous channels-last}; do
            local arithmetic=(--set "training.precision=$precision" --set "training.layout=$layout")
            for memory in whole by-stage "{by-patches=$2}"; do
                name=$1,$precision,$layout,$(tr -dc 'a-z-' <<<"$memory")
                attempt "$name" "$name.txt" "$empssl" bench step "${common[@]}" "${size[@]}" "${images[@]}" \
                    "${arithmetic[@]}" --set "training.memory=$memory" --json "$out/$name.json"
            done
            if "$python" -c 'import torch' 2>/dev/null; then
                name=$1,$precision,$layout,eager
                attempt "$name" "$name.json" "$python" "$here/reference/eager.py" "${common[@]}" "${size[@]}" \
                    "${arithmetic[@]}"
            fi
        done
    done
}

if [ -n "${TRIAL:-}" ]; then few=4 many=8 part=2; else few=20 many=200 part=20; fi
images=("${chosen[@]}") size=(--set "training.n_patches=$few")
cases "n$few-32px" $((few / 4))
size=(--set "training.n_patches=$many")
cases "n$many-32px" "$part"
images=("${synthetic[@]}")
size=(--set "training.n_patches=$few" --set patches.side=224 --set patches.interpolation=bicubic
    --set 'patches.crop_ratio=[0.75,1.3333333333333333]' --set network.stem=imagenet)
cases "n$few-224px" $((few / 4))

python3 - "$out" "${TRIAL:-}" >"$out/table.md" <<'PYTHON'
import json, pathlib, sys

out, trial = pathlib.Path(sys.argv[1]), sys.argv[2]
cases = {}
for path in sorted([*out.glob("*,*.json"), *out.glob("*.none"), *out.glob("*.failed")]):
    name, _, end = path.name.rpartition(".")
    cases[tuple(name.split(","))] = json.loads(path.read_text()) if end == "json" else {"none": end}
ours = [case for key, case in cases.items() if key[3] != "eager" and "none" not in case]
eager = [case for key, case in cases.items() if key[3] == "eager" and case.get("fits")]

if trial:
    print("**A trial with a tiny network: no figure here means anything.**\n")
for case in ours[:1]:
    machine = case["machine"]
    print(f"{machine['device_name']}, {case['processors']} processors, {machine['threads']} threads, {case['workers']} "
          f"workers; empssl {machine['versions']['empssl']}, commit {machine['commit'] or 'not told'}, libtorch "
          f"{machine['versions']['libtorch']}; {len(case['measured']['each_step_seconds'])} steps after "
          f"{case['warmup']}; {case['began']}.")
for case in eager[:1]:
    print(f"PyTorch {case['torch']}, Python {case['python']}, on {case['device_name']}; it makes no patches, empssl does.")
print("""
Steps are overlapped ones, in which nothing waits for the device; on a CPU, where nothing overlaps, the median step.
Peaks are of tensors on the device; on a CPU, of the process.
`of products` is the step's floating-point operations per second over those of the fastest matrix product.

| size | precision | layout | memory | step, ms | patches/s | of products | peak, GiB | PyTorch eager, patches/s | its peak, GiB | ratio |
|---|---|---|---|---|---|---|---|---|---|---|""")


def peak(case):
    peaks = case["peak_bytes"]
    return f"{(peaks['device'] or peaks['host'] or 0) / 2**30:.2f}"


def order(key):
    size, precision, layout, memory = key
    n, side = size[1:].split("-")
    return (int(side[:-2]), int(n), ["fp32", "tf32", "bf16"].index(precision), layout != "contiguous",
            ["whole", "by-stage", "by-patches"].index(memory))


for key in sorted((key for key in cases if key[3] != "eager"), key=order):
    case, other = cases[key], cases.get((*key[:3], "eager"), {"none": "not run"})
    said = {"none": "does not fit", "failed": "failed", "not run": "not run"}
    theirs = [said[other["none"]], "", ""] if "none" in other else ["does not fit", "", ""]
    if other.get("fits"):
        theirs = [f"{other['patches_per_s']:.1f}", peak(other), ""]
    if "none" in case:
        row = [said[case["none"]], "", "", ""]
    else:
        measured = case["measured"]
        step = measured["overlapped_step_seconds"] or measured["step_seconds"]["median"]
        row = [f"{1e3 * step:.1f}", f"{measured['patches_per_s']:.1f}", f"{measured['of_product_rate']:.2f}", peak(case)]
        if other.get("fits"):
            theirs[2] = f"{measured['patches_per_s'] / other['patches_per_s']:.2f}"
    print("| " + " | ".join([*key, *row, *theirs]) + " |")
PYTHON
cat "$out/table.md"
[ "$failures" = 0 ] || { echo "$failures cases failed" >&2; exit 1; }
