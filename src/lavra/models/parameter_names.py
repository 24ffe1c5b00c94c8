"""Names of parameters: the block that one belongs to, and the modules and parameters that a pattern matches."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal

from torch import nn

from lavra.core.errors import InputError

_BLOCK = re.compile(r"(?:^|\.)(?:blocks|block|layers|layer|h)\.(\d+)\.")
"""The number of a block in a parameter's name, after the names that architectures give to their list of blocks."""


def block_of(name: str) -> tuple[str, int] | None:
    """Return the stack and the number of the block that a parameter belongs to, or None outside the blocks.

    Embeddings, final norms and heads lie outside the blocks. A T5 block has numbered layers in it; the outermost number
    counts.

    Args:
        name: Dotted name of the parameter.

    Returns:
        The name of the list of blocks, such as `encoder.block`, and the number of the block, counted from 0.

    Examples:
        >>> block_of("transformer.h.3.attn.c_attn.weight")
        ('transformer.h', 3)
    """
    match = _BLOCK.search(name)
    return None if match is None else (name[: match.start(1) - 1], int(match.group(1)))


def depths(names: Iterable[str]) -> dict[str, int]:
    """Return the number of blocks of each stack, by the name of the stack.

    Args:
        names: Dotted names of parameters.

    Examples:
        >>> depths(["encoder.block.0.w", "encoder.block.1.w", "decoder.block.0.w"])
        {'encoder.block': 2, 'decoder.block': 1}
    """
    found: dict[str, int] = {}
    for stack, number in filter(None, map(block_of, names)):
        found[stack] = max(found.get(stack, 0), number + 1)
    return found


_EMBEDDING = re.compile(r"embed|relative_attention_bias|(?:^|\.)(?:wte|wpe|shared)\.")
"""Names of tables for tokens, positions or distances."""

_NO_EMBEDDING = re.compile(
    r"embed_out\.|embeddings?_project|embedding_hidden_mapping|embedding_transformation|\.mlp\.shared\."
)
"""Names of linear layers that hold the word all the same: the head of GPT-NeoX, the layers of ELECTRA, ALBERT and
MobileBERT between embeddings and blocks of different widths, and the shared experts of our mixtures."""


def is_embedding(name: str) -> bool:
    """Return whether a parameter is an embedding: a table for tokens, positions or distances.

    The names of our decoder and of `transformers` are known: `embedding`, `wte`, `wpe`, `shared`, `embed_tokens`, ….

    Args:
        name: Dotted name of the parameter.

    Examples:
        >>> [is_embedding(name) for name in ("transformer.wte.weight", "blocks.0.mlp.up.weight", "embed_out.weight")]
        [True, False, False]
        >>> is_embedding("inner.shared.weight"), is_embedding("blocks.0.mlp.shared.up.weight")
        (True, False)
    """
    return bool(_EMBEDDING.search(name)) and not _NO_EMBEDDING.search(name)


ParameterKind = Literal["embedding", "matrix", "other"]
"""What a parameter is to an optimiser; `other` are norms, biases, gains, and factors of adapters without a product."""


def kind_of(name: str, dimensions: int) -> ParameterKind:
    """Return the kind of a parameter, which alone decides on its weight decay: only a matrix is decayed.

    Norms, biases and gains have no product with an input that the decay could keep small, and a row of an embedding is
    decayed in every step although its token occurs in few. Matrices that are stacked, one for each expert, are
    matrices too.

    Args:
        name: Dotted name of the parameter.
        dimensions: Number of its dimensions.

    Examples:
        >>> kind_of("blocks.0.mlp.up.weight", 2), kind_of("blocks.0.mlp_norm.weight", 1), kind_of("wte.weight", 2)
        ('matrix', 'other', 'embedding')
    """
    if dimensions == 2 and is_embedding(name):
        return "embedding"
    if is_adapter(name):  # factors of IA³ and prefixes are matrices by their shape only
        return "matrix" if ".lora_" in name and dimensions == 2 else "other"
    if re.search(r"(?:bias|A_log)$", name):  # biases of every head, and decay rates of state-space models
        return "other"
    stacked = dimensions == 3 and ".experts." in name
    return "matrix" if dimensions == 2 or stacked else "other"


def is_adapter(name: str) -> bool:
    """Return whether a parameter was added by an adapter of `peft` or by a prefix.

    Args:
        name: Dotted name of the parameter.
    """
    return bool(re.search(r"\.lora_|\.ia3_|(?:^|\.)prefix\.", name))


_SHOWN = 12
"""Number of names that an error message lists."""


def matching(names: Iterable[str], patterns: Sequence[str], what: str) -> list[str]:
    """Return the names that any of the patterns matches, in their order.

    A pattern is a glob for a whole name, for the end of a name, or for a module that contains it: `q_proj`,
    `blocks.0.*`, `mlp`.

    Args:
        names: Dotted names.
        patterns: Patterns, each of which must match at least one name.
        what: Plural of what the names stand for, such as "parameters", for the error message.

    Raises:
        InputError: If a pattern matches nothing; the message lists names that there are.

    Examples:
        >>> matching(["blocks.0.mlp.up", "blocks.0.attention.qkv"], ["mlp"], "parameters")
        ['blocks.0.mlp.up']
    """
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        expression = _expression(pattern)
        hits = [name for name in names if expression.fullmatch(name)]
        if not hits:
            known = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))
            rest = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
            raise InputError(
                f"{pattern!r} matches none of the model's {what}", f"there are {', '.join(known[:_SHOWN])}{rest}"
            )
        found.update(hits)
    return [name for name in names if name in found]


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:.*\.)?(?:{fnmatch.translate(pattern)[:-2]})(?:\..*)?")


def linear_layers(root: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers of a module by name, with GPT-2's transposed ones (`Conv1D`).

    Args:
        root: Module to search.
    """
    from transformers.pytorch_utils import Conv1D

    return {name: module for name, module in root.named_modules() if isinstance(module, nn.Linear | Conv1D)}
