"""A program of its own: opens a folder with `transformers` and nothing of lavra, and writes what it computes.

Run as `python -P reference.py FOLDER TOKENS OUT`: TOKENS holds (windows, length) ids and a mask of the real ones, and
notes the kind of model; for an encoder-decoder, the ids are what it writes and `source_ids` what it reads. OUT is made
with the logits of the real tokens, and OUT.json with what was found about the weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def run(folder: str, tokens: Path, out: Path) -> None:
    """Compute the logits in float32, window by window."""
    import transformers

    with safe_open(tokens, "pt") as file:
        kind = file.metadata()["kind"]
    opened: Any = {
        "decoder": transformers.AutoModelForCausalLM,
        "encoder": transformers.AutoModelForMaskedLM,
        "encoder-decoder": transformers.AutoModelForSeq2SeqLM,
    }[kind]
    options = attention_options(folder)
    model, report = opened.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **options
    )
    model.eval()
    save_file({"logits": _logits(model, kind, load_file(tokens))}, out)
    side = model.get_decoder() if kind == "encoder-decoder" else model
    head, embedding = model.get_output_embeddings(), side.get_input_embeddings()
    configs = model.config, getattr(model.config, "decoder", None)
    found = {
        "architecture": type(model).__name__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "tied": head.weight is embedding.weight,
        "tied_by_config": any(getattr(config, "tie_word_embeddings", False) for config in configs),
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
    }
    Path(f"{out}.json").write_text(json.dumps(found), encoding="utf8")


ATTENTION_KEYS = ("_attn_implementation", "attn_implementation")
"""Where a configuration may name the program that computes its attention."""


def attention_options(folder: str) -> dict[str, Any]:
    """Return how to open a model whose configuration names an attention that only some GPUs have: with torch's own."""
    values = json.loads((Path(folder) / "config.json").read_text(encoding="utf8"))
    if not {values.get(key) for key in ATTENTION_KEYS} - {None, "eager", "sdpa"}:
        return {}
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    config._attn_implementation = "sdpa"
    return {"config": config}


@torch.no_grad()
def _logits(model: Any, kind: str, request: dict[str, torch.Tensor]) -> torch.Tensor:
    windows = _parts(request["ids"], request["real"])
    if kind == "encoder":
        rows = [model(input_ids=ids).logits for ids in windows]
    elif kind == "decoder":
        rows = [model(input_ids=ids, use_cache=False).logits for ids in windows]
    else:  # as labels, so that the model shifts them by its own rule
        sources = _parts(request["source_ids"], request["source_real"])
        rows = [model(input_ids=source, labels=ids).logits for source, ids in zip(sources, windows, strict=True)]
    return torch.cat([row[0].float() for row in rows])


def _parts(ids: torch.Tensor, real: torch.Tensor) -> list[torch.Tensor]:
    return [row[kept.bool()][None] for row, kept in zip(ids, real, strict=True)]


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
