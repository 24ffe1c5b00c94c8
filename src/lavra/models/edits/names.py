"""Names of modules and parameters: which belong to blocks, and which a person means."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from functools import cache

from torch import nn

from lavra.core.errors import InputError

_SHOWN = 12


def matching(names: Iterable[str], patterns: Sequence[str], what: str) -> list[str]:
    """Return the names that any pattern means, in their order.

    A pattern is a glob for a whole name, for its end, or for a module that it lies in: `q_proj`, `blocks.0.*`, `mlp`.

    Args:
        names: dotted names.
        patterns: of which each must mean at least one name.
        what: the names are of, for the message.

    Raises:
        InputError: if a pattern means nothing; tells what there is.
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
    """Return the linear layers of `root` by name, GPT-2's transposed ones among them."""
    from transformers.pytorch_utils import Conv1D

    return {name: module for name, module in root.named_modules() if isinstance(module, nn.Linear | Conv1D)}
