"""The suite of checks: all checks in order, a quick selection of them, and the report of their results."""

from __future__ import annotations

import contextlib
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lavra.checks.base import Check, CheckContext, CheckResult, Verdict
from lavra.checks.documents import check_documents, check_padding
from lavra.checks.gradients import check_accumulation, check_gradients, check_optimizer
from lavra.checks.influence import check_influence
from lavra.checks.kernels import check_compiled, check_kernels
from lavra.checks.labels import check_labels
from lavra.checks.learning import check_overfit
from lavra.checks.losses import check_evaluation, check_first_loss, check_precision
from lavra.checks.moves import check_moves
from lavra.checks.saving import check_resume, check_saving
from lavra.checks.speed import check_speed
from lavra.checks.stores import check_copies, check_files, check_near_duplicates, check_tokenizer
from lavra.core.errors import CheckFailed
from lavra.core.messages.catalogue import told
from lavra.core.progress import Progress
from lavra.core.units import counted
from lavra.training.devices import synchronize

# The report, as values and as text.

_WIDTH = 118
"""Characters of a line of the report as text."""


@dataclass(frozen=True)
class Report:
    """Results of a suite of checks; `report[name]` is the result of the check of that name.

    Attributes:
        results: Results in the order of the checks.
        skipped: Names of the checks that were skipped for lack of time.
        seconds: Time that the checks took.

    Examples:
        >>> report = Report((CheckResult("evaluation", "ok", "2.5 twice", "the same loss twice"),), (), 1.25)
        >>> report.verdict
        'ok'
        >>> report.summary()
        'checks: 1 ok (1.2 s)'
    """

    results: tuple[CheckResult, ...]
    skipped: tuple[str, ...]
    seconds: float

    def with_results(self, further: Sequence[CheckResult]) -> Report:
        """Return the report with further results at its end."""
        return replace(self, results=(*self.results, *further))

    @property
    def verdict(self) -> Verdict:
        """Worst verdict of all results."""
        verdicts = {result.verdict for result in self.results}
        return "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "ok"

    @property
    def failed(self) -> list[CheckResult]:
        """Results whose verdict is `fail`."""
        return [result for result in self.results if result.verdict == "fail"]

    def __getitem__(self, name: str) -> CheckResult:
        return next(result for result in self.results if result.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return the report as the JSON values of `checks.json`."""
        return {
            "verdict": self.verdict,
            "checks": [result.to_json() for result in self.results],
            "skipped": list(self.skipped),
            "seconds": round(self.seconds, 2),
        }

    def raise_if_failed(self, place: str) -> None:
        """Do nothing if no check failed.

        Args:
            place: File that contains all results, which the message names.

        Raises:
            CheckFailed: if a check failed; the message names the failed checks and what to do.
        """
        if not self.failed:
            return
        words = "; ".join(f"{result.name}: {result.measured} (expected: {result.expected})" for result in self.failed)
        raise CheckFailed(
            f"{counted(len(self.failed), 'check')} failed before the first step: {words}",
            "; ".join(result.remedy for result in self.failed) + f". All results: {place}. --no-check trains anyway",
        )

    def summary(self) -> str:
        """Return a summary in one line, for the log."""
        verdicts = [result.verdict for result in self.results]
        parts = [f"{verdicts.count(one)} {one}" for one in ("ok", "warn", "fail") if one in verdicts]
        left = f", {len(self.skipped)} skipped for lack of time" if self.skipped else ""
        return f"checks: {', '.join(parts)}{left} ({self.seconds:.1f} s)"

    def text(self) -> str:
        """Return all results as text: what was measured, what was expected, and what to do about problems.

        The words are those of the user's language, the names of the checks stay as they are.
        """
        lines: list[str] = []
        for result in self.results:
            lines.append(f"{result.verdict.ljust(4)}  {result.name}")
            lines += _paragraph("measured", result.measured) + _paragraph("expected", result.expected)
            if result.remedy:
                lines += _paragraph("what to do", result.remedy)
            lines += [f"        {told(line)}" for line in result.details]
        if self.skipped:
            lines.append(told(f"skipped: {', '.join(self.skipped)}"))
        return "\n".join([*lines, told(self.summary())])


def _paragraph(title: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{told(title)}: {told(text)}",
        _WIDTH,
        initial_indent=" " * 6,
        subsequent_indent=" " * 8,
        break_on_hyphens=False,
    )


# The suite itself.

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
    (check_moves, 14.0),
)
"""Checks before a training, the cheapest and most informative first; only the last takes steps. The number is the cost
of a check in multiples of the time of the first one, by which it is decided whether the check still fits into the given
time."""

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
"""All checks with their costs; those that are not in `QUICK` take more training steps or more time."""


_OF_TOKENS = (check_labels, check_documents, check_padding, check_influence, check_near_duplicates)
"""Checks of targets that are tokens; the targets of a head on whole texts are checked by its task's own tests."""

_WITHOUT_MODEL = (check_tokenizer, check_files)
"""Checks that do not run the model; the only ones that are possible when the text contains unknown token ids."""


def run_checks(
    check_context: CheckContext, checks: Sequence[tuple[Check, float]] = FULL, *, seconds: float | None = None
) -> Report:
    """Run checks on a training set-up and return a report of their results.

    The trainer and the global random state are restored afterwards. A check that raises an error counts as failed.

    Args:
        check_context: Training set-up to check.
        checks: Checks with their costs, such as `QUICK` or `FULL`.
        seconds: Time limit; checks that would exceed it are skipped, except the first. None sets no limit.

    Examples:
        A training set-up needs a trainer, an objective and a source of rows; here the rows are lists of token ids.

        >>> from lavra.models.protocols import Batch
        >>> from lavra.models.spec import DecoderSpec
        >>> from lavra.objectives.causal import Causal
        >>> from lavra.planning.machine.dry_run import DryRun
        >>> class Rows:
        ...     def rows(self, start, count):
        ...         return [[(start + row + place) % 256 for place in range(33)] for row in range(count)]
        >>> class NextToken(Causal):
        ...     def encode(self, rows, streams, progress):
        ...         ids = torch.tensor(rows)
        ...         return Batch(ids[:, :-1], ids[:, 1:], weight=float(ids[:, 1:].numel()))
        >>> shape = DecoderSpec(vocabulary=256, context=32, depth=1, width=32, heads=1)
        >>> trainer = DryRun(shape, context=32).trainer(2)
        >>> check_context = CheckContext(trainer, NextToken(32), Rows(), rows=2)
        >>> report = run_checks(check_context, [(check_first_loss, 1.0), (check_evaluation, 1.0)])
        >>> [(result.name, result.verdict) for result in report.results]
        [('first_loss', 'ok'), ('evaluation', 'ok')]
    """
    if not check_context.token_targets:
        checks = [one for one in checks if one[0] not in _OF_TOKENS]
    begun = time.monotonic()
    results: list[CheckResult] = []
    skipped: list[str] = []
    impossible = _beyond(check_context)
    if impossible is not None:
        checks, results = [pair for pair in checks if pair[0] in _WITHOUT_MODEL], [impossible]
    unit = 0.0
    devices = [check_context.trainer.device] if check_context.trainer.device.type == "cuda" else []
    # The time left is reckoned by the costs: the last checks take most of it.
    share = len(checks) / sum(1.0 + cost for _, cost in checks)
    with Progress("checking", len(checks), "checks", every=5.0) as progress, torch.random.fork_rng(devices):
        if devices and impossible is None:
            _warm_up(check_context)
        for number, (check, cost) in enumerate(checks):
            if seconds is not None and time.monotonic() - begun + cost * unit > seconds and number:
                skipped.append(_name(check))
                progress.advance(share * (1.0 + cost))
                continue
            start = time.monotonic()
            results += _run(check, check_context)
            if number == 0:
                unit = time.monotonic() - start
            progress.advance(share * (1.0 + cost), note=_name(check))
    return Report(tuple(results), tuple(skipped), time.monotonic() - begun)


def _warm_up(check_context: CheckContext) -> None:
    """Run the model once, so that the loading of a GPU's libraries does not count as the cost of the first check.

    An error is left to the first check, which reports it.
    """
    with contextlib.suppress(Exception), torch.no_grad():
        check_context.model.features(check_context.encoded)
        synchronize(check_context.trainer.device)


def _run(check: Check, check_context: CheckContext) -> Sequence[CheckResult]:
    """Run one check and return its results; an error in it is a failure, since training would raise it too."""
    try:
        return check(check_context)
    except Exception as error:
        measured = f"it ended with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        remedy = "training would end with the same error: see the message"
        return [CheckResult(_name(check), "fail", measured, "the check runs", remedy)]
    finally:
        check_context.trainer.master_weights.clear()


def _beyond(check_context: CheckContext) -> CheckResult | None:
    """Return a failure if the batch contains token ids beyond the vocabulary of the model, else None.

    The model cannot be run on them: on a GPU the attempt would even make the device unusable for the process.
    """
    batch, vocabulary = check_context.encoded, check_context.model.vocabulary
    largest = max(int(batch.inputs.max()), int(batch.targets.max()))
    if largest < vocabulary:
        return None
    return CheckResult(
        "ids",
        "fail",
        f"the text contains token id {largest}; the model has a vocabulary of {vocabulary}",
        "every token id below the vocabulary size of the model",
        "prepare the text with the tokenizer that belongs to the model (--text.tokenizer)",
    )


def _name(check: Check) -> str:
    return getattr(check, "__name__", "check").removeprefix("check_")
