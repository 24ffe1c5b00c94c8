"""A program of its own: opens a folder with `transformers` and nothing of lavra, and writes what it computes.

Run as `python -P reference.py FOLDER TOKENS OUT`: TOKENS holds (windows, length) ids and a mask of the real ones, OUT
is made with the logits of the real tokens, and OUT.json with what was found about the weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def run(folder: str, tokens: Path, out: Path) -> None:
    """Compute the logits in float32, window by window."""
    import transformers

    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )  # pyright: ignore[reportGeneralTypeIssues]
    model.eval()
    request = load_file(tokens)
    rows = []
    with torch.no_grad():
        for ids, real in zip(request["ids"], request["real"].bool(), strict=True):
            rows.append(model(input_ids=ids[real][None], use_cache=False).logits[0].float())
    save_file({"logits": torch.cat(rows)}, out)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    found = {
        "architecture": type(model).__name__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "tied": head.weight is embedding.weight,
        "tied_by_config": bool(getattr(model.config, "tie_word_embeddings", False)),
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
    }
    Path(f"{out}.json").write_text(json.dumps(found), encoding="utf8")


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
