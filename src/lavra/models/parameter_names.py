"""Which block a parameter belongs to, told from its name, and which modules and parameters a person means."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from functools import cache

from torch import nn

from lavra.core.errors import InputError

_BLOCK = re.compile(r"(?:^|\.)(?:blocks|block|layers|layer|h)\.(\d+)\.")


def block_of(name: str) -> tuple[str, int] | None:
    """Return the stack (what comes before the number, e.g. `encoder.block`) and the number of the block, from 0.

    None for what lies outside the blocks: embeddings, final norms, heads. A T5 block has numbered layers within it; the
    outermost number counts.
    """
    match = _BLOCK.search(name)
    return None if match is None else (name[: match.start(1) - 1], int(match.group(1)))


def depths(names: Iterable[str]) -> dict[str, int]:
    """Return the number of blocks of each stack that occurs in `names`."""
    found: dict[str, int] = {}
    for stack, number in filter(None, map(block_of, names)):
        found[stack] = max(found.get(stack, 0), number + 1)
    return found


def is_embedding(name: str) -> bool:
    """Say whether a parameter is a table of tokens, positions or distances, which is read by rows.

    Knows the names of our decoder and of `transformers`: `embedding`, `wte`, `wpe`, `shared`, `embed_tokens`, ….
    """
    return bool(re.search(r"embed|relative_attention_bias|(?:^|\.)(?:wte|wpe|shared)\.", name))


def is_adapter(name: str) -> bool:
    """Say whether a parameter was added by an adapter of `peft` or by a prefix."""
    return bool(re.search(r"\.lora_|\.ia3_|(?:^|\.)prefix\.", name))


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
