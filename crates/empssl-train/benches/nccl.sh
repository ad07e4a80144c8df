#!/usr/bin/env bash
# A process group of one rank on one GPU: the same weights as without a group, and what NCCL costs a step.
#
#   crates/empssl-train/benches/nccl.sh OUT
#
# The step of the one-epoch recipe on the synthetic set, by a process alone and by the one rank of a group, as torchrun
# starts it. Every collective of a larger group is asked for, and none has anybody to wait for: what is measured is the
# price of asking, and of BatchNorm over all ranks in place of cuDNN's.
#
# 1. CHECK steps, repeatable kernels. With BatchNorm per rank the weights must be equal to the bit; with BatchNorm over all
#    ranks, which is another order of sums, the norm of the difference may be TOLERANCE of that of all of them.
# 2. STEPS steps as fast as they go, of which the first tenth is left out of the means.
#
# OUT gets the three runs of each part, what they said, and nccl.md. The exit code is 1 where the weights differ.
#
# The environment may change what is measured:
#   DEVICE       cuda:0                     where to compute
#   CHECK        20                         and STEPS, 200
#   TOLERANCE    0.01
#   EMPSSL       target/release/empssl      which is built unless it is named, and NCCL's object with it
#   TRIAL        unset                      1 shrinks network and batch until a CPU, by Gloo, does it in a minute:
#
#   DEVICE=cpu TRIAL=1 STEPS=20 crates/empssl-train/benches/nccl.sh OUT
set -euo pipefail
out=${1:?usage: nccl.sh OUT}
empssl=${EMPSSL:-target/release/empssl}
if [ -z "${EMPSSL:-}" ]; then
    cargo xtask setup --nccl
    cargo build --release -p empssl-cli
fi
mkdir -p "$out"
check=${CHECK:-20} steps=${STEPS:-200}

common=(--recipe configs/cifar10/one-epoch.toml --dataset synthetic --seed 0 --no-monitor --force
    --device "${DEVICE:-cuda:0}")
if [ -n "${TRIAL:-}" ]; then
    common+=(--set network.base_width=4 --set network.hidden=32 --set network.projection=16
        --set training.batch_size=4 --set training.n_patches=4)
fi

# train NAME STEPS [ARGUMENT ...]: a run in OUT/NAME, by a process alone unless its name says otherwise.
train() {
    local name=$1 length=$2 variables=()
    shift 2
    echo "$name" >&2
    if [ "${name%%-*}" = group ]; then
        local port
        port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
        variables=(RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 "MASTER_PORT=$port")
    fi
    env "${variables[@]}" "$empssl" train "${common[@]}" --max-steps "$length" --log-every "$(((length + 9) / 10))" \
        --out "$out/$name" "$@" 2>"$out/$name.log" || { cat "$out/$name.log" >&2; return 1; }
}

for part in check cost; do
    length=$steps repeatable=()
    if [ "$part" = check ]; then length=$check repeatable=(--deterministic); fi
    train "alone-$part" "$length" "${repeatable[@]}"
    train "group-per-rank-$part" "$length" "${repeatable[@]}" --set training.batch_norm=per-rank
    train "group-global-$part" "$length" "${repeatable[@]}" --set training.batch_norm=global
done

python3 - "$out" "${TOLERANCE:-0.01}" "${TRIAL:-}" >"$out/nccl.md" <<'PYTHON' || failed=1
import array, json, math, pathlib, struct, sys

out, tolerance, trial = pathlib.Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]


def tensors(name):
    """The network of a run's last checkpoint: bytes and type of every tensor."""
    data = (out / name / "checkpoint.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return {key: (entry["dtype"], data[8 + length :][slice(*entry["data_offsets"])]) for key, entry in header.items()}


def numbers(tensor):
    kind = {"F32": "f", "F64": "d", "I64": "q"}[tensor[0]]
    return array.array(kind, tensor[1])


def compare(name):
    """Tensors, those that differ, and the norm of the difference over that of the process alone, of all together."""
    one, other = tensors("alone-check"), tensors(name)
    assert one.keys() == other.keys(), f"{name} has other tensors than the process alone"
    difference = norm = 0.0
    for key in one:
        a, b = numbers(one[key]), numbers(other[key])
        norm += sum(x * x for x in a)
        difference += sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) if one[key] != other[key] else 0.0
    return len(one), sum(one[key] != other[key] for key in one), math.sqrt(difference / norm)


def step_ms(name):
    lines = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
    first, last = lines[0], lines[-1]
    return 1e3 * (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])


def said(name):
    return next(line for line in (out / f"{name}.log").read_text().splitlines() if line.startswith("1 ranks: "))


run = json.loads((out / "alone-cost" / "run.json").read_text())
machine = run["machine"]
if trial:
    print("**A trial with a tiny network: no figure here means anything.**\n")
print(f"{machine['device_name']}, libtorch {machine['versions']['libtorch']}, empssl {machine['versions']['empssl']}, "
      f"commit {machine['commit'] or 'not told'}.\n")
print("| | tensors that differ from the process alone | difference over norm | step, ms | over the process alone, ms |")
print("|---|---|---|---|---|")
alone = step_ms("alone-cost")
print(f"| alone | | | {alone:.2f} | |")
fine = True
for norms, bar in (("per-rank", 0.0), ("global", tolerance)):
    count, unlike, difference = compare(f"group-{norms}-check")
    fine = fine and difference <= bar and (bar > 0 or unlike == 0)
    own = step_ms(f"group-{norms}-cost")
    print(f"| group of one, BatchNorm {norms} | {unlike} of {count} | {difference:.2e} (bar: {bar:g}) | {own:.2f} "
          f"| {own - alone:+.2f} |")
print()
for norms in ("per-rank", "global"):
    print(f"BatchNorm {norms}: {said(f'group-{norms}-cost')}.  ")
sys.exit(0 if fine else 1)
PYTHON
cat "$out/nccl.md"
[ -z "${failed:-}" ] || { echo "the weights of a group of one differ from those of a process alone" >&2; exit 1; }
