"""Records of stability in words: which layers stand out, and what helps against spikes and divergence."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_MOVED = 10.0
"""Factor on the median share of its size by which a tensor changes in a step, from which it stands out."""

MOST_GRADIENT = 0.9
"""Share of one tensor in the squared norm of the whole gradient, from which it stands out."""

MOST_GROWN = 10.0
"""Factor by which the output of a block grows over the run, or is above the median of the blocks, from which it stands
out."""

MOST_LOGIT = 100.0
"""Attention logit from which a softmax looks at one position alone; in runs that diverge the logits grow far beyond
(arXiv 2309.14322, section 3.1)."""

_NAMED = 3
"""Names that a sentence lists before it counts the rest."""

_FEWEST = 4
"""Fewest tensors or blocks that can be compared with their median."""


def short_name(name: str) -> str:
    """Return the name of a tensor or block without the part that all names of a wrapped model share.

    Examples:
        >>> short_name("inner.transformer.h.3"), short_name("blocks.0.mlp.up.weight")
        ('h.3', 'blocks.0.mlp.up.weight')
    """
    return re.sub(r"^inner\.(?:base_model\.model\.)?(?:transformer|model|bert|gpt_neox)\.", "", name)


def outstanding(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what stands out in the last record, in sentences that name the tensors or blocks; empty for nothing.

    Args:
        records: Lines of `stability.jsonl` in the order of the steps (`lavra.training.updates.stability`).

    Examples:
        >>> tensors = {f"blocks.{number}.w": {"weight": 1.0, "gradient": 1.0, "update": 0.01} for number in range(5)}
        >>> outstanding([{"step": 1, "applied": True, "tensors": tensors, "layers": {}}])
        []
        >>> tensors["blocks.3.w"]["update"] = 0.5
        >>> outstanding([{"step": 1, "applied": True, "tensors": tensors, "layers": {}}])[0][:12]
        'blocks.3.w ('
    """
    if not records:
        return []
    first, last = records[0], records[-1]
    tensors, layers = last.get("tensors") or {}, last.get("layers") or {}
    found = [_moved(tensors), _still(tensors) if last.get("applied", True) else None, _ruling(tensors)]
    found += [_grown(first.get("layers") or {}, layers), _large(layers), _saturated(layers)]
    return [sentence for sentence in found if sentence]


def _values(parts: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, float]:
    """Return one number of each tensor or block that has it; what was not finite is null in the file, and left out."""
    return {name: float(part[key]) for name, part in parts.items() if isinstance(part.get(key), int | float)}


def _named(values: Mapping[str, float]) -> str:
    """Return the names with their values, the largest first."""
    ordered = sorted(values, key=lambda name: -values[name])
    told = ", ".join(f"{short_name(name)} ({values[name]:.3g})" for name in ordered[:_NAMED])
    return told + (f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else "")


def _verb(values: Mapping[str, float], one: str, several: str) -> str:
    return one if len(values) == 1 else several


def _moved(tensors: Mapping[str, Mapping[str, Any]]) -> str | None:
    moved = {name: value for name, value in _values(tensors, "update").items() if value > 0}
    if len(moved) < _FEWEST:
        return None
    usual = statistics.median(moved.values())
    far = {name: value for name, value in moved.items() if value > MOST_MOVED * usual}
    changes = _verb(far, "changes", "change")
    return f"{_named(far)} {changes} by more of the size in a step than is usual here ({usual:.3g})" if far else None


def _still(tensors: Mapping[str, Mapping[str, Any]]) -> str | None:
    still = {name: value for name, value in _values(tensors, "update").items() if value == 0}
    names = ", ".join(short_name(name) for name in list(still)[:_NAMED])
    more = f" and {len(still) - _NAMED} more" if len(still) > _NAMED else ""
    return f"{names}{more} {_verb(still, 'does', 'do')} not change" if still and len(still) < len(tensors) else None


def _ruling(tensors: Mapping[str, Mapping[str, Any]]) -> str | None:
    squares = {name: value * value for name, value in _values(tensors, "gradient").items()}
    total = sum(squares.values())
    if len(squares) < _FEWEST or not total:
        return None
    name = max(squares, key=squares.__getitem__)
    share = squares[name] / total
    return f"{short_name(name)} makes {share:.0%} of the squared gradient norm" if share > MOST_GRADIENT else None


def _grown(first: Mapping[str, Mapping[str, Any]], last: Mapping[str, Mapping[str, Any]]) -> str | None:
    before = _values(first, "activation")
    grown = {
        name: value / before[name]
        for name, value in _values(last, "activation").items()
        if before.get(name) and value > MOST_GROWN * before[name]
    }
    return f"the output of {_named(grown)} is so many times as large as at the beginning" if grown else None


def _large(layers: Mapping[str, Mapping[str, Any]]) -> str | None:
    sizes = _values(layers, "activation")
    if len(sizes) < _FEWEST:
        return None
    usual = statistics.median(sizes.values())
    large = {name: value for name, value in sizes.items() if value > MOST_GROWN * usual}
    return f"the output of {_named(large)} is far larger than that of other blocks ({usual:.3g})" if large else None


def _saturated(layers: Mapping[str, Mapping[str, Any]]) -> str | None:
    high = {name: value for name, value in _values(layers, "attention_logit").items() if value > MOST_LOGIT}
    return f"attention logits are high in {_named(high)}: each position looks at one other alone" if high else None


# What helps.


@dataclass(frozen=True)
class Circumstances:
    """Settings of a run on which depends what helps.

    Attributes:
        learning_rate: Peak learning rate.
        warmup_steps: Steps of warm-up.
        beta2: Decay rate of the moving average of the squared gradient; None for an optimiser without one.
        batch_tokens: Tokens of a step.
        precision: Precision of the working weights.
        policy: What happens to a step that is not finite.
        skips_spikes: Whether spikes are treated in the same way.
        stands_out: What stands out by layer, in sentences.
    """

    learning_rate: float
    warmup_steps: int
    beta2: float | None
    batch_tokens: int
    precision: str
    policy: str = "skip"
    skips_spikes: bool = False
    stands_out: tuple[str, ...] = ()


def what_to_do(finite: bool, run: Circumstances) -> str:
    """Return in one paragraph what helps against spikes, or against steps that are not finite.

    Args:
        finite: Whether loss and gradient are numbers, and only far too large.
        run: Settings of the run.

    Examples:
        >>> run = Circumstances(6e-3, 10, 0.999, 4096, "fp32")
        >>> "--optimization.beta2 0.95" in what_to_do(True, run), "fp32" in what_to_do(True, run)
        (True, False)
    """
    told = ["a spike that is over after some steps needs nothing. If they come again, or the loss stays high:"]
    if not finite:
        told = ["look at the documents of the step above. If more steps are not finite:"]
        if run.precision != "fp32":
            told.append(f"--machine.precision fp32 instead of {run.precision};")
    if finite and not run.skips_spikes:
        told.append("--anomalies.spikes skips such steps, with --anomalies.policy rollback from the checkpoint before;")
    told.append(f"a lower --optimization.learning-rate ({run.learning_rate / 2:.3g} instead of {run.learning_rate:g});")
    longer = max(100, 4 * run.warmup_steps)
    told.append(f"a longer warm-up (--optimization.warmup-steps {longer} instead of {run.warmup_steps});")
    if run.beta2 is not None and run.beta2 > 0.95:
        told.append(
            f"--optimization.beta2 0.95 instead of {run.beta2:g}, since an average over many steps comes too late when "
            "the gradient grows;"
        )
    if run.beta2 is not None:
        told.append("a larger --optimization.eps, such as 1e-8, where gradients are smaller than that of a rare token;")
    told.append(f"a larger batch (--optimization.batch-tokens {2 * run.batch_tokens});")
    told.append("--optimization.embedding-gradient 0.1 if the embedding rules the gradient;")
    told.append("--optimization.z-loss 1e-4 if logits grow.")
    if run.stands_out:
        told.append(f"At the last record: {'; '.join(run.stands_out)}.")
    return "what to do: " + " ".join(told)
