"""The battery: all checks in order, and the shorter form that fits into a given time."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lavra.checks.base import Check, CheckResult, Subject, Verdict
from lavra.checks.documents import check_documents, check_padding
from lavra.checks.gradients import check_accumulation, check_gradients, check_optimizer
from lavra.checks.influence import check_influence
from lavra.checks.kernels import check_compiled, check_kernels
from lavra.checks.labels import check_labels
from lavra.checks.learning import check_overfit
from lavra.checks.losses import check_evaluation, check_first_loss, check_precision
from lavra.checks.saving import check_resume, check_saving
from lavra.checks.speed import check_speed
from lavra.checks.stores import check_copies, check_files, check_near_duplicates, check_tokenizer
from lavra.core.errors import CheckFailed
from lavra.core.progress import Progress

# What a battery found, as values and as text.

_WIDTH = 118


@dataclass(frozen=True)
class Report:
    """The results of a battery.

    Attributes:
        results: in the order of the checks.
        skipped: names of the checks that there was no time for, or that others made pointless.
        seconds: what it took.
    """

    results: tuple[CheckResult, ...]
    skipped: tuple[str, ...]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst of the verdicts."""
        verdicts = {result.verdict for result in self.results}
        return "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "ok"

    @property
    def failed(self) -> list[CheckResult]:
        """The results that forbid to train."""
        return [result for result in self.results if result.verdict == "fail"]

    def __getitem__(self, name: str) -> CheckResult:
        return next(result for result in self.results if result.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "verdict": self.verdict,
            "checks": [result.to_json() for result in self.results],
            "skipped": list(self.skipped),
            "seconds": round(self.seconds, 2),
        }

    def raise_if_failed(self, place: str) -> None:
        """Raise when a check failed.

        Raises:
            CheckFailed: naming the failed checks and what to do; `place` says where all of it is written.
        """
        if not self.failed:
            return
        words = "; ".join(f"{result.name}: {result.measured} (expected: {result.expected})" for result in self.failed)
        number = len(self.failed)
        raise CheckFailed(
            f"{number} check{'s' * (number > 1)} failed before the first step: {words}",
            "; ".join(result.remedy for result in self.failed) + f". All results: {place}. --no-check trains anyway",
        )

    def summary(self) -> str:
        """Return one line for a log."""
        verdicts = [result.verdict for result in self.results]
        parts = [f"{verdicts.count(one)} {one}" for one in ("ok", "warn", "fail") if one in verdicts]
        left = f", {len(self.skipped)} left out for want of time" if self.skipped else ""
        return f"checks: {', '.join(parts)}{left} ({self.seconds:.1f} s)"

    def text(self) -> str:
        """Return all results as text, what was measured and expected, and what to do where it is not well."""
        lines: list[str] = []
        for result in self.results:
            lines.append(f"{result.verdict.ljust(4)}  {result.name}")
            lines += _paragraph("measured", result.measured) + _paragraph("expected", result.expected)
            if result.remedy:
                lines += _paragraph("what to do", result.remedy)
            lines += [f"        {line}" for line in result.details]
        if self.skipped:
            lines.append(f"left out: {', '.join(self.skipped)}")
        return "\n".join([*lines, self.summary()])


def _paragraph(title: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{title}: {text}", _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 8, break_on_hyphens=False
    )


# The battery: all checks in order, and the shorter form that fits into a given time.

QUICK: tuple[tuple[Check, float], ...] = (
    (check_first_loss, 1.0),
    (check_optimizer, 0.0),
    (check_labels, 1.0),
    (check_copies, 0.0),
    (check_documents, 1.5),
    (check_padding, 2.0),
    (check_evaluation, 2.0),
    (check_gradients, 3.0),
    (check_influence, 4.0),
    (check_accumulation, 6.0),
    (check_kernels, 1.0),
    (check_tokenizer, 0.0),
)
"""Checks that take no step, the cheapest and most telling first, with their cost in times of the first of them."""

FULL: tuple[tuple[Check, float], ...] = (
    *QUICK,
    (check_files, 0.0),
    (check_near_duplicates, 0.0),
    (check_precision, 5.0),
    (check_saving, 4.0),
    (check_resume, 20.0),
    (check_speed, 7.0),
    (check_compiled, 30.0),
    (check_overfit, 30.0),
)
"""All checks, those after `QUICK` take steps or longer."""


_WITHOUT_MODEL = (check_tokenizer, check_files)
"""Checks that need no model that can compute."""


def run_checks(
    subject: Subject, checks: Sequence[tuple[Check, float]] = FULL, *, seconds: float | None = None
) -> Report:
    """Run checks, and leave the subject's trainer and the global random state as they were.

    Args:
        subject: what to check.
        checks: with their costs.
        seconds: to keep to; checks that do not fit any more are left out. The first always runs.
    """
    begun = time.monotonic()
    results: list[CheckResult] = []
    skipped: list[str] = []
    impossible = _beyond(subject)
    if impossible is not None:
        checks, results = [pair for pair in checks if pair[0] in _WITHOUT_MODEL], [impossible]
    unit = 0.0
    devices = [subject.trainer.device] if subject.trainer.device.type == "cuda" else []
    with Progress("checking", len(checks), "checks", every=5.0) as progress, torch.random.fork_rng(devices):
        for number, (check, cost) in enumerate(checks):
            if seconds is not None and time.monotonic() - begun + cost * unit > seconds and number:
                skipped.append(_name(check))
                continue
            start = time.monotonic()
            results += _run(check, subject)
            if number == 0:
                unit = time.monotonic() - start
            progress.advance(note=_name(check))
    return Report(tuple(results), tuple(skipped), time.monotonic() - begun)


def _run(check: Check, subject: Subject) -> Sequence[CheckResult]:
    """Run one check; one that cannot be run is a failure too, for training would meet the same."""
    try:
        return check(subject)
    except Exception as error:
        told = f"it ended with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        remedy = "training would meet the same: see the message"
        return [CheckResult(_name(check), "fail", told, "the check runs", remedy)]
    finally:
        subject.trainer.masters.clear()


def _beyond(subject: Subject) -> CheckResult | None:
    """Look for ids that the model has no row for: nothing can be computed with them, and on a GPU not even tried."""
    batch, vocabulary = subject.encoded, subject.model.vocabulary
    largest = max(int(batch.inputs.max()), int(batch.targets.max()))
    if largest < vocabulary:
        return None
    return CheckResult(
        "ids",
        "fail",
        f"the text holds id {largest}; the model knows {vocabulary} ids",
        "every id below the size of the model's vocabulary",
        "prepare the text with the tokenizer that belongs to the model (--text.tokenizer)",
    )


def _name(check: Check) -> str:
    return getattr(check, "__name__", "check").removeprefix("check_")
