"""The common interface of all engines, and the engine with every option, which is our own decoding in PyTorch."""

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
    from lavra.models.protocols import CachedModel

Made = Iterator[tuple[tuple[int, int], Generation]]
"""Iterator over generations in the order in which they are finished, each with the number of its prompt and the number
of its sample."""


class Engine(Protocol):
    """An engine that continues prompts."""

    @property
    def description(self) -> str:
        """Name and precision of the engine, for messages."""
        ...

    @property
    def continues(self) -> bool:
        """Whether a text continues its prompt, as of a decoder, or is a text of its own, as of an encoder-decoder."""
        ...

    def generate_each(self, prompts: Sequence[str], options: GenerateOptions) -> Made:
        """Yield each generation as soon as it is finished; see `lavra.generation.generate.generate_each`.

        Args:
            prompts: Texts to continue.
            options: Options of generation.
        """
        ...

    def stream(self, prompt: str, options: GenerateOptions) -> Iterator[str]:
        """Yield the one continuation of a prompt in pieces; see `lavra.generation.generate.stream`.

        Args:
            prompt: Text to continue.
            options: Options of generation, with one sample and without beams.
        """
        ...


def generate_with(engine: Engine, prompts: Sequence[str], options: GenerateOptions) -> list[Generation]:
    """Return the generations of the first prompt, then of the second, and so on.

    Args:
        engine: Engine that continues the prompts.
        prompts: Texts to continue.
        options: Options of generation.
    """
    made = dict(engine.generate_each(prompts, options))
    return [made[place] for place in sorted(made)]


@dataclass(frozen=True)
class TorchEngine:
    """Our own decoding loop, with every strategy and constraint; texts do not depend on how prompts are grouped.

    Attributes:
        model: Model with a key-value cache.
        tokenizer: Tokenizer of the model.
        description: Name and precision of the engine, for messages.
    """

    model: CachedModel
    tokenizer: Tokenizer
    description: str = "torch"

    @property
    def continues(self) -> bool:
        """Whether a text continues its prompt, which is so unless the model is an encoder-decoder."""
        return not writes_from_source(self.model)

    def generate_each(self, prompts: Sequence[str], options: GenerateOptions) -> Made:
        """Yield each generation as soon as it is finished; see `lavra.generation.generate.generate_each`.

        Args:
            prompts: Texts to continue.
            options: Options of generation.
        """
        with torch.no_grad():
            yield from generate_each(self.model, self.tokenizer, prompts, options)

    def stream(self, prompt: str, options: GenerateOptions) -> Iterator[str]:
        """Yield the one continuation of a prompt in pieces; see `lavra.generation.generate.stream`.

        Args:
            prompt: Text to continue.
            options: Options of generation, with one sample and without beams.
        """
        with torch.no_grad():
            yield from stream(self.model, self.tokenizer, prompt, options)
