"""The text and the model of bench/gpu.sh: a Llama of SmolLM2-135M's shape with random weights, for transformers.

    python bench/_gpu_model.py text OUT.jsonl [--bytes N]                   the installed documentation as JSONL
    python bench/_gpu_model.py llama TEXT.jsonl FOLDER [--tiny]             the model, with a tokenizer of the text
    python bench/_gpu_model.py prompts TEXT.jsonl OUT.jsonl --number N      beginnings of documents, to be continued

A model's speed is that of its shape, whatever its weights are, and nothing has to be fetched.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.041666666666666664,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
}
TINY = SMOLLM2 | {
    "vocab_size": 1024,
    "hidden_size": 48,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}
"""Of the same kind: three queries to a key, and a width that is no power of two."""

SAMPLE_BYTES = 10_000_000
"""Of the text, for the tokenizer."""

PROMPT_WORDS = 8


def texts_of(location: str, most_bytes: float) -> Iterator[str]:
    """Yield the documents of a location until they have so many bytes in all."""
    from lavra.data.readers.documents import read_rows

    size = 0
    for row in read_rows([location]):
        yield row.text
        size += len(row.text.encode())
        if size >= most_bytes:
            return


def write_text(path: Path, most_bytes: float) -> dict[str, Any]:
    """Write the installed documentation as a file of JSON Lines."""
    documents = 0
    with path.open("w", encoding="utf-8") as file:
        for text in texts_of("installed-docs:", most_bytes):
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            documents += 1
    return {"says": f"{documents:,} documents, {path.stat().st_size / 1e6:.1f} MB"}


def write_llama(text: str, folder: Path, shape: dict[str, Any]) -> dict[str, Any]:
    """Write a model of a shape in bf16, whose tokenizer lavra trains on the text."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lavra.data.tokenizers.tokenizer import Tokenizer

    tokenizer = Tokenizer.train(texts_of(text, SAMPLE_BYTES), shape["vocab_size"])
    tokenizer.save(folder)
    end = tokenizer.end_of_document
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=end, eos_token_id=end)).to(torch.bfloat16)
    model.save_pretrained(folder)
    parameters = sum(weight.numel() for weight in model.parameters())
    return {
        "says": f"{parameters / 1e6:.4g}M parameters, {tokenizer.vocabulary_size:,} tokens",
        "parameters": parameters,
    }


def write_prompts(text: str, path: Path, number: int) -> dict[str, Any]:
    """Write the first words of `number` documents, of the first again where there are fewer, as JSON Lines."""
    beginnings = [" ".join(document.split()[:PROMPT_WORDS]) for document in islice(texts_of(text, 1e8), number)]
    prompts = [beginnings[place % len(beginnings)] for place in range(number)]
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    return {"says": f"{number} prompts"}


def request(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    text = kinds.add_parser("text")
    text.add_argument("out", type=Path)
    text.add_argument("--bytes", type=float, default=float("inf"))
    llama = kinds.add_parser("llama")
    llama.add_argument("text")
    llama.add_argument("out", type=Path)
    llama.add_argument("--tiny", action="store_true")
    prompts = kinds.add_parser("prompts")
    prompts.add_argument("text")
    prompts.add_argument("out", type=Path)
    prompts.add_argument("--number", type=int, default=64)
    return parser.parse_args(words)


def main() -> int:
    options = request()
    if options.kind == "text":
        said = write_text(options.out, options.bytes)
    elif options.kind == "llama":
        said = write_llama(options.text, options.out, TINY if options.tiny else SMOLLM2)
    else:
        said = write_prompts(options.text, options.out, options.number)
    print(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
