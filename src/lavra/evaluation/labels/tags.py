"""Entity-level precision, recall and F1 of BIO tags, as conlleval and the default mode of seqeval count them.

An entity counts as found where its type, its first token and its last token are all right. What is not well formed is
read as conlleval reads it: an `I-` that follows no token of its type begins an entity (Tjong Kim Sang and Buchholz
2000). The ends of BIOES (`E-`, `S-`) are read too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.intervals import FEWEST_DOCUMENTS, Estimate, interval, resampled_sums
from lavra.text.bio import TAG

_WITHOUT_TYPE = "_"  # what seqeval calls the type of a bare "B" or "I"


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """An entity of a sequence of tags.

    Attributes:
        type: Type, such as "PER"; "_" where the tags name none.
        start: Index of the first token.
        end: Index after the last token.
    """

    type: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TypeScores:
    """The scores of one type of entity.

    Attributes:
        precision: Share of the predicted entities that are right; 0 where none is predicted.
        recall: Share of the true entities that are found; 0 where there are none.
        f1: Harmonic mean of both.
        support: Number of true entities.
    """

    precision: Estimate
    recall: Estimate
    f1: Estimate
    support: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        scores = {name: getattr(self, name).to_json() for name in ("precision", "recall", "f1")}
        return {**scores, "support": self.support}


@dataclass(frozen=True, slots=True)
class TagScores:
    """Scores of predicted tags, with 95 % bootstrap intervals over sequences.

    Attributes:
        precision: Precision over the entities of all types (micro).
        recall: Recall over the entities of all types (micro).
        f1: F1 over the entities of all types (micro): the figure that is usually reported.
        macro_f1: Mean of the F1 of the types that are true or predicted somewhere.
        token_accuracy: Share of the tokens whose tag is right.
        types: Scores of each type, sorted by name.
        sequences: Number of sequences.
        tokens: Number of tokens.
    """

    precision: Estimate
    recall: Estimate
    f1: Estimate
    macro_f1: Estimate
    token_accuracy: Estimate
    types: dict[str, TypeScores]
    sequences: int
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        names = ("precision", "recall", "f1", "macro_f1", "token_accuracy")
        types = {name: scores.to_json() for name, scores in self.types.items()}
        scores = {name: getattr(self, name).to_json() for name in names}
        return {**scores, "types": types, "sequences": self.sequences, "tokens": self.tokens}


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of one sequence of tags, in their order.

    Args:
        tags: One tag for each token: "O", or "B-", "I-", "E-" or "S-" and a type.

    Raises:
        InputError: If a tag has another form, as those of parts of speech have.

    Examples:
        The second entity begins with an `I-`, which conlleval takes for a beginning:

        >>> entities(["B-PER", "I-PER", "O", "I-LOC"])
        [Entity(type='PER', start=0, end=2), Entity(type='LOC', start=3, end=4)]
    """
    found: list[Entity] = []
    before, type_before, start = "O", "", 0
    for position, tag in enumerate([*tags, "O"]):
        place, kind = _parts(tag, position)
        begins = place != "O" and (place in "BS" or before in "OES" or kind != type_before)
        if before != "O" and (place == "O" or begins):
            found.append(Entity(type_before, start, position))
        if begins:
            start = position
        before, type_before = place, kind
    return found


def tag_scores(
    truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], *, draws: int = 2000, seed: int = 0
) -> TagScores:
    """Measure predicted BIO tags against the true ones.

    Args:
        truth: True tags of each sequence.
        predicted: Predicted tags of each sequence, as many as the true ones.
        draws: Number of bootstrap resamples of the sequences.
        seed: Seed of the bootstrap.

    Raises:
        InputError: If the numbers of sequences or of tags differ, there is none, or a tag is no BIO tag.

    Examples:
        >>> scores = tag_scores([["B-PER", "O", "B-LOC"]], [["B-PER", "O", "O"]])
        >>> scores.precision.value, scores.recall.value, round(scores.token_accuracy.value, 3)
        (1.0, 0.5, 0.667)
    """
    names, counts = entity_counts(truth, predicted)
    tokens = token_counts(truth, predicted)
    columns = np.concatenate([counts.reshape(len(counts), -1), tokens], axis=1)
    totals = columns.sum(axis=0)
    draw = resampled_sums(columns, draws=draws, seed=seed) if len(columns) >= FEWEST_DOCUMENTS else totals[None]

    def of_sums(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        by_type = sums[:, :-2].reshape(len(sums), len(names), 3)
        overall = np.concatenate([by_type, by_type.sum(axis=1, keepdims=True)], axis=1)
        present = overall[:, :-1, 1:].sum(axis=2) > 0  # a type that a resample lacks has no part in its mean
        f1 = _precision_recall_f1(overall)
        macro = (f1[:, :-1, 2] * present).sum(axis=1) / np.maximum(1, present.sum(axis=1))
        return f1, macro, _ratio(sums[:, -2], sums[:, -1])

    values, resampled = of_sums(totals[None].astype(np.float64)), of_sums(draw)

    def estimate(part: int, *place: int) -> Estimate:
        ends = interval(resampled[part][(slice(None), *place)], len(columns))
        return Estimate(float(values[part][(0, *place)]), *ends)

    overall = len(names)
    return TagScores(
        precision=estimate(0, overall, 0),
        recall=estimate(0, overall, 1),
        f1=estimate(0, overall, 2),
        macro_f1=estimate(1),
        token_accuracy=estimate(2),
        types={
            name: TypeScores(
                *(estimate(0, number, place) for place in range(3)), support=int(counts[:, number, 2].sum())
            )
            for number, name in enumerate(names)
        },
        sequences=len(truth),
        tokens=int(tokens[:, 1].sum()),
    )


def entity_counts(
    truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the types of the entities, sorted, and the counts of each sequence, on which paired tests are made.

    Args:
        truth: True tags of each sequence.
        predicted: Predicted tags of each sequence, as many as the true ones.

    Returns:
        The names, and (sequences, types, 3) counts: entities that are both true and predicted, predicted entities,
        true entities.

    Raises:
        InputError: If the numbers of sequences or of tags differ, there is none, or a tag is no BIO tag.
    """
    _check_lengths(truth, predicted)
    pairs = [
        (_entities_of(one, "true", number), _entities_of(other, "predicted", number))
        for number, (one, other) in enumerate(zip(truth, predicted, strict=True))
    ]
    names = sorted({entity.type for pair in pairs for side in pair for entity in side})
    number_of = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(pairs), len(names), 3), dtype=np.int64)
    for row, (one, other) in enumerate(pairs):
        for column, some in enumerate((one & other, other, one)):
            for entity in some:
                counts[row, number_of[entity.type], column] += 1
    return names, counts


def token_counts(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Return the number of right tags and of all tags of each sequence, (sequences, 2); any tags will do.

    Args:
        truth: True tags of each sequence.
        predicted: Predicted tags of each sequence, as many as the true ones.

    Raises:
        InputError: If the numbers of sequences or of tags differ, or there is none.
    """
    _check_lengths(truth, predicted)
    right = [sum(a == b for a, b in zip(one, other, strict=True)) for one, other in zip(truth, predicted, strict=True)]
    return np.column_stack([right, [len(one) for one in truth]]).astype(np.int64)


def _check_lengths(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    if len(truth) != len(predicted) or not len(truth):
        raise InputError(
            f"{len(predicted)} sequences of predicted tags cannot be compared with {len(truth)} of true ones",
            "give one sequence of predicted tags for each sequence of true tags",
        )
    for number, (one, other) in enumerate(zip(truth, predicted, strict=True)):
        if len(one) != len(other):
            raise InputError(
                f"sequence {number} has {len(other)} predicted tags and {len(one)} true ones",
                "predict one tag for each token; tokens that were cut off need a tag too, such as O",
            )


def _entities_of(tags: Iterable[str], which: str, number: int) -> set[Entity]:
    try:
        return set(entities(list(tags)))
    except InputError as error:
        raise InputError(f"the {which} tags of sequence {number}: {error.message}", error.remedy) from None


def _parts(tag: str, position: int) -> tuple[str, str]:
    """Return the place of a token in its entity (O, B, I, E or S) and the entity's type."""
    found = _read(tag)
    if found is None:
        raise InputError(
            f"tag {position + 1} is {tag!r}, which is neither O nor B-, I-, E- or S- with a type",
            "measure tags that mark no entities, such as parts of speech, by their accuracy",
        )
    return found


@lru_cache(maxsize=4096)
def _read(tag: str) -> tuple[str, str] | None:
    """Return the place and the type of a tag; None for what is no tag. The same few tags are read for every word."""
    match = TAG.fullmatch(tag)
    if match is None:
        return None
    return ("O", "") if match["outside"] else (match["place"], match["type"] or _WITHOUT_TYPE)


def _precision_recall_f1(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return precision, recall and F1 in the last axis, from (…, 3) counts of found, predicted and true entities."""
    found, predicted, true = np.moveaxis(counts, -1, 0)
    return np.stack([_ratio(found, predicted), _ratio(found, true), _ratio(2 * found, predicted + true)], axis=-1)


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quotient, and 0 where there is nothing to divide by, as seqeval has it."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)
