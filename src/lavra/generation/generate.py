"""Continue prompts: batched, cached, and the same texts however the prompts are grouped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lavra.core.errors import InputError, LavraError
from lavra.core.memory import is_out_of_memory, release_memory
from lavra.core.progress import Progress
from lavra.core.seeds import numpy_stream
from lavra.generation.decoding import Continuation, Decoding
from lavra.generation.options import GenerateOptions
from lavra.models.inference import evaluating

if TYPE_CHECKING:
    from lavra.data.tokenizer import Tokenizer
    from lavra.generation.decoding import CachedModel

ROWS_AT_ONCE = 64
"""Continuations that are decoded together."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation of one prompt.

    Attributes:
        prompt: the text that was continued.
        sample: number of the continuation, from 0.
        text: the new text, without the prompt and without the stop string.
        tokens: the new ids, those of a stop string included, the end-of-document token not.
        reason: why it ended: the model ended the document, a stop string came, or `max_new_tokens` were made.
    """

    prompt: str
    sample: int
    text: str
    tokens: tuple[int, ...]
    reason: Literal["end", "stop", "length"]


def generate(
    model: CachedModel, tokenizer: Tokenizer, prompts: Sequence[str], options: GenerateOptions | None = None
) -> list[Generation]:
    """Continue prompts.

    A prompt is read as the beginning of a document: an end-of-document token comes before it, as in training. The
    empty prompt begins a new document. Where prompt and text outgrow the model's context, the model goes on from the
    last half of its context, read anew; so a token is always made from at least half a context.

    The random numbers of a continuation depend on the seed, the text of its prompt and its sample number, and on
    nothing else: grouping, order and other prompts change no text (beyond what rounding in the model's products can
    change), and equal prompts get equal texts.

    Args:
        model: a model with a cache (`context`, `new_cache`, `step`, `head`).
        tokenizer: the model's own.
        prompts: texts to continue.
        options: how; `GenerateOptions()` by default.

    Returns:
        `options.samples` generations of the first prompt, then of the second, and so on.

    Raises:
        InputError: if a prompt does not fit the context.
        LavraError: if memory does not suffice for a single continuation.
    """
    options = options or GenerateOptions()
    encoded = [_encode(model, tokenizer, prompt) for prompt in prompts]
    wanted = [(number, sample) for number in range(len(prompts)) for sample in range(options.samples)]
    by_length = sorted(wanted, key=lambda one: len(encoded[one[0]]))
    done: dict[tuple[int, int], Generation] = {}
    with evaluating(model), Progress("generating", len(wanted), "texts") as progress:
        at_once = ROWS_AT_ONCE
        while len(done) < len(wanted):
            group = by_length[len(done) : len(done) + at_once]
            rows = [_start(tokenizer, prompts[number], encoded[number], sample, options) for number, sample in group]
            if not _run_whole(model, tokenizer, rows, options):
                at_once = _smaller(len(group))
                continue
            for place, row in zip(group, rows, strict=True):
                done[place] = _finished(prompts[place[0]], place[1], row)
            progress.update(len(done))
    return [done[place] for place in wanted]


def stream(
    model: CachedModel, tokenizer: Tokenizer, prompt: str, options: GenerateOptions | None = None
) -> Iterator[str]:
    """Yield the one continuation of a prompt in pieces, each as soon as it is certain.

    The pieces joined are the text that `generate` returns. No piece holds half a character, nor text that may yet turn
    out to be the beginning of a stop string.

    Raises:
        InputError: if several samples are asked for, or the prompt does not fit the context.
    """
    options = options or GenerateOptions()
    if options.samples != 1:
        raise InputError(
            f"--samples is {options.samples}; only one text can be streamed", "ask for one, or do not stream"
        )
    row = _start(tokenizer, prompt, _encode(model, tokenizer, prompt), 0, options)
    with evaluating(model):
        decoding = Decoding(model, tokenizer, [row], options)
        while decoding.rows:
            piece = "".join(decoding.advance())
            if piece:
                yield piece


def _encode(model: CachedModel, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the ids of a prompt as the beginning of a document."""
    ids = [tokenizer.end_of_document, *tokenizer.encode(prompt)]
    if len(ids) > model.context:
        raise InputError(
            f"the prompt {prompt[:40]!r}… has {len(ids) - 1} tokens; this model reads {model.context - 1} at most",
            "shorten the prompt, or train a model with a longer context",
        )
    return ids


def _start(tokenizer: Tokenizer, prompt: str, ids: list[int], sample: int, options: GenerateOptions) -> Continuation:
    draws = numpy_stream(options.seed, "generate", prompt, sample).random(options.max_new_tokens)
    return Continuation.start(tokenizer, ids, draws, options)


def _run_whole(model: CachedModel, tokenizer: Tokenizer, rows: list[Continuation], options: GenerateOptions) -> bool:
    """Run rows to their ends; False when memory ran out (returned, so that what failed is released)."""
    try:
        decoding = Decoding(model, tokenizer, rows, options)
        while decoding.rows:
            decoding.advance()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _smaller(rows: int) -> int:
    if rows == 1:
        raise LavraError(
            "generation ran out of memory on a single continuation", "ask for fewer new tokens, or use a smaller model"
        )
    release_memory()
    return rows // 2


def _finished(prompt: str, sample: int, row: Continuation) -> Generation:
    return Generation(prompt, sample, "".join(row.pieces), tuple(row.new), row.reason or "length")
