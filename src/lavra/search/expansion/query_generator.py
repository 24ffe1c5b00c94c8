"""Writers of queries: what turns passages into the queries that they answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from lavra.config.generation import GenerateOptions
from lavra.core.disk.json_lines import one_line
from lavra.core.errors import InputError
from lavra.generation.engines.engine import Engine, TorchEngine
from lavra.generation.prompts import writes_from_source
from lavra.search.expansion.prompts import QueryPrompt

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.contract import CachedModel

_SLACK = 8
"""Tokens left free for the marks around a text; and a text and its prompt may have more tokens together than apart."""

_USUAL_SOURCE = 512
"""Tokens that an encoder reads when it names no limit (T5 was trained on 512)."""


class QueryWriter(Protocol):
    """Anything that writes queries for passages."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides what is written besides passage, count and seed."""
        ...

    @property
    def room(self) -> int:
        """Most tokens of a passage that can be read."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """What counts tokens."""
        ...

    def write(self, passages: Sequence[str], count: int, seed: int) -> list[list[str]]:
        """Return `count` queries for each passage.

        One query is the likeliest (greedy); several are drawn at random.
        """
        ...


@dataclass(frozen=True)
class Sampling:
    """How queries are drawn when several are asked for.

    Attributes:
        top_k: among this many likeliest tokens (10 as in docTTTTTquery); 0 for all.
        temperature: of the draw.
    """

    top_k: int = 10
    temperature: float = 1.0

    def options(self, count: int, seed: int, most_tokens: int, separator: str) -> GenerateOptions:
        """Return the options of generation: greedy for one query, sampling for more; one ends at the separator."""
        return GenerateOptions(
            max_new_tokens=most_tokens,
            samples=count,
            seed=seed,
            greedy=count == 1,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=1.0,
            stop=(separator,) if separator else (),
        )


class ModelWriter:
    """A model of ours: a decoder that goes on from a passage with a query, or an encoder-decoder that reads it.

    A passage is read once, however many queries are drawn. With our own decoding loop the texts do not depend on how
    passages are grouped; what other engines draw may (see there), and the cache is what makes it the same again.

    Args:
        model: with a cache.
        tokenizer: its own.
        prompt: as in training.
        sampling: how queries are drawn.
        engine: computes the texts; our own decoding loop by default.

    Raises:
        InputError: if the model's context has no room for a passage.
    """

    def __init__(
        self,
        model: CachedModel,
        tokenizer: Tokenizer,
        prompt: QueryPrompt,
        sampling: Sampling = Sampling(),
        engine: Engine | None = None,
    ) -> None:
        self._engine = engine or TorchEngine(model, tokenizer)
        self._prompt, self._sampling = prompt, sampling
        self.tokenizer = tokenizer
        around = len(tokenizer.encode(prompt.fill(""))) + _SLACK
        if reads_with_encoder(model):
            self._query_tokens = prompt.query_tokens
            room = (getattr(model, "source_context", None) or _USUAL_SOURCE) - around
        else:
            self._query_tokens = min(prompt.query_tokens, model.context // 4)
            room = model.context - around - self._query_tokens
        if room < 1:
            raise InputError(
                f"this model reads {model.context} tokens, which is no room for a passage and a query",
                "use a model with a longer context",
            )
        self.room = min(room, prompt.passage_tokens or room)
        self.fingerprint = fingerprint_of(
            weights_fingerprint(model),
            tokenizer.fingerprint,
            self._engine.description,
            [prompt.before, prompt.after, prompt.separator],
            asdict(sampling),
        )

    def write(self, passages: Sequence[str], count: int, seed: int) -> list[list[str]]:
        """Return `count` queries for each passage."""
        options = self._sampling.options(count, seed, self._query_tokens, self._prompt.separator)
        prompts = [self._prompt.fill(passage) for passage in passages]
        queries: list[list[str]] = [[""] * count for _ in passages]
        for (passage, sample), made in self._engine.generate_each(prompts, options):
            queries[passage][sample] = clean_query(made.text)
        return queries


def reads_with_encoder(model: object) -> bool:
    """Whether a model is an encoder-decoder, which reads the passage alone and begins a query anew."""
    return writes_from_source(model)


def clean_query(text: str) -> str:
    """Return a generated query on one line."""
    return " ".join(text.split())


def weights_fingerprint(model: object) -> str:
    """Return a hash of a module's weights: names, types, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(model, torch.nn.Module):
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint_of(*parts: object) -> str:
    """Return a hash of plain values."""
    return hashlib.blake2b(one_line(parts).encode(), digest_size=16).hexdigest()
