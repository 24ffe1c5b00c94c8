"""Tags of words by a trained model: predicted, and measured beside the most frequent tag of each word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lavra.core.errors import InputError
from lavra.core.units import counted
from lavra.data.examples.rows import ExampleRow
from lavra.data.examples.tagged import NO_TOKEN, TaggedColumns
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.labels.tags import TagScores, tag_scores
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.tasks.base import Measured
from lavra.tasks.text_parts import Part, outputs_of_tokens
from lavra.text.bio import TAG

BASELINE = "most frequent tag of each word"
"""Name of the baseline."""

MAJORITY = "most frequent tag"
"""Name of the baseline where the training data are not at hand."""


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """A sentence with true and predicted tags.

    Attributes:
        words: The words.
        truth: The true tag of each word, None where it is not known; None for a sentence without any.
        predicted: The predicted tag of each word.
    """

    words: list[str]
    truth: list[str | None] | None
    predicted: list[str]


def tag(
    model: Decoder | HFModel,
    tokenizer: Tokenizer,
    facts: Mapping[str, Any],
    sentences: Sequence[Sequence[str]],
    *,
    context: int | None = None,
) -> list[list[str]]:
    """Return a tag for each word of each sentence.

    Args:
        model: Model with the head of the task.
        tokenizer: Tokenizer of the model.
        facts: What the task knows (`TokenClassificationTask.facts`).
        sentences: Words of each sentence. One without words gets no tags.
        context: Largest number of tokens that are read together; by default as many as the model can read.
    """
    reader = TaggedColumns(may_lack_labels=True)
    rows = [ExampleRow("", "", " ".join(words), "", labels={"tokens": list(words)}) for words in sentences]
    parts = reader.encode(rows, tokenizer, context or model.context)
    tagged = iter(tagged_sentences(model, facts, [list(several) for several in parts if several]))
    # A sentence without tokens is in no part, and what stands for words without tokens stands for all of its words.
    return [
        next(tagged).predicted if several else [_default(facts)] * len(words)
        for several, words in zip(parts, sentences, strict=True)
    ]


def tagged_sentences(
    model: Decoder | HFModel, facts: Mapping[str, Any], rows: Sequence[Sequence[Part]]
) -> list[TaggedSentence]:
    """Return the sentences with the tags that a model predicts.

    Args:
        model: Model with the head of the task.
        facts: What the task knows.
        rows: The parts of each sentence, in order.
    """
    classes = facts["classes"]

    def likeliest(part: Part, outputs: torch.Tensor) -> list[str]:
        numbers = outputs.argmax(-1).tolist()
        return [_default(facts) if start == NO_TOKEN else classes[numbers[start]] for start in part.labels["starts"]]

    predicted = iter(outputs_of_tokens(model, [part for row in rows for part in row], likeliest))
    found = []
    for row in rows:
        tags = [part.labels["tags"] for part in row]
        found.append(
            TaggedSentence(
                [word for part in row for word in part.labels["tokens"]],
                None if any(one is None for one in tags) else [name for one in tags for name in one],
                [name for _ in row for name in next(predicted)],
            )
        )
    return found


def _default(facts: Mapping[str, Any]) -> str:
    """Return the tag of a word that has no tokens: the most frequent one, which is O for entities."""
    frequencies = facts["frequencies"]
    return facts["classes"][max(range(len(frequencies)), key=frequencies.__getitem__)]


def frequent_tags(words: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the most frequent tag of each word in training, which is the baseline.

    Args:
        words: The columns of the training rows, with `tokens` and `tags`.

    Examples:
        >>> frequent_tags([{"tokens": ["a", "rosa", "a", "a"], "tags": ["ADP", "NOUN", "DET", "ADP"]}])
        {'a': 'ADP', 'rosa': 'NOUN'}
    """
    counts: dict[str, Counter[str]] = {}
    for row in words:
        for word, name in zip(row["tokens"], row["tags"] or (), strict=False):
            if name is not None:
                counts.setdefault(word, Counter())[name] += 1
    return {word: max(sorted(names), key=names.__getitem__) for word, names in counts.items()}


def are_entities(names: Iterable[str]) -> bool:
    """Return whether tags mark entities, as BIO and BIOES do, and are not names of their own.

    Examples:
        >>> are_entities(["O", "B-PER", "I-PER"]), are_entities(["NOUN", "O"]), are_entities(["O", "0"])
        (True, False, False)
    """
    matches = [TAG.fullmatch(name) for name in names]
    return all(matches) and any(match is not None and match["place"] for match in matches)


def measure_tags(
    sentences: Sequence[TaggedSentence], facts: Mapping[str, Any], frequent: Mapping[str, str] | None, seed: int
) -> Measured:
    """Measure predicted tags: F1 of entities for BIO tags, and accuracy, each with its interval over sentences.

    Args:
        sentences: The sentences. Words without a true tag are left out.
        facts: What the task knows.
        frequent: The most frequent tag of each word in training, for the baseline; None where that is not known.
        seed: Seed of the bootstrap.

    Raises:
        InputError: If no word has a true tag, or the model predicts entities and a true tag marks none.
    """
    rows = [
        [(word, true, said) for word, true, said in zip(one.words, one.truth, one.predicted, strict=True) if true]
        for one in sentences
        if one.truth is not None
    ]
    rows = [row for row in rows if row]
    if not rows:
        raise InputError("no word of these rows has a tag", "give rows with tags, or predict them without measuring")
    truth = [[true for _, true, _ in row] for row in rows]
    model = _scores(facts, truth, [[said for *_, said in row] for row in rows], seed)
    figures: dict[str, Any] = _figures(facts, model)
    named = [("the model", model)]
    name = BASELINE if frequent else MAJORITY
    tags = [[(frequent or {}).get(word, _default(facts)) for word, *_ in row] for row in rows]
    named.append((name, _scores(facts, truth, tags, seed)))
    figures["baseline_scores"] = {name: _headline(facts, named[1][1])}
    unknown = Counter(name for row in truth for name in row if name not in set(facts["classes"]))
    if unknown:
        figures["unknown_tags"] = dict(unknown)
    return Measured(figures, _table(facts, named, unknown))


def _scores(
    facts: Mapping[str, Any], truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], seed: int
) -> TagScores:
    """Return the scores; a tag that marks no entity counts as an entity of one word, whose type it is."""
    if facts["entities"]:
        return tag_scores(truth, predicted, seed=seed)
    single = [[[f"S-{name}" for name in row] for row in rows] for rows in (truth, predicted)]
    return tag_scores(*single, seed=seed)


def _headline(facts: Mapping[str, Any], scores: TagScores) -> dict[str, Any]:
    """Return the figures that stand for a set of tags, best known first."""
    overall = {"f1": scores.f1, "precision": scores.precision, "recall": scores.recall} if facts["entities"] else {}
    found: dict[str, Estimate] = {**overall, "macro_f1": scores.macro_f1, "accuracy": scores.token_accuracy}
    return {name: estimate.to_json() for name, estimate in found.items()}


def _figures(facts: Mapping[str, Any], scores: TagScores) -> dict[str, Any]:
    types = {name: one.to_json() for name, one in scores.types.items()}
    return {**_headline(facts, scores), "types": types, "sentences": scores.sequences, "words": scores.tokens}


def _table(facts: Mapping[str, Any], named: Sequence[tuple[str, TagScores]], unknown: Counter[str]) -> str:
    """Return the scores as a table of plain text."""
    model = named[0][1]
    what = "entities" if facts["entities"] else "words with their tags"
    lines = [f"{what} in {counted(model.sequences, 'sentence')} ({counted(model.tokens, 'word')} in all)"]
    wide = max(len(name) for name in (*model.types, *(name for name, _ in named)))
    for name, scores in named:
        parts = [
            f"F1 {_told(scores.f1)}" if facts["entities"] else f"accuracy {_told(scores.token_accuracy)}",
            f"macro F1 {_told(scores.macro_f1)}",
        ]
        lines.append(f"  {name:<{wide}}  {'  '.join(parts)}")
    if _first(facts, model).value < _first(facts, named[1][1]).value:
        lines.append(f"  the model is worse than the {named[1][0]}: train it longer, or on more sentences")
    lines.append("the model by type, with how many there are of each")
    lines += [
        f"  {name:<{wide}}  F1 {_told(one.f1)}  precision {one.precision.value:.3f}  recall {one.recall.value:.3f}  "
        f"of {one.support:,}"
        for name, one in model.types.items()
    ]
    if unknown:
        told = ", ".join(f"{name} ({count:,})" for name, count in unknown.most_common(5))
        lines.append(f"  tags that the model never learned count as errors: {told}")
    return "\n".join(lines)


def _first(facts: Mapping[str, Any], scores: TagScores) -> Estimate:
    """Return the figure by which sets of tags are compared."""
    return scores.f1 if facts["entities"] else scores.token_accuracy


def _told(estimate: Estimate) -> str:
    ends = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{ends}"
