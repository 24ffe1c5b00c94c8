"""Continue prompts in batches with a key-value cache; the texts do not depend on how the prompts are grouped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from typing import TYPE_CHECKING

from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError, LavraError
from lavra.core.machine import is_out_of_memory, release_memory
from lavra.core.progress import Progress, log
from lavra.core.seeds import numpy_stream
from lavra.generation.batch_size import rows_at_once
from lavra.generation.beams import BeamSearch, Hypothesis
from lavra.generation.constraints import Constraint, constraint_of
from lavra.generation.decoding import ContrastiveDecoding, Decoding
from lavra.generation.prompts import Prompt, encode_prompt
from lavra.generation.rows import Continuation, Reason, TextAssembler, stop_strings
from lavra.models.protocols import eval_mode

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.protocols import CachedModel

ROWS_AT_ONCE = 64
"""Largest number of continuations that are decoded together on a CPU; more gain little speed and take more memory. On a
GPU the memory decides (`lavra.generation.batch_size`)."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation of one prompt.

    Attributes:
        prompt: Text that was continued.
        sample: Number of the continuation, counted from 0.
        text: New text, without the prompt and without the stop string.
        tokens: Ids of the new tokens, with those of a stop string and without the end-of-document token.
        reason: Why the text ended. "end": the model ended the document. "stop": a stop string occurred. "length":
            `max_new_tokens` were made. "unfinished": the text could not satisfy its constraint within them.
        score: Log-probability in nats, divided by (number of tokens) ** length_penalty, where beam search made the
            text; None otherwise.
    """

    prompt: str
    sample: int
    text: str
    tokens: tuple[int, ...]
    reason: Reason
    score: float | None = None


def generate(
    model: CachedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: GenerateOptions | None = None,
    constraint: Constraint | None = None,
) -> list[Generation]:
    """Continue prompts.

    A prompt is read as the tokenizer of the model encodes it: after a beginning-of-text token where the tokenizer adds
    one, unless the options say otherwise. The empty prompt begins a new document. Where prompt and text outgrow the
    context of the model, the model reads the last half of its context again and goes on from there, so that a token
    always has at least half a context before it.

    The options choose the strategy: sampling, `greedy`, `beams`, or `contrastive` search. The random numbers of a
    continuation depend on the seed, the text of its prompt and its sample number, and on nothing else. Grouping, order
    and other prompts therefore change no text, apart from what rounding in the matrix products may change, and equal
    prompts get equal texts.

    Args:
        model: Model with a key-value cache (`context`, `new_cache`, `step`, `head`).
        tokenizer: Tokenizer of the model.
        prompts: Texts to continue.
        options: Options of generation; None takes the defaults of `GenerateOptions`.
        constraint: Constraint on the texts, which replaces one that the options ask for.

    Returns:
        `options.samples` generations of the first prompt, then of the second, and so on. Beam search gives the best
        first, and fewer where it finds fewer.

    Raises:
        InputError: If a prompt does not fit the context, or a constraint cannot be met.
        LavraError: If memory does not suffice for a single continuation.

    Examples:
        A model without training writes nonsense:

        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> from lavra.models.native.building import build_decoder
        >>> from lavra.models.spec import DecoderSpec
        >>> tokenizer = Tokenizer.train(["o rato roeu a rolha"], 300)
        >>> shape = DecoderSpec(vocabulary=tokenizer.vocabulary_size, context=16, depth=1, width=8, heads=1)
        >>> (made,) = generate(build_decoder(shape), tokenizer, ["o rato"], GenerateOptions(max_new_tokens=5))
        >>> len(made.tokens) <= 5, made.reason in ("length", "end")
        (True, True)
    """
    made = dict(generate_each(model, tokenizer, prompts, options, constraint))
    return [made[place] for place in sorted(made)]


def generate_each(
    model: CachedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: GenerateOptions | None = None,
    constraint: Constraint | None = None,
    *,
    read: Sequence[Prompt] | None = None,
) -> Iterator[tuple[tuple[int, int], Generation]]:
    """Yield the generations of `generate`, each as soon as it is finished.

    Short prompts come first. As rows finish, waiting ones take their places.

    Args:
        model: Model with a key-value cache.
        tokenizer: Tokenizer of the model.
        prompts: Texts to continue.
        options: Options of generation; None takes the defaults of `GenerateOptions`.
        constraint: Constraint on the texts, which replaces one that the options ask for.
        read: The prompts as the model reads them; None encodes them.

    Yields:
        The number of the prompt and the number of the sample, both counted from 0, with the generation.

    Raises:
        InputError: If a prompt does not fit the context, or a constraint cannot be met.
        LavraError: If memory does not suffice for a single continuation.
    """
    options = options or GenerateOptions()
    constraint = constraint or constraint_of(tokenizer, options)
    encoded = read or [encode_prompt(model, tokenizer, prompt, options.long_prompt, options.bos) for prompt in prompts]
    by_length = sorted(range(len(prompts)), key=lambda number: encoded[number].size)
    longest = max((prompt.size for prompt in encoded), default=0) + options.max_new_tokens
    at_once = rows_at_once(model, min(model.context, longest), ROWS_AT_ONCE)
    with eval_mode(model), Progress("generating", len(prompts) * options.samples, "texts") as progress:
        if options.beams > 1:
            made = _search(model, tokenizer, by_length, encoded, options, constraint, at_once)
            texts = _texts_of(tokenizer, prompts, made, options, constraint)
        else:
            started = (
                ((number, sample), _start(tokenizer, prompts[number], encoded[number], sample, options))
                for number in by_length
                for sample in range(options.samples)
            )
            made = _decode(model, tokenizer, started, options, constraint, at_once)
            texts = ((place, _finished(prompts[place[0]], place[1], row, constraint)) for place, row in made)
        for one in texts:
            yield one
            progress.advance()


def stream(
    model: CachedModel, tokenizer: Tokenizer, prompt: str, options: GenerateOptions | None = None
) -> Iterator[str]:
    """Yield the one continuation of a prompt in pieces, each as soon as it is certain.

    The pieces joined are the text that `generate` returns. No piece holds a part of a character, nor text that may
    still turn out to be the beginning of a stop string.

    Args:
        model: Model with a key-value cache.
        tokenizer: Tokenizer of the model.
        prompt: Text to continue.
        options: Options of generation; None takes the defaults of `GenerateOptions`.

    Raises:
        InputError: If several samples or beams are asked for, the prompt does not fit the context, or a constraint
            cannot be met.
    """
    options = options or GenerateOptions()
    if options.samples != 1:
        raise InputError(
            f"--samples is {options.samples}; only one text can be streamed", "ask for one, or do not stream"
        )
    if options.beams > 1:
        raise InputError("beam search knows its text only at the end", "do not stream it")
    row = _start(
        tokenizer, prompt, encode_prompt(model, tokenizer, prompt, options.long_prompt, options.bos), 0, options
    )
    constraint = constraint_of(tokenizer, options)
    with eval_mode(model):
        decoding = _decoding(model, tokenizer, [row], options, constraint)
        while decoding.rows:
            piece = "".join(decoding.advance())
            if piece:
                yield piece
    if _reason(row.reason, row.new, constraint) == "unfinished":
        log(unfinished(1, 1, options))


def unfinished(count: int, texts: int, options: GenerateOptions) -> str:
    """Return the printed sentence about texts that do not satisfy their constraint.

    Args:
        count: Number of unfinished texts.
        texts: Number of all texts.
        options: Options of generation.

    Examples:
        >>> unfinished(2, 3, GenerateOptions(max_new_tokens=5))
        '2 of 3 texts are unfinished: 5 tokens were no room for the rest; raise --max-new-tokens'
    """
    made = "the text is" if texts == 1 else f"{count} of {texts} texts are"
    return f"{made} unfinished: {options.max_new_tokens} tokens were no room for the rest; raise --max-new-tokens"


def _start(tokenizer: Tokenizer, prompt: str, read: Prompt, sample: int, options: GenerateOptions) -> Continuation:
    draws = numpy_stream(options.seed, "generate", prompt, sample).random(options.max_new_tokens)
    return Continuation.start(tokenizer, read, draws, options)


def _decoding(
    model: CachedModel,
    tokenizer: Tokenizer,
    rows: Sequence[Continuation],
    options: GenerateOptions,
    constraint: Constraint | None,
) -> Decoding:
    strategy = Decoding if options.contrastive is None else ContrastiveDecoding
    return strategy(model, tokenizer, rows, options, constraint)


def _decode(
    model: CachedModel,
    tokenizer: Tokenizer,
    waiting: Iterator[tuple[tuple[int, int], Continuation]],
    options: GenerateOptions,
    constraint: Constraint | None,
    at_once: int,
) -> Iterator[tuple[tuple[int, int], Continuation]]:
    """Yield rows as they finish, while waiting rows take their places (continuous batching).

    Rows are admitted a quarter of a batch at a time, because reading new prompts interrupts the rows that are growing.
    """
    at_once = at_once if options.contrastive is None else max(1, at_once // options.top_k)
    growing: list[tuple[tuple[int, int], Continuation]] = []
    pads = getattr(model, "pads", True)
    decoding = _decoding(model, tokenizer, [], options, constraint)
    while True:
        if len(growing) <= at_once - max(1, at_once // 4) and (pads or not growing):
            new = list(islice(waiting, at_once - len(growing)))
            if not pads:
                new, waiting = _of_one_length(new, waiting)
            growing += new
            decoding.admit([row for _, row in new])
        if decoding.rows and not _advanced(decoding):
            at_once = _smaller(len(decoding.rows))
            later = growing[at_once:]
            growing = growing[:at_once]
            waiting = chain(later, waiting)
            decoding = _decoding(model, tokenizer, [row for _, row in growing], options, constraint)
        yield from ((place, row) for place, row in growing if row.reason is not None)
        growing = [(place, row) for place, row in growing if row.reason is None]
        if not growing:
            following = next(waiting, None)
            if following is None:
                return
            waiting = chain([following], waiting)


def _of_one_length(
    new: list[tuple[tuple[int, int], Continuation]], waiting: Iterator[tuple[tuple[int, int], Continuation]]
) -> tuple[list[tuple[tuple[int, int], Continuation]], Iterator[tuple[tuple[int, int], Continuation]]]:
    """Return the first rows as far as they have equal lengths, and the others put back in front of the waiting ones.

    A model that cannot handle padding reads only prompts of one length together.
    """
    alike = list(takewhile(lambda one: len(one[1].ids) == len(new[0][1].ids), new))
    return alike, chain(new[len(alike) :], waiting)


def _advanced(decoding: Decoding) -> bool:
    """Make one token for every row, and return whether memory sufficed.

    It returns and does not raise, so that no traceback holds on to the tensors of the failed step.
    """
    try:
        decoding.advance()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _search(
    model: CachedModel,
    tokenizer: Tokenizer,
    numbers: list[int],
    encoded: Sequence[Prompt],
    options: GenerateOptions,
    constraint: Constraint | None,
    at_once: int,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Yield the number of each prompt and its hypotheses by beam search, the best first."""
    at_once, done = max(1, at_once // options.beams), 0
    while done < len(numbers):
        group = numbers[done : done + at_once]
        if not getattr(model, "pads", True):
            length = len(encoded[group[0]].ids)
            group = [number for number in group if len(encoded[number].ids) == length]
        found = _searched(BeamSearch(model, tokenizer, [encoded[number] for number in group], options, constraint))
        if found is None:
            at_once = _smaller(len(group))
            continue
        done += len(group)
        yield from zip(group, found, strict=True)


def _searched(search: BeamSearch) -> list[list[Hypothesis]] | None:
    try:
        return search.run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _smaller(rows: int) -> int:
    if rows == 1:
        raise LavraError(
            "generation ran out of memory on a single continuation", "ask for fewer new tokens, or use a smaller model"
        )
    release_memory()
    return rows // 2


def _finished(prompt: str, sample: int, row: Continuation, constraint: Constraint | None) -> Generation:
    reason = _reason(row.reason, row.new, constraint)
    return Generation(prompt, sample, "".join(row.pieces), tuple(row.new), reason)


def _reason(reason: Reason | None, new: Sequence[int], constraint: Constraint | None) -> Reason:
    """Return why a text ended; a text that its constraint does not allow to end is unfinished."""
    if constraint is not None and reason != "stop" and not constraint.whole(tuple(new)):
        return "unfinished"
    return reason or "length"


def _texts_of(
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    made: Iterator[tuple[int, list[Hypothesis]]],
    options: GenerateOptions,
    constraint: Constraint | None,
) -> Iterator[tuple[tuple[int, int], Generation]]:
    for number, hypotheses in made:
        for sample, one in enumerate(hypotheses[: options.samples]):
            assembler = TextAssembler(
                tokenizer,
                [] if one.source else one.ids[one.marks : one.prompt_length],
                stop_strings(tokenizer, options),
            )
            text = "".join(map(assembler.add, one.new)) + assembler.finish()
            score = one.score if one.new or one.reason == "end" else None
            yield (
                (number, sample),
                Generation(
                    prompts[number], sample, text, tuple(one.new), _reason(one.reason, one.new, constraint), score
                ),
            )
