"""A separate program that opens a folder with `transformers`, without anything of lavra, and writes its logits.

It is run as `python -P reference.py FOLDER TOKENS OUT`. TOKENS is a safetensors file with (windows, length) ids, a mask
of those that are not padding, and the kind of the model, or of the head of its task; for an encoder-decoder the ids are
the text that it writes, and `source_ids` are the text that it reads. For the labels of texts its metadata hold the
texts, which the tokenizer of the folder encodes. OUT receives the logits of the tokens, or of the
texts, and OUT.json what was found about the weights.
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
    """Compute the logits in float32, window by window, and write them.

    Args:
        folder: Hugging Face folder of the model.
        tokens: Safetensors file with the tokens.
        out: Safetensors file to write; a JSON file of the same name with `.json` added is written too.
    """
    import transformers

    with safe_open(tokens, "pt") as file:
        metadata = file.metadata()
    kind = metadata["kind"]
    opened: Any = getattr(transformers, AUTOMATIC[kind])
    options = attention_options(folder)
    model, report = opened.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **options
    )
    model.eval()
    request = load_file(tokens)
    logits = _of_texts(model, folder, metadata) if kind == "sequence" else _logits(model, kind, request)
    save_file({"logits": logits}, out)
    side = model.get_decoder() if kind == "encoder-decoder" else model
    head, embedding = model.get_output_embeddings(), side.get_input_embeddings()
    configs = model.config, getattr(model.config, "decoder", None)
    found = {
        "architecture": type(model).__name__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "tied": head is not None and head.weight is embedding.weight,
        "tied_by_config": any(getattr(config, "tie_word_embeddings", False) for config in configs),
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
    }
    Path(f"{out}.json").write_text(json.dumps(found), encoding="utf8")


AUTOMATIC = {
    "decoder": "AutoModelForCausalLM",
    "encoder": "AutoModelForMaskedLM",
    "encoder-decoder": "AutoModelForSeq2SeqLM",
    "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "sequence": "AutoModelForSequenceClassification",
}
"""The class of `transformers` that opens a folder, by the kind of its model or of its head."""

ATTENTION_KEYS = ("_attn_implementation", "attn_implementation")
"""Keys of a configuration that may name the implementation of attention."""


def attention_options(folder: str) -> dict[str, Any]:
    """Return the options with which to open a model whose attention implementation may be missing here.

    A configuration may name an implementation that only some GPUs have. It is then opened with that of torch.

    Args:
        folder: Hugging Face folder of the model.
    """
    values = json.loads((Path(folder) / "config.json").read_text(encoding="utf8"))
    if not {values.get(key) for key in ATTENTION_KEYS} - {None, "eager", "sdpa"}:
        return {}
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    config._attn_implementation = "sdpa"
    return {"config": config}


@torch.no_grad()
def _of_texts(model: Any, folder: str, metadata: dict[str, str]) -> torch.Tensor:
    """Return the (texts, outputs) logits of texts, or of pairs, in one padded batch of the folder's own tokenizer."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = list(zip(*json.loads(metadata["texts"]), strict=True))
    batch = tokenizer(*map(list, texts), padding=True, truncation=True, return_tensors="pt")
    return model(**batch).logits.float()


@torch.no_grad()
def _logits(model: Any, kind: str, request: dict[str, torch.Tensor]) -> torch.Tensor:
    windows = _parts(request["ids"], request["attention_mask"])
    if kind in ("encoder", "token"):
        rows = [model(input_ids=ids).logits for ids in windows]
    elif kind == "span":
        found = [model(input_ids=ids) for ids in windows]
        rows = [torch.stack([one.start_logits, one.end_logits], -1) for one in found]
    elif kind == "decoder":
        rows = [model(input_ids=ids, use_cache=False).logits for ids in windows]
    else:  # as labels, so that the model shifts them by its own rule
        sources = _parts(request["source_ids"], request["source_attention_mask"])
        rows = [model(input_ids=source, labels=ids).logits for source, ids in zip(sources, windows, strict=True)]
    return torch.cat([row[0].float() for row in rows])


def _parts(ids: torch.Tensor, attention_mask: torch.Tensor) -> list[torch.Tensor]:
    return [row[kept.bool()][None] for row, kept in zip(ids, attention_mask, strict=True)]


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
