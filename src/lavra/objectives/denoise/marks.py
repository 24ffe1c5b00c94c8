"""The special tokens of the denoising objectives: their names, their ids, and a tokenizer that has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lavra.config.denoising import Denoiser
from lavra.core.errors import InputError
from lavra.data.tokenizers.extension import with_special_tokens
from lavra.data.tokenizers.files import put_before_texts
from lavra.data.tokenizers.tokenizer import Tokenizer

SENTINELS = 100
"""Number of sentinels, as in T5; a text has at most as many hidden spans."""

MODES = {"R": "[NLU]", "S": "[S2S]", "X": "[NLG]"}
"""The mode tokens, with the names that the published models of UL2 have."""

MASK = "<mask>"
"""The mask token of a decoder, and all names under which a tokenizer may have one."""
_MASKS = ("[MASK]", MASK)

_INFILLING = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
"""The tokens before prefix, suffix and middle: ours, which are also those of Qwen, then those of StarCoder, SantaCoder
and Code Llama."""


@dataclass(frozen=True)
class Infilling:
    """The ids of the tokens that stand before prefix, suffix and middle.

    Attributes:
        prefix: Id before the prefix.
        suffix: Id before the suffix.
        middle: Id before the middle.
    """

    prefix: int
    suffix: int
    middle: int


def sentinel_names() -> list[str]:
    """Return the names of the sentinels in their order, which are those of T5."""
    return [f"<extra_id_{number}>" for number in range(SENTINELS)]


def sentinels_of(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids of the sentinels that a tokenizer has, in their order, which need not be that of the ids.

    Args:
        tokenizer: Tokenizer of any kind; T5's has sentinels whose ids fall.
    """
    found: list[int] = []
    for name in sentinel_names():
        number = tokenizer.inner.token_to_id(name)
        if number is None:
            break
        found.append(number)
    return tuple(found)


def infilling_of(tokenizer: Tokenizer) -> Infilling | None:
    """Return the tokens by which a tokenizer marks a middle to be filled in; None where it has none.

    Args:
        tokenizer: Tokenizer of any kind.
    """
    for names in _INFILLING:
        ids = [number for name in names if (number := tokenizer.inner.token_to_id(name)) is not None]
        if len(ids) == len(names):
            return Infilling(*ids)
    return None


def mask_of(tokenizer: Tokenizer) -> int | None:
    """Return the id of the mask token; None where the tokenizer has none.

    Args:
        tokenizer: Tokenizer of any kind.
    """
    return next((number for name in _MASKS if (number := tokenizer.inner.token_to_id(name)) is not None), None)


def marks_of(objective: str, mixture: Sequence[Denoiser], *, decoder: bool = True) -> list[str]:
    """Return the names of the special tokens that an objective needs.

    Args:
        objective: Name of the objective.
        mixture: Its denoisers.
        decoder: Whether the model is a decoder without an encoder, which needs no sentinel for the end of a text.

    Examples:
        >>> marks_of("fim", ())
        ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>']
    """
    if objective == "fim":
        return list(_INFILLING[0])
    if objective == "mlm+causal":
        return [MASK]
    modes = {one.mode for one in mixture}
    spans = not decoder or any(one.mean is not None for one in mixture)
    return [name for mode, name in MODES.items() if mode in modes] + (sentinel_names() if spans else [])


def with_marks(tokenizer: Tokenizer, objective: str, mixture: Sequence[Denoiser], *, decoder: bool) -> Tokenizer:
    """Return a tokenizer with the special tokens that an objective needs; those that it has keep their ids.

    Where a decoder learns sequential texts after a mode token, texts begin with that token from now on, so that the
    model is measured and continues a prompt in the mode in which it learned to.

    Args:
        tokenizer: Tokenizer of the model; it stays as it is.
        objective: Name of the objective.
        mixture: Its denoisers.
        decoder: Whether the model is a decoder without an encoder.
    """
    if objective == "fim" and infilling_of(tokenizer) is not None:
        return tokenizer
    if objective == "mlm+causal" and mask_of(tokenizer) is not None:
        return tokenizer
    changed = tokenizer
    missing = [
        name for name in marks_of(objective, mixture, decoder=decoder) if tokenizer.inner.token_to_id(name) is None
    ]
    if missing:
        changed = with_special_tokens(tokenizer, missing, tokenizer.end_of_document_token)
    sequential = decoder and any(one.mode == "S" for one in mixture)
    if sequential and changed.document_bos != changed.inner.token_to_id(MODES["S"]):
        if changed is tokenizer:
            changed = with_special_tokens(tokenizer, [MODES["S"]], tokenizer.end_of_document_token)
        put_before_texts(changed.inner, MODES["S"])
        changed = Tokenizer(changed.inner, changed.end_of_document_token)
    return changed


def required(tokenizer: Tokenizer, names: Iterable[str]) -> list[int]:
    """Return the ids of special tokens.

    Args:
        tokenizer: Tokenizer that should have them.
        names: Names of the tokens.

    Raises:
        InputError: If the tokenizer lacks one, because the text was prepared for another objective.
    """
    found = []
    for name in names:
        number = tokenizer.inner.token_to_id(name)
        if number is None:
            raise InputError(
                f"the tokenizer of the prepared text has no token {name}, which the objective needs",
                "give `lavra train` the text itself, or prepare it with the tokenizer of a run that has it "
                "(--text.tokenizer RUN)",
            )
        found.append(number)
    return found
