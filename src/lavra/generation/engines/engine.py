"""The one interface of all engines, and the engine that does everything: our own decoding in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from lavra.config.generation import GenerateOptions
from lavra.generation.generate import Generation, generate_each, stream
from lavra.generation.prompts import writes_from_source

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.contract import CachedModel

Made = Iterator[tuple[tuple[int, int], Generation]]
"""(number of the prompt, number of the sample) and its generation, in the order in which they are finished."""


class Engine(Protocol):
    """What continues prompts."""

    @property
    def description(self) -> str:
        """The engine and its precision, as a user reads them."""
        ...

    @property
    def continues(self) -> bool:
        """Whether a text goes on from its prompt, rather than being written from it (by an encoder-decoder)."""
        ...

    def generate_each(self, prompts: Sequence[str], options: GenerateOptions) -> Made:
        """Yield each generation as soon as it is finished; see `lavra.generation.generate.generate_each`."""
        ...

    def stream(self, prompt: str, options: GenerateOptions) -> Iterator[str]:
        """Yield the one continuation of a prompt in pieces; see `lavra.generation.generate.stream`."""
        ...


def generate_with(engine: Engine, prompts: Sequence[str], options: GenerateOptions) -> list[Generation]:
    """Return the generations of the first prompt, then of the second, and so on."""
    made = dict(engine.generate_each(prompts, options))
    return [made[place] for place in sorted(made)]


@dataclass(frozen=True)
class TorchEngine:
    """Our own decoding loop: every strategy and constraint, and texts that do not depend on how prompts are grouped.

    Attributes:
        model: with a cache.
        tokenizer: the model's own.
        description: for messages.
    """

    model: CachedModel
    tokenizer: Tokenizer
    description: str = "torch"

    @property
    def continues(self) -> bool:
        """Whether a text goes on from its prompt."""
        return not writes_from_source(self.model)

    def generate_each(self, prompts: Sequence[str], options: GenerateOptions) -> Made:
        """Yield each generation as soon as it is finished."""
        with torch.no_grad():
            yield from generate_each(self.model, self.tokenizer, prompts, options)

    def stream(self, prompt: str, options: GenerateOptions) -> Iterator[str]:
        """Yield the one continuation of a prompt in pieces, each as soon as it is certain."""
        with torch.no_grad():
            yield from stream(self.model, self.tokenizer, prompt, options)
