"""Tiny random encoders of texts, in folders of `transformers` and of sentence-transformers, which writes its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tests.little_tokenizers import wordpiece

TEXTS = (
    "A palavra não é só de quem a escreve, disse-lhe a avó; é também de quem a lê.",
    "rio",
    "Às vezes, o coração da gente é um d'água: ora calmo, ora não.",
    "the value of a function is what it returns",
    "a",
    "the value of a function is what it returns, and " * 12,
    "rio",
    "import statements and names",
)
"""Texts of several lengths, one of which occurs twice and one of which is longer than the models read."""

LONGEST = 24


def tiny_bert(folder: Path, **fields: Any) -> Path:
    """Write a random BERT with its tokenizer, which `AutoModel` opens; it has no language-model head."""
    import transformers

    inner = wordpiece()
    inner.save(folder)
    marks = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner.inner, model_max_length=64, **marks)
    tokenizer.save_pretrained(folder)
    options = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.BertConfig(
        vocab_size=inner.vocabulary_size, max_position_embeddings=64, initializer_range=0.5, pad_token_id=0,
        **{**options, **fields},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def sentence_folder(
    folder: Path,
    *,
    pooling: str = "mean",
    normalise: bool = True,
    dense: int | None = None,
    prompts: dict[str, str] | None = None,
    default_prompt: str | None = None,
    include_prompt: bool = True,
    longest: int = LONGEST,
) -> Path:
    """Let sentence-transformers write a folder of a tiny random BERT."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as models

    bert = models.Transformer(str(tiny_bert(folder.with_name(folder.name + "-bert"))), max_seq_length=longest)
    modules: list[Any] = [bert, models.Pooling(16, pooling, include_prompt=include_prompt)]
    if dense is not None:
        torch.manual_seed(1)
        modules.append(models.Dense(16, dense))
    modules += [models.Normalize()] if normalise else []
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name=default_prompt)
    model.save(str(folder))
    return folder


def their_vectors(folder: Path, texts: Sequence[str] = TEXTS, method: str = "encode", **options: Any) -> Any:
    """Return the vectors that sentence-transformers makes."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return getattr(model, method)(list(texts), **options)
