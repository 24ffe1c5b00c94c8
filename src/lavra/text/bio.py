"""The rules of BIO tags, by which each word of a sentence begins an entity, goes on with one, or is outside of any."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

TAG = re.compile(r"(?P<outside>O)|(?P<place>[BIES])(?:-(?P<type>.+))?", re.DOTALL)
"""A tag of an entity: outside; or beginning, inside, end or single, and the type after a hyphen."""


@lru_cache(maxsize=4096)
def place_of(tag: str) -> str | None:
    """Return the place of a word in its entity: O, B, I, E or S; None for what is no tag of an entity.

    The same few tags are looked up for every word of a corpus, so that the answers are kept.

    Args:
        tag: The tag.

    Examples:
        >>> place_of("B-PER"), place_of("O"), place_of("NOUN")
        ('B', 'O', None)
    """
    match = TAG.fullmatch(tag)
    return None if match is None else "O" if match["outside"] else match["place"]


@dataclass(frozen=True, slots=True)
class Violation:
    """The first place at which a sequence of tags is not well formed.

    Attributes:
        position: Index of the token.
        tag: Its tag.
        reason: What is wrong, as the end of a sentence, such as "follows O, and not B-PER or I-PER".
    """

    position: int
    tag: str
    reason: str

    def __str__(self) -> str:
        return f"tag {self.position + 1} is {self.tag!r}, which {self.reason}"


def valid_bio(tags: Sequence[str]) -> Violation | None:
    """Return the first place at which tags break the rules of BIO (IOB2), or None where they keep them.

    Every entity begins with `B-`, and every `I-` follows a `B-` or an `I-` of its own type. `E-` and `S-` belong to
    BIOES and are violations here.

    Args:
        tags: One tag for each token.

    Examples:
        >>> print(valid_bio(["O", "I-PER"]))
        tag 2 is 'I-PER', which follows O, and not B-PER or I-PER
        >>> valid_bio(["B-PER", "I-PER", "B-PER"]) is None
        True
    """
    before = "O"
    for position, tag in enumerate(tags):
        place = place_of(tag)
        if place in (None, "E", "S"):
            return Violation(position, tag, "is neither O nor B- or I- with a type")
        if place == "I" and before not in (tag, "B" + tag[1:]):
            return Violation(position, tag, f"follows {before}, and not B{tag[1:]} or {tag}")
        before = tag
    return None
