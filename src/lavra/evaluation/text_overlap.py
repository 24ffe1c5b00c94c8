"""Overlap of generated text with references: BLEU by sacreBLEU, and ROUGE with a tokenizer that keeps accents."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavra.core.errors import InputError
from lavra.evaluation.intervals import FEWEST_DOCUMENTS, Estimate
from lavra.evaluation.retrieval import mean_estimates

_ROUGE = ("rouge1", "rouge2", "rougeL")
"""ROUGE measures by the names that `rouge-score` gives them (Lin 2004)."""

_WORD = re.compile(r"[^\W_]+")
"""A word for ROUGE: a run of letters and digits of any script."""


@dataclass(frozen=True, slots=True)
class TextOverlap:
    """Overlap of predictions with their references.

    Attributes:
        bleu: Corpus BLEU, from 0 to 100.
        bleu_signature: Description by sacreBLEU of how BLEU was computed, to be published with the number.
        rouge1: Mean F-score of single words, from 0 to 1.
        rouge2: Mean F-score of pairs of neighbouring words, from 0 to 1.
        rougeL: Mean F-score of the longest common subsequence, from 0 to 1.
        texts: Number of predictions.
    """

    bleu: Estimate
    bleu_signature: str
    rouge1: Estimate
    rouge2: Estimate
    rougeL: Estimate  # noqa: N815  (the measure's own name)
    texts: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the measures by their usual names."""
        numbers = {"BLEU": self.bleu, "ROUGE-1": self.rouge1, "ROUGE-2": self.rouge2, "ROUGE-L": self.rougeL}
        return {
            **{name: number.to_json() for name, number in numbers.items()},
            "BLEU_signature": self.bleu_signature,
            "texts": self.texts,
        }


class AccentKeepingTokenizer:
    """Tokenizer for ROUGE that keeps accented letters and all scripts.

    Words are runs of letters and digits, in lower case and in Unicode's composed form (NFC). The tokenizer of
    `rouge-score` keeps only a to z and 0 to 9, so that it splits "está" after "est".

    Examples:
        >>> AccentKeepingTokenizer().tokenize("Está aqui, não?")
        ['está', 'aqui', 'não']
    """

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text in order.

        Args:
            text: Text to split.
        """
        return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def text_overlap(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> TextOverlap:
    """Measure how far generated texts overlap with their references.

    Where a prediction has several references, ROUGE takes the one with the best score and BLEU uses all of them.

    Args:
        predictions: Generated texts. An empty one counts and scores zero.
        references: Reference text, or list of reference texts, for each prediction.

    Returns:
        BLEU and ROUGE with their 95 % bootstrap intervals over texts.

    Raises:
        InputError: If the numbers differ, there is no text, or a prediction has no reference.
    """
    if len(predictions) != len(references) or not predictions:
        raise InputError(
            f"{len(predictions)} predictions cannot be compared with {len(references)} references",
            "give one reference, or one list of references, for each prediction",
        )
    wanted = [[one] if isinstance(one, str) else list(one) for one in references]
    for number, several in enumerate(wanted):
        if not several:
            raise InputError(f"prediction {number} has no reference", "leave it out, or give it one")
    bleu, signature = _bleu(predictions, wanted)
    rouge = _rouge(predictions, wanted)
    return TextOverlap(bleu, signature, *(rouge[name] for name in _ROUGE), texts=len(predictions))


def _bleu(predictions: Sequence[str], references: list[list[str]]) -> tuple[Estimate, str]:
    from sacrebleu.metrics.bleu import BLEU

    most = max(map(len, references))
    streams: Any = [
        [several[place] if place < len(several) else None for several in references] for place in range(most)
    ]
    metric = BLEU()
    score = metric.corpus_score(list(predictions), streams).score
    signature = str(metric.get_signature())
    if len(predictions) < FEWEST_DOCUMENTS:
        return Estimate(score), signature
    resampled = BLEU().corpus_score(list(predictions), streams, n_bootstrap=1000)
    middle, half = float(resampled._mean), float(resampled._ci)  # sacreBLEU offers its interval in no other way
    return Estimate(score, max(0.0, middle - half), min(100.0, middle + half)), signature


def _rouge(predictions: Sequence[str], references: list[list[str]]) -> dict[str, Estimate]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(_ROUGE), tokenizer=AccentKeepingTokenizer())
    values = np.zeros((len(predictions), len(_ROUGE)))
    for row, (prediction, several) in enumerate(zip(predictions, references, strict=True)):
        best = scorer.score_multi(several, prediction)
        values[row] = [best[name].fmeasure for name in _ROUGE]
    return mean_estimates(values, _ROUGE)
