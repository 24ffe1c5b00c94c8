#!/usr/bin/env bash
# What a user does first on a machine with one GPU and no network: train, adapt, write, check, resume, beside the peers.
#
#   bench/gpu.sh                                   at most 9 minutes; results in bench/results/gpu.jsonl
#   TEXT=novels.jsonl NANOGPT=~/nanoGPT OUT=/tmp/results bench/gpu.sh
#   DEVICE=cpu bench/gpu.sh                        a dry run of every stage without a GPU, in tiny sizes
#   STAGES="adapt trainer" bench/gpu.sh            these stages alone (and the model that they need)
#
# Every stage has its own limit and its own log, $OUT/STAGE.log, with the seconds of every line; one that fails stops
# nothing. The most worthy come first, since SECONDS_IN_ALL ends the walk. In the end there is one table; the exit code
# is 1 where a stage failed.
#
# TEXT is JSON Lines with "text"; without it, the documentation of the installed packages. It uses $PYTHON, or the
# repository's environment, or a python3, whichever has a torch that sees the device. The few packages that such a
# python3 may lack are installed into a temporary folder: from the folder $WHEELS where there is no network, else from
# the package index.
set -uo pipefail
[ -z "${NANOGPT:-}" ] || NANOGPT=$(realpath "$NANOGPT")
[ -z "${WHEELS:-}" ] || WHEELS=$(realpath "$WHEELS")
[ -z "${TEXT:-}" ] || TEXT=$(realpath "$TEXT")
[ -z "${OUT:-}" ] || OUT=$(realpath -m "$OUT")
cd "$(dirname "$0")/.." || exit
DEVICE=${DEVICE:-cuda}
export OUT=${OUT:-$PWD/bench/results}
STAGES=${STAGES:-"nothing model adapt trainer lora generate check resume kernel"}
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

work=$(mktemp -d) walk=$(date -u +%Y-%m-%dT%H:%M:%SZ)
child=
finish() {
    local code=$?
    if [ -n "$child" ]; then # the walk was asked to end in the middle of a stage
        kill "$child" 2>/dev/null
        wait "$child"
    fi
    "$python" bench/_gpu_stage.py --table --out "$OUT" --walk "$walk" || [ $code -ne 0 ] || code=1
    echo "done in $((SECONDS - began)) s; logs and gpu.jsonl in $OUT" >&2
    rm -rf "$work"
    exit $code
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
mkdir -p "$OUT" "$work/site"
export PYTHONPATH="src:$work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

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
        "$python" -m pip install -q --no-deps --no-index --target "$work/site" "$WHEELS"/*.whl
    else
        # shellcheck disable=SC2086 # several names
        "$python" -m pip install -q --target "$work/site" $missing
    fi
fi

# When and where the walk was made, as the first line of its rows.
"$python" - "$walk" "$DEVICE" <<'PY'
import sys
sys.path.insert(0, "bench")
from _results import record
record("gpu", {"walk": sys.argv[1], "device": sys.argv[2]})
PY

if [ "$DEVICE" = cuda ]; then
    export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0} # Trainer would share its rows among all GPUs
    SECONDS_IN_ALL=${SECONDS_IN_ALL:-525} patience=1
    budget=60 lora_budget=30 shape=124M context=1024 rows=64,32,16,8,4 tokens=100 timed=8
    text_words=(--bytes 30000000) llama_words=() prompts=64 small=()
    resume_words=(--steps 120 -- --model lavra-9m)
else
    # No more than what shows that every stage works; a busy machine may take its time over it.
    export CUDA_VISIBLE_DEVICES=
    SECONDS_IN_ALL=${SECONDS_IN_ALL:-3600} patience=10
    budget=8 lora_budget=8 shape=tiny context=64 rows=4,2 tokens=8 timed=1
    text_words=(--bytes 1000000) llama_words=(--tiny) prompts=4
    small=(--model.depth 2 --model.width 64 --model.heads 2 --context 64)
    resume_words=(--steps 12 --vocabulary 1024 -- "${small[@]}" --optimization.batch-tokens 512 --compile no)
fi

wanted() {
    case " $STAGES " in *" $1 "*) ;; *) return 1 ;; esac
}

# stage NAME LIMIT [--budget S] [--run FOLDER] -- COMMAND: run it if it is wanted.
stage() {
    local name=$1 limit=$(($2 * patience)) left=$((SECONDS_IN_ALL - (SECONDS - began)))
    shift 2
    wanted "$name" || return
    "$python" bench/_gpu_stage.py "$name" --out "$OUT" --walk "$walk" --limit $((limit < left ? limit : left)) "$@" &
    child=$!
    wait "$child" # in the background, so that a signal is heard at once
    child=
}

# keep NAME: what a run wrote down about itself, for a later look; not its weights.
keep() {
    local file
    [ -d "$work/$1" ] || return
    mkdir -p "$OUT/$1"
    for file in plan.json result.json metrics.jsonl events.log checks.json; do
        [ ! -f "$work/$1/$file" ] || cp "$work/$1/$file" "$OUT/$1/"
    done
}

# train NAME LIMIT BUDGET WORDS…: the command of a user, and nothing else.
train() {
    local name=$1 limit=$2 budget=$3
    shift 3
    stage "$name" "$limit" --budget "$budget" --run "$work/$name" -- \
        "$python" -m lavra train "$TEXT" --budget "${budget}s" --out "$work/$name" "$@"
    keep "$name"
}

if [ -z "${TEXT:-}" ]; then
    TEXT=$work/text.jsonl STAGES="text $STAGES"
    stage text 45 -- "$python" bench/_gpu_model.py text "$TEXT" "${text_words[@]}"
fi
llama=$work/llama
if wanted adapt || wanted trainer || wanted lora || wanted generate; then STAGES="$STAGES model"; fi

train nothing 100 "$budget"
stage model 50 -- "$python" bench/_gpu_model.py llama "$TEXT" "$llama" "${llama_words[@]}"
train adapt 110 "$budget" --from "$llama"
stage trainer 60 -- "$python" bench/_gpu_peers.py --device "$DEVICE" adapt "$llama" "$TEXT" \
    --context "$context" --rows "$rows" --seconds "$timed"
train lora 60 "$lora_budget" --from "$llama" --adapter lora
if wanted generate; then
    "$python" bench/_gpu_model.py prompts "$TEXT" "$work/prompts.jsonl" --number "$prompts" >/dev/null
fi
stage generate 80 -- "$python" bench/_gpu_peers.py --device "$DEVICE" generate "$llama" "$work/prompts.jsonl" \
    --tokens "$tokens"
stage check 90 -- "$python" -m lavra check "$TEXT" --json "${small[@]}"
stage resume 120 -- "$python" bench/_gpu_resume.py "$TEXT" "$work/resume" "${resume_words[@]}"

peers="Trainer bf16 compiled,lavra as by default" nanogpt=()
if [ -n "${NANOGPT:-}" ]; then
    peers="nanoGPT compiled,$peers" nanogpt=(--nanogpt "$NANOGPT")
fi
stage kernel 180 -- "$python" bench/training.py --device "$DEVICE" --shapes "$shape" --contexts "$context" \
    --peers "$peers" --rounds 2 --seconds 2 --json "${nanogpt[@]}"
