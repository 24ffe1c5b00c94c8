#!/usr/bin/env bash
# Training on one GPU against its ceiling and its peers: GPT-2-124M and OPT-125M at context 1024 in bf16.
#
#   bench/gpu.sh                                   about 8 minutes; results in bench/results/training.jsonl
#   NANOGPT=~/nanoGPT OUT=/tmp/results bench/gpu.sh
#   DEVICE=cpu SHAPES=tiny CONTEXT=64 bench/gpu.sh a dry run without a GPU
#
# It uses $PYTHON, or the repository's environment, or a python3, whichever has a torch that sees the device. The few
# packages that such a python3 may lack are installed into a temporary folder: from the folder $WHEELS where there is no
# network, else from the package index.
set -euo pipefail
[ -z "${NANOGPT:-}" ] || NANOGPT=$(realpath "$NANOGPT")
[ -z "${WHEELS:-}" ] || WHEELS=$(realpath "$WHEELS")
[ -z "${OUT:-}" ] || OUT=$(realpath -m "$OUT")
cd "$(dirname "$0")/.."
DEVICE=${DEVICE:-cuda}
SHAPES=${SHAPES:-"124M opt-125m"}
CONTEXT=${CONTEXT:-1024}
LIMIT=${LIMIT:-285} # seconds for each shape
export OUT=${OUT:-bench/results}
began=$SECONDS

sees_device() {
    command -v "$1" >/dev/null && "$1" - "$DEVICE" 2>/dev/null <<'PY'
import sys
import torch
sys.exit(sys.argv[1] == "cuda" and not torch.cuda.is_available())
PY
}

python=
for candidate in ${PYTHON:-.venv/bin/python python3 python}; do
    if sees_device "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "no python here has a torch that sees $DEVICE; name one with PYTHON=/path/to/python" >&2
    exit 2
fi

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
export PYTHONPATH="src:$site${PYTHONPATH:+:$PYTHONPATH}"

missing=$("$python" - <<'PY'
from importlib.util import find_spec
needed = ["numpy", "tokenizers", "safetensors", "transformers", "accelerate", "pyarrow", "tyro", "rich", "psutil",
          "jinja2", "xxhash", "zstandard"]
print(*(name for name in needed if find_spec(name) is None))
PY
)
if [ -n "$missing" ]; then
    echo "installing $missing for this run alone" >&2
    if [ -n "${WHEELS:-}" ]; then
        "$python" -m pip install -q --no-deps --no-index --target "$site" "$WHEELS"/*.whl
    else
        # shellcheck disable=SC2086 - several names
        "$python" -m pip install -q --target "$site" $missing
    fi
fi

nanogpt=()
[ -z "${NANOGPT:-}" ] || nanogpt=(--nanogpt "$NANOGPT")
mkdir -p "$OUT"
status=0
for shape in $SHAPES; do
    peers="Trainer bf16,Trainer bf16 compiled,nanoGPT compiled,lavra as by default"
    # One shape by itself: what is measured stays, whatever happens to the next.
    timeout -k 10 "$LIMIT" "$python" bench/training.py --device "$DEVICE" --shapes "$shape" --contexts "$CONTEXT" \
        --peers "$peers" --rounds "${ROUNDS:-3}" --seconds "${TURN_SECONDS:-2}" "${nanogpt[@]}" ||
        { status=$?; echo "$shape: ended with $status (124: it took longer than $LIMIT s)" >&2; }
done
echo "done in $((SECONDS - began)) s; results in $OUT/training.jsonl" >&2
exit "$status"
