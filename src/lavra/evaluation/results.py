"""The results of a likelihood evaluation: values, JSON, the losses for paired comparisons, and the printed table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.units import counted, perplexity_of, show_duration, show_size
from lavra.evaluation.baselines import Baseline
from lavra.evaluation.documents import Documents
from lavra.evaluation.intervals import Estimate, ratio_estimates

NATS_PER_BIT = math.log(2)
"""A bit is ln 2 nats."""


@dataclass(frozen=True)
class Measures:
    """The likelihood of some documents in the field's usual units.

    Attributes:
        documents: Number of documents.
        tokens: Number of tokens scored, which includes one end-of-document token per document.
        bytes: UTF-8 bytes of the original texts.
        characters: Unicode code points of the texts.
        words: Words of the texts, which are the pieces between white space.
        nll: Summed negative log-likelihood in nats.
        loss: Nats per token, `nll / tokens`.
        perplexity: `exp(nll / tokens)`. It depends on the tokenizer and may be compared only between models that share
            one.
        perplexity_per_word: `exp(nll / words)`.
        bits_per_byte: `nll / ln 2 / bytes`. It may be compared between all models that are measured on the same text.
        bits_per_character: `nll / ln 2 / characters`.
        bits_per_word: `nll / ln 2 / words`.
    """

    documents: int
    tokens: int
    bytes: int
    characters: int
    words: int
    nll: float
    loss: Estimate
    perplexity: Estimate
    perplexity_per_word: Estimate
    bits_per_byte: Estimate
    bits_per_character: Estimate
    bits_per_word: Estimate

    @classmethod
    def of(cls, documents: Documents, nll: NDArray[np.float64], seed: int = 0) -> Measures:
        """Compute the measures from the losses of documents.

        Args:
            documents: Documents that were scored, with their sizes.
            nll: Negative log-likelihood of each document in nats, (documents,).
            seed: Seed of the bootstrap over documents.
        """
        sizes = {
            "tokens": documents.lengths,
            "bytes": documents.bytes,
            "characters": documents.characters,
            "words": documents.words,
        }
        per = ratio_estimates(nll, dict(sizes), seed=seed)
        bits = {name: estimate.through(lambda nats: nats / NATS_PER_BIT) for name, estimate in per.items()}
        return cls(
            documents=len(documents),
            nll=float(nll.sum()),
            loss=per["tokens"],
            perplexity=per["tokens"].through(perplexity_of),
            perplexity_per_word=per["words"].through(perplexity_of),
            bits_per_byte=bits["bytes"],
            bits_per_character=bits["characters"],
            bits_per_word=bits["words"],
            **{name: int(size.sum()) for name, size in sizes.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here; an estimate is `{"value": …, "low": …, "high": …}`."""
        return {
            name: value.to_json() if isinstance(value, Estimate) else value
            for name, value in ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        }


@dataclass(frozen=True)
class LikelihoodResult:
    """The likelihood of documents under one model.

    Attributes:
        total: Measures over all documents.
        sources: Measures of each corpus under its name, in the order of the data.
        per_document: Documents that were scored, with their sizes and sources.
        nll: Negative log-likelihood of each document in nats, (documents,), for paired comparisons between models.
        context: Length of the longest window in tokens.
        stride: Tokens between the starts of consecutive windows.
        seconds: Time in seconds that the scoring took.
        drawn_from: Number of documents of which those scored are a random sample; 0 where all were scored.
    """

    total: Measures
    sources: dict[str, Measures]
    per_document: Documents
    nll: NDArray[np.float64]
    context: int
    stride: int
    seconds: float
    drawn_from: int = 0

    @classmethod
    def of(
        cls,
        documents: Documents,
        nll: NDArray[np.float64],
        *,
        context: int,
        stride: int,
        seconds: float,
        seed: int = 0,
        drawn_from: int = 0,
    ) -> LikelihoodResult:
        """Compute the measures over all documents and over the documents of each source.

        Args:
            documents: Documents that were scored.
            nll: Negative log-likelihood of each document in nats, (documents,).
            context: Length of the longest window in tokens.
            stride: Tokens between the starts of consecutive windows.
            seconds: Time in seconds that the scoring took.
            seed: Seed of the bootstrap over documents.
            drawn_from: Number of documents that there were to score.
        """
        drawn_from = drawn_from if drawn_from > len(documents) else 0
        sources = {}
        for number, name in enumerate(documents.sources):
            mine = np.flatnonzero(documents.source == number)
            if len(mine):
                sources[name] = Measures.of(documents.select(mine), nll[mine], seed)
        return cls(Measures.of(documents, nll, seed), sources, documents, nll, context, stride, seconds, drawn_from)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object: the overall measures, how they were computed, and the measures of each source."""
        return {
            **self.total.to_json(),
            "context": self.context,
            "stride": self.stride,
            "tokens_per_second": self.total.tokens / self.seconds if self.seconds else None,
            **({"drawn_from_documents": self.drawn_from} if self.drawn_from else {}),
            "sources": {name: measures.to_json() for name, measures in self.sources.items()},
        }


_ROWS = (
    ("loss (nats per token)", "loss"),
    ("perplexity per token", "perplexity"),
    ("perplexity per word", "perplexity_per_word"),
    ("bits per byte", "bits_per_byte"),
    ("bits per character", "bits_per_character"),
    ("bits per word", "bits_per_word"),
)
"""Measures that the table shows: the title of each, and the field of `Measures` that holds it."""


_MOST_SOURCES = 12
"""Number of sources that the table shows, the largest first."""


def likelihood_table(result: LikelihoodResult, baselines: Sequence[Baseline] = ()) -> str:
    """Return the table that is printed: the measures with their intervals, the baselines and the sources.

    Args:
        result: Result of an evaluation. Its sources are shown where there are several.
        baselines: Baselines on the same documents, shown in one list with the model, best first.
    """
    lines = [_measured_on(result), ""]
    lines += [f"  {title:<24}{_estimate(getattr(result.total, name))}" for title, name in _ROWS]
    if baselines:
        lines += ["", "  bits per byte of the same text, for comparison:"]
        own = Baseline("this model", result.total.bits_per_byte.value, "")
        ranked = sorted([*baselines, own], key=lambda one: one.bits_per_byte)
        lines += [f"    {one.name:<12}{one.bits_per_byte:8.3f}  {one.explanation}".rstrip() for one in ranked]
    if len(result.sources) > 1:
        lines += ["", *_source_lines(result.sources)]
    return "\n".join(lines)


def _measured_on(result: LikelihoodResult) -> str:
    total = result.total
    interval = (
        "in brackets, 95 % intervals by bootstrap over documents"
        if total.loss.low is not None
        else "too few documents for an interval"
    )
    drawn = f" drawn at random from {result.drawn_from:,}" if result.drawn_from else ""
    return (
        f"measured on {counted(total.documents, 'document')}{drawn}: {show_size(total.bytes)}, "
        f"{counted(total.words, 'word')}, {counted(total.tokens, 'token')} (one end-of-document token each)\n"
        f"context {result.context}, stride {result.stride}; {show_duration(result.seconds)}; {interval}"
    )


def _source_lines(sources: dict[str, Measures]) -> list[str]:
    width = max(len("source"), *(len(name) for name in sources))
    lines = [f"  {'source':<{width}}  {'documents':>9}  {'tokens':>13}  {'perplexity':<26}  bits per byte"]
    largest = sorted(sources.items(), key=lambda one: -one[1].tokens)[:_MOST_SOURCES]
    for name, measures in largest:
        lines.append(
            f"  {name:<{width}}  {measures.documents:>9,}  {measures.tokens:>13,}  "
            f"{_estimate(measures.perplexity):<26}  {_estimate(measures.bits_per_byte)}"
        )
    if len(sources) > len(largest):
        lines.append(f"  … and {len(sources) - len(largest)} smaller ones (--json has them all)")
    return lines


def _estimate(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return _number(estimate.value)
    return f"{_number(estimate.value)}  [{_number(estimate.low)}, {_number(estimate.high)}]"


def _number(value: float) -> str:
    """Return a number with about four digits.

    It has three decimals below ten and none from ten thousand on. From ten million on it has a power of ten.
    """
    if math.isnan(value):
        return "-"
    if value >= 1e7:
        return f"{value:.3g}"
    decimals = sum(value < limit for limit in (10, 100, 10_000))
    return f"{value:,.{decimals}f}"
