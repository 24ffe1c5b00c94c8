"""The plain-text table of a likelihood evaluation, with what it was measured on in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lavra.core.units import show_duration, show_size
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.results import LikelihoodResult, Measures
from lavra.evaluation.yardsticks import Yardstick

_ROWS = (
    ("loss (nats per token)", "loss"),
    ("perplexity per token", "perplexity"),
    ("perplexity per word", "perplexity_per_word"),
    ("bits per byte", "bits_per_byte"),
    ("bits per character", "bits_per_character"),
    ("bits per word", "bits_per_word"),
)


_MOST_SOURCES = 12
"""Sources that the table shows, the largest first."""


def likelihood_table(result: LikelihoodResult, yardsticks: Sequence[Yardstick] = ()) -> str:
    """Return the measures with their intervals, the yardsticks, and the sources where there are several."""
    lines = [_measured_on(result), ""]
    lines += [f"  {title:<24}{_estimate(getattr(result.total, name))}" for title, name in _ROWS]
    if yardsticks:
        lines += ["", "  bits per byte of the same text, for comparison:"]
        own = Yardstick("this model", result.total.bits_per_byte.value, "")
        ranked = sorted([*yardsticks, own], key=lambda one: one.bits_per_byte)
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
    return (
        f"measured on {_plural(total.documents, 'document')}: {show_size(total.bytes)}, "
        f"{_plural(total.words, 'word')}, {_plural(total.tokens, 'token')} (one end-of-document token each)\n"
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
    """Write about four digits: three decimals below ten, none from ten thousand on, powers of ten from ten million."""
    if math.isnan(value):
        return "-"
    if value >= 1e7:
        return f"{value:.3g}"
    decimals = sum(value < limit for limit in (10, 100, 10_000))
    return f"{value:,.{decimals}f}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
