"""Cuts long documents into overlapping chunks of whole sentences that a model can read; nothing is left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lavra.core.errors import InputError

CountTokens = Callable[[str], int]
"""A function that returns the number of tokens of a text, e.g. `lambda text: len(tokenizer.encode(text))`."""

# A sentence ends at its final mark with the quotes and brackets that close it, or at a blank line; the white space
# after it belongs to it, so that sentences together are the whole text.
_SENTENCE_END = re.compile(r"""[.!?…]+["'»”’)\]]*\s+|\n\s*\n\s*""")
# Abbreviations and initials of Portuguese and English whose full stop does not end a sentence.
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-zÀ-ÿ]|srs?|sras?|drs?|dras?|profa?s?|ex|art|arts|inc|pág|págs|fig|núm|nº|cap|vol|ed|obs|tel|av"
    r"|mrs?|ms|jr|st|vs|etc|cf|al|no|pp|approx|dept|est|e\.g|i\.e|p\.ex))\.$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text: `text[start:end]`.

    Attributes:
        start: Index of the first character.
        end: Index after the last character.
    """

    start: int
    end: int


def words_in(text: str) -> int:
    """Return the number of words of a text, separated by white space: its tokens where no tokenizer is given."""
    return len(text.split())


def cut_into_chunks(text: str, limit: int, *, overlap: int = 0, count: CountTokens = words_in) -> list[Chunk]:
    """Cut a text into chunks of whole sentences, each of at most `limit` tokens.

    Sentences are found by a fixed rule of this file, so the chunks do not depend on the version of any library. A
    sentence that is longer than a chunk is cut between words, and a word that is longer still, between characters.
    Every character lies in at least one chunk. Consecutive chunks share whole sentences of at most `overlap` tokens.

    Args:
        text: The document.
        limit: Largest number of tokens of a chunk.
        overlap: Largest number of tokens that a chunk repeats from the one before it; 0 by default.
        count: Function that counts the tokens of a text; a chunk's count is the sum over its sentences. By default
            words separated by white space are counted.

    Returns:
        The chunks in order; one chunk for a text that fits, none for an empty one.

    Raises:
        InputError: if `limit` is less than one or `overlap` is not less than `limit`.

    Examples:
        >>> from lavra.text.chunking import cut_into_chunks
        >>> text = "It rained all day. Nobody came. The shop stayed shut."
        >>> [text[chunk.start : chunk.end] for chunk in cut_into_chunks(text, limit=6, overlap=2)]
        ['It rained all day. Nobody came. ', 'Nobody came. The shop stayed shut.']
    """
    if limit < 1 or not 0 <= overlap < limit:
        raise InputError(
            f"chunks of {limit} tokens with an overlap of {overlap} cannot be cut",
            "choose an overlap below the chunk size",
        )
    pieces = [(piece, count(text[piece.start : piece.end])) for piece in _pieces(text, limit, count)]
    # Greedy: each chunk takes sentences while they fit, and the next one begins in its overlap.
    chunks: list[Chunk] = []
    first = 0
    while first < len(pieces):
        end, size = first, 0
        while end < len(pieces) and (end == first or size + pieces[end][1] <= limit):
            size += pieces[end][1]
            end += 1
        chunks.append(Chunk(pieces[first][0].start, pieces[end - 1][0].end))
        if end == len(pieces):
            break
        first = _start_of_next(pieces, first, end, limit, overlap)
    return chunks


def _start_of_next(pieces: list[tuple[Chunk, int]], first: int, end: int, limit: int, overlap: int) -> int:
    """Return the index of the piece with which the next chunk begins.

    It goes back from `end` over whole pieces while they fit into the overlap and leave room for the piece at `end`, so
    that every chunk holds something new.
    """
    room = min(overlap, limit - pieces[end][1])
    start = end
    while start - 1 > first and pieces[start - 1][1] <= room:
        start -= 1
        room -= pieces[start][1]
    return start


def sentences(text: str) -> Iterator[Chunk]:
    """Yield the sentences of a text as consecutive pieces that together are the whole text.

    A sentence ends at `.`, `!`, `?` or `…` with the quotes and brackets that close it and the white space after it,
    or at a blank line; not after an abbreviation ("Sr.", "e.g.", "art.") or an initial, nor before a small letter.

    Examples:
        >>> from lavra.text.chunking import sentences
        >>> text = "O Sr. Silva saiu. Voltou tarde!"
        >>> [text[sentence.start : sentence.end] for sentence in sentences(text)]
        ['O Sr. Silva saiu. ', 'Voltou tarde!']
    """
    start = 0
    for match in _SENTENCE_END.finditer(text):
        following = text[match.end() : match.end() + 1]
        blank_line = match[0].isspace()
        if not blank_line and (
            following.islower() or _ABBREVIATION.search(text[max(start, match.start() - 8) : match.start() + 1])
        ):
            continue
        yield Chunk(start, match.end())
        start = match.end()
    if start < len(text):
        yield Chunk(start, len(text))


def _pieces(text: str, limit: int, count: CountTokens) -> Iterator[Chunk]:
    """Yield sentences, and parts of those that do not fit into a chunk."""
    for sentence in sentences(text):
        if count(text[sentence.start : sentence.end]) <= limit:
            yield sentence
        else:
            yield from _parts(text, sentence, limit, count)


def _parts(text: str, sentence: Chunk, limit: int, count: CountTokens) -> Iterator[Chunk]:
    """Cut a long sentence between words, halving until a part fits; a single word is cut between characters."""
    inside = text[sentence.start : sentence.end]
    if len(inside) <= 1 or count(inside) <= limit:
        yield sentence
        return
    middle = len(inside) // 2
    gaps = [match.end() for match in re.finditer(r"\s+", inside) if match.end() < len(inside)]
    cut = sentence.start + (min(gaps, key=lambda gap: abs(gap - middle)) if gaps else middle)
    yield from _parts(text, Chunk(sentence.start, cut), limit, count)
    yield from _parts(text, Chunk(cut, sentence.end), limit, count)
