"""Writing what is missing between two texts, with a model that learned to fill in middles or hidden spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lavra.core.errors import InputError
from lavra.data.tokenizers.prompt_ids import with_bos
from lavra.generation.generate import Generation, generate_each
from lavra.generation.prompts import Prompt, writes_from_source
from lavra.objectives.denoise.marks import MODES, infilling_of, sentinels_of

if TYPE_CHECKING:
    from lavra.config.generation import GenerateOptions
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.protocols import CachedModel


def can_infill(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer has the special tokens by which a model is asked for a middle.

    Args:
        tokenizer: Tokenizer of the model.
    """
    return infilling_of(tokenizer) is not None or bool(sentinels_of(tokenizer))


def infilling_prompt(
    model: CachedModel, tokenizer: Tokenizer, prefix: Sequence[int], suffix: Sequence[int], bos: bool | None = None
) -> Prompt:
    """Return what a model reads before it writes the middle between a prefix and a suffix.

    A model with tokens for it reads prefix, suffix, middle (PSM). One with sentinels reads both texts with a sentinel
    between them, and begins its answer with the same sentinel.

    Args:
        model: Model with a key-value cache.
        tokenizer: Tokenizer of the model.
        prefix: Ids of the text before the middle.
        suffix: Ids of the text after the middle.
        bos: Whether a decoder reads a beginning-of-text token before all; None leaves that to the tokenizer.

    Raises:
        InputError: If the model knows neither, or the texts do not fit its context.
    """
    marks, sentinels = infilling_of(tokenizer), sentinels_of(tokenizer)
    if marks is None and not sentinels:
        raise InputError(
            "the model has no tokens by which a middle is asked for",
            "train one that has: lavra train DATA --objective fim (--from MODEL goes on from a model)",
        )
    mode = tokenizer.inner.token_to_id(MODES["R"])
    if marks is not None:
        asked = [marks.prefix, *prefix, marks.suffix, *suffix, marks.middle]
        read = Prompt(with_bos(tokenizer, asked, bos))
    elif writes_from_source(model):
        before, after = tokenizer.around_source
        source = [*before, *([] if mode is None else [mode]), *prefix, sentinels[0], *suffix, *after]
        read = Prompt(list(getattr(model, "decoder_start_ids", ())), tuple(source), getattr(model, "forced", 0))
    else:
        asked = [*prefix, sentinels[0], *suffix]
        read = Prompt([mode, *asked] if mode is not None else with_bos(tokenizer, asked, True))
    longest = max(len(read.ids), len(read.source))
    if longest > model.context:
        raise InputError(
            f"prefix and suffix have {longest} tokens together; this model reads {model.context} at most",
            "shorten them: the text next to the gap matters most",
        )
    # No text stands directly before the middle, and nothing of the prompt is repeated.
    return Prompt(read.ids, read.source, read.forced, marks=len(read.ids))


def infill(
    model: CachedModel,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    options: GenerateOptions,
) -> list[Generation]:
    """Write the middles between pairs of texts.

    Args:
        model: Model with a key-value cache.
        tokenizer: Tokenizer of the model.
        pairs: Prefix and suffix of each middle.
        options: Options of generation.

    Returns:
        `options.samples` generations for each pair, in their order; the prompt of each is its prefix.

    Raises:
        InputError: If the model cannot fill in, a pair does not fit its context, or a constraint cannot be met.
    """
    read = [
        infilling_prompt(model, tokenizer, tokenizer.encode(prefix), tokenizer.encode(suffix), options.bos)
        for prefix, suffix in pairs
    ]
    made = dict(generate_each(model, tokenizer, [prefix for prefix, _ in pairs], options, read=read))
    return [made[place] for place in sorted(made)]
