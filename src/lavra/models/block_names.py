"""Which block of which stack a parameter belongs to, told from its name, in our decoder and in the field's models."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
