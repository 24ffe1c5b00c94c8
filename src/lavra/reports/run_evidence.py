"""Sections of the page of a run about its evidence: checks, data usage, samples, events and the request."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from lavra.core.units import counted
from lavra.reports.formatting import setting
from lavra.reports.page import Section, Table, Text
from lavra.reports.run_files import RunFiles

_MOST_SAMPLES = 12  # samples, lines of the log and notable events on the page
_MOST_EVENTS = 400
_MOST_NOTABLE = 20
_ORDINARY = re.compile(r"forecast: |\d\d  checks: |step \d+: document \d+: |by the speed so far, the run has ")


def notable(run: RunFiles) -> list[str]:
    """Return the events that are worth a look, a line each: skipped steps, warnings, and checks that did not pass.

    Forecasts, the summary of the checks, excerpts of documents and the number of steps that a run by time corrects by
    its speed are ordinary lines of the log and not included.

    Args:
        run: Record of the run.
    """
    skipped = [str(line.get("step")) for line in run.training if line.get("skipped")]
    found = [line for line in run.events if not _ORDINARY.search(line)]
    left = len(found) - _MOST_NOTABLE
    found = found[-_MOST_NOTABLE:] if left <= 0 else [*found[-_MOST_NOTABLE:], f"… and {left:,} earlier events, below"]
    if skipped:
        which = ", ".join(skipped[:20]) + (", …" if len(skipped) > 20 else "")
        found.insert(0, f"{counted(len(skipped), 'step')} skipped, with no update applied: {which}")
    verdicts = {
        one.get("name"): one for one in run.checks.get("checks") or () if one.get("verdict") in ("warn", "fail")
    }
    return [*found, *(f"check {name}: {one['verdict']}: {one.get('measured')}" for name, one in verdicts.items())]


def checks_section(run: RunFiles) -> Section:
    """Return the section of the checks: what they measured and expected, and what to do about problems."""
    found = run.checks.get("checks") or []
    rows = [
        [str(one.get(name) or "") for name in ("name", "verdict", "measured", "expected", "remedy")] for one in found
    ]
    details = [Text(f"{one.get('name')}: details", "\n".join(one["details"])) for one in found if one.get("details")]
    if not rows:
        return Section("Checks", "No checks were recorded.")
    left = run.checks.get("skipped") or []
    return Section(
        "Checks",
        tables=[Table(["check", "verdict", "measured", "expected", "what to do"], rows, words=5)],
        note=f"Skipped for lack of time: {', '.join(left)}; `lavra check` runs all checks." if left else "",
        folded=details,
    )


def data_usage_section(run: RunFiles) -> Section:
    """Return the section of the data usage: how much of each source was trained on, and whether the sums agree."""
    entries: list[dict[str, Any]] = run.result.get("data_usage") or []
    if not entries:
        return Section("Data usage", "The data usage is recorded when the run finishes." if run.plan else "")
    columns = ("source", "tokens", "epochs", "seen", "left", "total")
    unit = "examples" if _in_examples(run) else "tokens"
    titles = (
        *("source", f"{unit} in the source", "complete epochs"),
        *(f"{unit} trained on in this epoch", f"{unit} left in this epoch", f"total {unit} trained on"),
    )
    rows = [[_cell(entry.get(column)) for column in columns] for entry in entries]
    return Section("Data usage", _sum(run, entries), tables=[Table(titles, rows)])


def _in_examples(run: RunFiles) -> bool:
    """Return whether the data usage is counted in examples and not in tokens."""
    return "examples" in ((run.data.get("split") or {}).get("train") or {})


def _sum(run: RunFiles, entries: list[dict[str, Any]]) -> str:
    """Return a sentence that compares the data usage with the number of tokens that the trainer counted."""
    if _in_examples(run):
        return "Every example is used once in each epoch; the columns count examples."
    total, learned = sum(int(entry.get("total") or 0) for entry in entries), run.result.get("tokens")
    often = run.result.get("targets_per_token")
    if isinstance(often, int | float):
        return (
            f"The data loader delivered {total:,} tokens, each once in every epoch. A token was a target {often:.3g} "
            "times on average: others are read only, and the marks of the objective count where they are predicted."
        )
    if not isinstance(learned, int) or not run.measured_on_documents:
        return f"The data loader delivered {total:,} tokens."
    taken = f"The data loader delivered {total:,} tokens, and the trainer counted {learned:,}: "
    if total == learned:
        return taken + "they agree."
    skipped = int(run.result.get("skipped_steps") or 0)
    if 0 < total - learned <= skipped * int(run.plan.get("batch_tokens") or 0):
        return taken + f"the other {total - learned:,} belong to {counted(skipped, 'skipped step')}."
    return taken + f"they do NOT agree, and the {skipped:,} skipped steps that were logged do not explain it."


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else setting(value)


def samples_section(run: RunFiles) -> Section:
    """Return the section of the samples: generated texts, newest first, with the expected text where it is known."""
    texts = []
    newest = sorted(run.samples, key=lambda sample: -int(sample.get("step") or 0))
    for step, group in groupby(newest, key=lambda sample: sample.get("step")):
        for number, sample in enumerate(group, 1):
            parts = [f"prompt:    {sample['prompt']}\ngenerated: "] if sample.get("prompt") else []
            parts.append(str(sample.get("text", "")).strip() or "(nothing)")
            parts += [f"\nexpected:  {sample['expected']}"] if sample.get("expected") else []
            texts.append(Text(f"step {step}, sample {number}", "".join(parts)))
    return Section("Samples", texts=texts[:_MOST_SAMPLES])


def events_section(run: RunFiles) -> Section:
    """Return the section of the record: the log, the request and the plan, folded."""
    folded = []
    if run.events:
        left = len(run.events) - _MOST_EVENTS
        lines = ([f"… {left:,} earlier lines in events.log"] if left > 0 else []) + run.events[-_MOST_EVENTS:]
        folded.append(Text(f"events.log ({len(run.events):,} lines)", "\n".join(lines)))
    if run.config:
        request = "\n".join(f"{name} = {setting(value)}" for name, value in flattened(run.config))
        folded.append(Text("the request (config.toml)", request))
    if run.plan:
        plan = "\n".join(f"{name} = {setting(value)}" for name, value in flattened(run.plan))
        folded.append(Text("the plan (plan.json)", plan))
    return Section("Record", folded=folded)


def flattened(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return (dotted name, value) for every setting of nested settings, in their order.

    Args:
        values: Nested settings.
        prefix: Text before every name.

    Examples:
        >>> flattened({"model": {"depth": 4}, "seed": 0})
        [('model.depth', 4), ('seed', 0)]
    """
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += flattened(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found
