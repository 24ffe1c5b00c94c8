"""What proves a run, and what happened in it: checks, the ledger, events, samples, the request."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from lavra.core.units import counted
from lavra.reports.formatting import setting
from lavra.reports.page import Section, Table, Text
from lavra.reports.run_files import RunFiles

_MOST_SAMPLES, _MOST_EVENTS, _MOST_NOTABLE = 12, 400, 20
_ORDINARY = re.compile(r"forecast: |\d\d  checks: |step \d+: document \d+: ")


def notable(run: RunFiles) -> list[str]:
    """Return the events worth a look: all but forecasts, the summary of the checks and excerpts of documents."""
    skipped = [str(line.get("step")) for line in run.training if line.get("skipped")]
    found = [line for line in run.events if not _ORDINARY.search(line)]
    left = len(found) - _MOST_NOTABLE
    found = found[-_MOST_NOTABLE:] if left <= 0 else [*found[-_MOST_NOTABLE:], f"… and {left:,} earlier ones, below"]
    if skipped:
        which = ", ".join(skipped[:20]) + (", …" if len(skipped) > 20 else "")
        found.insert(0, f"{counted(len(skipped), 'step')} skipped, with no update applied: {which}")
    verdicts = {
        one.get("name"): one for one in run.checks.get("checks") or () if one.get("verdict") in ("warn", "fail")
    }
    return [*found, *(f"check {name}: {one['verdict']}: {one.get('measured')}" for name, one in verdicts.items())]


def checks_section(run: RunFiles) -> Section:
    """Return what the checks measured and expected, and what to do where it is not well."""
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
        note=f"Left out for want of time: {', '.join(left)}; `lavra check` runs them all." if left else "",
        folded=details,
    )


def ledger_section(run: RunFiles) -> Section:
    """Return the receipt: what of each source was trained on, and whether it adds up to the trainer's own count."""
    entries: list[dict[str, Any]] = run.result.get("ledger") or []
    if not entries:
        return Section("Ledger", "The receipt is written when the run finishes." if run.plan else "")
    columns = ("source", "tokens", "epochs", "seen", "left", "total")
    titles = ("source", "tokens", "whole epochs", "seen of the next", "left of it", "taken in all")
    rows = [[_cell(entry.get(column)) for column in columns] for entry in entries]
    return Section("Ledger", _sum(run, entries), tables=[Table(titles, rows)])


def _sum(run: RunFiles, entries: list[dict[str, Any]]) -> str:
    """Compare the receipt with the tokens that the trainer counted; examples are counted one by one instead."""
    if "examples" in ((run.data.get("split") or {}).get("train") or {}):
        return "Every example is met once in each epoch; seen, left and taken are counted in examples."
    total, learned = sum(int(entry.get("total") or 0) for entry in entries), run.result.get("tokens")
    if not isinstance(learned, int) or run.plan.get("objective", "causal") != "causal":
        return f"By the order of the data {total:,} tokens were taken."
    taken = f"By the order of the data {total:,} tokens were taken; the trainer learned from {learned:,}: "
    if total == learned:
        return taken + "the same."
    skipped = int(run.result.get("skipped_steps") or 0)
    if 0 < total - learned <= skipped * int(run.plan.get("tokens_per_step") or 0):
        return taken + f"the other {total - learned:,} are those of {counted(skipped, 'step')} skipped."
    return taken + f"NOT the same, and the {skipped:,} skipped steps that were logged do not explain it."


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else setting(value)


def samples_section(run: RunFiles) -> Section:
    """Return what the model wrote, the latest step first, beside what a person wrote where that is known."""
    texts = []
    newest = sorted(run.samples, key=lambda sample: -int(sample.get("step") or 0))
    for step, group in groupby(newest, key=lambda sample: sample.get("step")):
        for number, sample in enumerate(group, 1):
            parts = [f"prompt:   {sample['prompt']}\nwritten:  "] if sample.get("prompt") else []
            parts.append(str(sample.get("text", "")).strip() or "(nothing)")
            parts += [f"\nexpected: {sample['expected']}"] if sample.get("expected") else []
            texts.append(Text(f"step {step}, sample {number}", "".join(parts)))
    return Section("Samples", texts=texts[:_MOST_SAMPLES])


def events_section(run: RunFiles) -> Section:
    """Return the log and the request, folded."""
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
    """Return (dotted name, value) of nested settings, in their order."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += flattened(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found
