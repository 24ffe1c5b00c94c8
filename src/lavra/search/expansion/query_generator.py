"""Query generators, which turn passages into the queries that they answer."""

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
    from lavra.models.protocols import CachedModel

_SLACK = 8
"""Tokens of the context that are left free, for special tokens around a text, and because a text and its prompt may
have more tokens together than apart."""

_USUAL_SOURCE = 512
"""Most tokens for an encoder whose configuration names no limit (T5 was trained on 512)."""


class QueryGenerator(Protocol):
    """The protocol of query generators."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything that the queries depend on besides passage, count and seed."""
        ...

    @property
    def room(self) -> int:
        """Most tokens of a passage that the generator can read."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer by which the tokens of a passage are counted."""
        ...

    def write(self, passages: Sequence[str], count: int, seed: int) -> list[list[str]]:
        """Generate queries for passages.

        Args:
            passages: The passages, each of at most `room` tokens.
            count: Number of queries for each passage; a single one is generated greedily, several are sampled.
            seed: Seed of the sampling.

        Returns:
            `count` queries for each passage, some of which may be empty.
        """
        ...


@dataclass(frozen=True)
class Sampling:
    """How several queries for a passage are sampled.

    Attributes:
        top_k: Number of most probable tokens among which each token is sampled (10 as in docTTTTTquery); 0 for all.
        temperature: Sampling temperature.
    """

    top_k: int = 10
    temperature: float = 1.0

    def options(self, count: int, seed: int, most_tokens: int, separator: str) -> GenerateOptions:
        """Return the options of generation: greedy for one query, sampling for more.

        Args:
            count: Number of queries for each passage.
            seed: Seed of the sampling.
            most_tokens: Most tokens of a query.
            separator: Text at which a query ends; an empty string for none.
        """
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


class ModelQueryGenerator:
    """A query generator that is a language model: a decoder, which continues a passage with a query, or an
    encoder-decoder, which reads the passage.

    A passage is read once, however many queries are sampled. With lavra's own decoding loop the queries do not depend
    on how passages are batched; with other engines they may, and only the cache makes them reproducible.

    Args:
        model: The model, which must support a key-value cache.
        tokenizer: The tokenizer of the model.
        prompt: The prompt with which the model was trained.
        sampling: How several queries are sampled.
        engine: The engine that generates; lavra's own decoding loop if None.

    Raises:
        InputError: If the context of the model has no room for a passage and a query.
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
                f"this model reads {model.context} tokens, which are too few for a passage and a query",
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
        """Return `count` queries for each passage; see `QueryGenerator.write`."""
        options = self._sampling.options(count, seed, self._query_tokens, self._prompt.separator)
        prompts = [self._prompt.fill(passage) for passage in passages]
        queries: list[list[str]] = [[""] * count for _ in passages]
        for (passage, sample), made in self._engine.generate_each(prompts, options):
            queries[passage][sample] = clean_query(made.text)
        return queries


def reads_with_encoder(model: object) -> bool:
    """Return whether a model is an encoder-decoder, which reads the passage with its encoder."""
    return writes_from_source(model)


def clean_query(text: str) -> str:
    """Return a generated query on one line, with single spaces between words.

    Examples:
        >>> clean_query(" where\\n is  it ")
        'where is it'
    """
    return " ".join(text.split())


def weights_fingerprint(model: object) -> str:
    """Return a hash of the weights of a model: names, types, shapes and values.

    Args:
        model: A torch module; anything else has no weights, and the hash of nothing.
    """
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(model, torch.nn.Module):
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint_of(*parts: object) -> str:
    """Return a hash of plain values in their order."""
    return hashlib.blake2b(one_line(parts).encode(), digest_size=16).hexdigest()
