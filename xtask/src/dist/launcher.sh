#!/bin/sh
# Starts bin/NAME, NAME being what this file is called, with a libtorch VERSION that is there: that of LIBTORCH, else that
# of the `torch` package of python3. Nothing is downloaded or installed.
set -eu

fail() {
    echo "error: $1" >&2
    exit 3
}

# A link to this file may lie anywhere.
this=$0
while [ -L "$this" ]; do
    link=$(readlink "$this")
    case "$link" in
    /*) this=$link ;;
    *) this=$(dirname "$this")/$link ;;
    esac
done
here=$(cd "$(dirname "$this")" && pwd)
name=$(basename "$this")

# The folder of python3's torch, found without importing it, which takes seconds.
python_torch() {
    command -v python3 >/dev/null 2>&1 || return 1
    python3 -c 'import importlib.util
spec = importlib.util.find_spec("torch")
print(spec.submodule_search_locations[0] if spec else "")' 2>/dev/null
}

version_of() {
    if [ -f "$1/build-version" ]; then
        cat "$1/build-version"
    elif [ -f "$1/version.py" ]; then
        sed -n "s/^__version__ = ['\"]\(.*\)['\"].*/\1/p" "$1/version.py"
    fi
}

wanted="install it with \`python3 -m pip install torch==VERSION\`, or set LIBTORCH to the folder of one"
if [ -n "${LIBTORCH:-}" ]; then
    torch=$LIBTORCH
    source="LIBTORCH"
else
    torch=$(python_torch) || torch=""
    source="python3's torch"
    [ -n "$torch" ] || fail "libtorch VERSION is needed, but LIBTORCH is not set and python3 has no torch package: $wanted"
fi
[ -f "$torch/lib/libtorch_cpu.so" ] || fail "$torch ($source) holds no lib/libtorch_cpu.so: $wanted"
found=$(version_of "$torch")
case "$found" in
VERSION | VERSION+*) ;;
*) fail "$torch ($source) is libtorch ${found:-of unknown version}, but VERSION is needed: $wanted" ;;
esac

# libtorch finds CUDA's libraries beside its own package; naming their folders helps where a package was moved.
path=$torch/lib
for folder in "$torch"/../nvidia/*/lib "$torch"/../nvidia/cu13/lib; do
    [ -d "$folder" ] && path=$path:$folder
done
export LD_LIBRARY_PATH="$path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export LIBTORCH="$torch"
exec "$here/bin/$name" "$@"
