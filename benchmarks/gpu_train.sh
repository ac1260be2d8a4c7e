#!/bin/sh
# Train an inverter within ten minutes on a machine with a GPU, without network or installed package:
#
#   benchmarks/gpu_train.sh pack PHOTOGRAPHS... [--val PHOTOGRAPHS]    here, where the photographs are
#   benchmarks/gpu_train.sh train hog [--minutes 8]                    there, after gpu_check has built the package
#
# `pack` writes build/gpu-train, which git ignores: take it along. `train` writes into the folder named by the
# environment variable OUT. `pack --help` and `train --help` list the options; PYTHON names another interpreter.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

has() {
    "$1" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec(sys.argv[1]))' "$2" 2>/dev/null
}

for python in "${PYTHON:-}" "$root/.venv/bin/python" python3; do
    if [ -n "$python" ] && has "$python" torch; then break; fi
    python=
done
if [ -z "$python" ]; then
    echo "gpu_train.sh needs a Python with PyTorch: none in .venv, none on PATH" >&2
    exit 1
fi

# The package as gpu_check has built it, where none is installed, with the kernels that it has compiled.
built="$root/build/gpu-check"
if ! has "$python" preimage; then
    export PYTHONPATH="$built/site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONUNBUFFERED=1 TRITON_CACHE_DIR="${TRITON_CACHE_DIR:-$built/caches/triton}"
exec "$python" "$root/benchmarks/_gpu_train.py" "$@"
