"""What a battery found, as values and as text."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

from lavra.checks.base import CheckResult, Verdict
from lavra.core.errors import CheckFailed

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
