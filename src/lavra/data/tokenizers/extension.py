"""Extends a tokenizer that was made for other text: its byte-pair training is continued on the user's own text."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any

from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer

Pair = tuple[str, str]

# Smallest number of times that a merge occurs in the texts; rarer ones are not worth a row of the embedding.
_RAREST = 2


def extend_tokenizer(old: Tokenizer, texts: Iterable[str], extra_tokens: int) -> Tokenizer:
    """Return a tokenizer with up to `extra_tokens` more tokens, for what it now writes with several in `texts`.

    Byte-pair training continues where it ended: the pair of tokens that is most frequent inside words becomes a token,
    again and again. The old ids keep their meaning, and text without a new token keeps its ids.

    Args:
        old: A byte-pair tokenizer that divides text into words.
        texts: A sample of the user's text; some megabytes are enough.
        extra_tokens: Number of tokens to add; a small sample may give fewer.

    Returns:
        A new tokenizer, whose new tokens have the last ids.

    Raises:
        InputError: if the tokenizer is of another kind, or cannot be extended without changing its ids.

    Examples:
        >>> from lavra.data.tokenizers.extension import extend_tokenizer
        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> old = Tokenizer.train(["a rosa e o rosto da rosa", "a rosa rosa"], vocabulary_size=260)
        >>> new = extend_tokenizer(old, ["lavra palavra lavrar lavrador"] * 3, 4)
        >>> new.vocabulary_size, len(new.encode("palavra")) < len(old.encode("palavra"))
        (264, True)
    """
    description = json.loads(old.serialised)
    model = description["model"]
    if model.get("type") != "BPE" or old.inner.pre_tokenizer is None:
        raise InputError(
            f"a {model.get('type')} tokenizer cannot be extended", "train a tokenizer on the text and swap vocabularies"
        )
    merges = _more_merges(_words(old, texts), set(model["vocab"]), extra_tokens)
    _keep_added_tokens(description)
    next_id = old.vocabulary_size
    in_pairs = not model["merges"] or isinstance(model["merges"][0], list)
    for left, right in merges:
        model["merges"].append([left, right] if in_pairs else f"{left} {right}")
        if left + right not in model["vocab"]:
            model["vocab"][left + right] = next_id
            next_id += 1
    return _rebuilt(old, description)


def with_special_tokens(tokenizer: Tokenizer, names: Sequence[str], end_of_document: str) -> Tokenizer:
    """Return a tokenizer with more special tokens, which get new last ids unless the vocabulary has them.

    Args:
        tokenizer: The tokenizer to extend; all of its ids stay.
        names: The special tokens, as they are spelled.
        end_of_document: The token that ends a document in the new tokenizer.
    """
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Library

    inner = Library.from_str(tokenizer.serialised)
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return Tokenizer(inner, end_of_document)


def _words(old: Tokenizer, texts: Iterable[str]) -> list[tuple[list[str], int]]:
    """Return each distinct word of the texts as its tokens, with the number of times that it occurs."""
    inner = old.inner
    counts: Counter[str] = Counter()
    for text in texts:
        normal = text if inner.normalizer is None else inner.normalizer.normalize_str(text)
        counts.update(piece for piece, _ in inner.pre_tokenizer.pre_tokenize_str(normal))
    return [([token.value for token in inner.model.tokenize(word)], count) for word, count in sorted(counts.items())]


def _more_merges(words: list[tuple[list[str], int]], known: set[str], wanted: int) -> list[Pair]:
    """Return the merges of byte-pair training, most frequent first (Sennrich et al. 2016, arXiv 1508.07909).

    The pairs wait in a heap with the counts that they had when they were pushed. A pair whose count changes is pushed
    again, and entries with outdated counts are skipped, so that no merge has to look at all pairs.
    """
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, (tokens, count) in enumerate(words):
        for pair in pairwise(tokens):
            counts[pair] += count
            places[pair].add(number)
    queue = [(-count, pair) for pair, count in counts.items()]
    heapify(queue)
    merges: list[Pair] = []
    new: set[str] = set()
    while queue and len(new) < wanted:
        expected, best = heappop(queue)
        if -expected != counts[best]:
            continue  # its count has changed since; the new one is queued too
        if counts[best] < _RAREST:
            break
        merges.append(best)
        if best[0] + best[1] not in known:
            new.add(best[0] + best[1])
        changed = set[Pair]()
        for number in places.pop(best):
            changed |= _merge(words, number, best, counts, places)
        for pair in changed - {best}:
            heappush(queue, (-counts[pair], pair))
    return merges


def _merge(
    words: list[tuple[list[str], int]],
    number: int,
    pair: Pair,
    counts: Counter[Pair],
    places: defaultdict[Pair, set[int]],
) -> set[Pair]:
    """Merge a pair in one word, bring the counts of its pairs up to date, and return those that changed."""
    tokens, count = words[number]
    merged: list[str] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    before, after = Counter(pairwise(tokens)), Counter(pairwise(merged))
    changed = {kind for kind in before | after if before[kind] != after[kind]}
    for kind in changed:
        counts[kind] += (after[kind] - before[kind]) * count
        places[kind].add(number)
    words[number] = merged, count
    return changed


def _keep_added_tokens(description: dict[str, Any]) -> None:
    """Put added tokens into the vocabulary under their ids, because they would otherwise get ids after the new ones."""
    for token in description.get("added_tokens", []):
        description["model"]["vocab"].setdefault(token["content"], token["id"])


def _rebuilt(old: Tokenizer, description: dict[str, Any]) -> Tokenizer:
    from tokenizers import Tokenizer as Library

    extended = Tokenizer(Library.from_str(json.dumps(description, ensure_ascii=False)), old.end_of_document_token)
    now = extended.inner.get_vocab(with_added_tokens=True)
    moved = [token for token, number in old.inner.get_vocab(with_added_tokens=True).items() if now.get(token) != number]
    if moved:
        raise InputError(
            f"the tokenizer cannot be extended: {len(moved)} tokens would get other ids, {moved[0]!r} among them",
            "train a tokenizer on the text and swap vocabularies",
        )
    return extended
