"""What a stage of bench/gpu.sh measured, read from what it left behind, and the table of all stages.

Only the standard library is imported: this runs around every stage, also where a stage could not import anything.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FIGURES = ("tokens_per_second", "peak_bytes", "bits_per_byte", "steps", "bad_steps", "late_share", "says")
"""The figures of the table. A stage that measures itself prints them under these names in a line of JSON."""

_BAD_EVENT = re.compile(r"\bnan\b|\binf\b|not finite|non-finite|diverge", re.IGNORECASE)
_WIDEST = 72
"""Characters of the last column; the whole text is in gpu.jsonl."""


def answer_of(lines: Iterable[str]) -> dict[str, Any]:
    """Return the last line that is a JSON object, which is a stage's answer; empty when there is none."""
    found: dict[str, Any] = {}
    for line in lines:
        if not line.startswith("{"):
            continue
        try:
            found = json.loads(line)
        except ValueError:
            continue
    return found


def figures_of(answer: dict[str, Any], run: Path | None, seconds: float, budget: float | None) -> dict[str, Any]:
    """Return the figures of a stage; what is not known is left out.

    Args:
        answer: the JSON object that the stage printed.
        run: the run folder that the stage trained in, also one that did not get to its end.
        seconds: from the start of the process to its end.
        budget: the seconds that the stage was asked to take.
    """
    found = of_run(run) if run is not None else of_answer(answer)
    if budget is not None:
        found["late_share"] = seconds / budget - 1.0
    return {name: value for name, value in found.items() if value is not None}


def of_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of `lavra check --json`, of `bench/training.py --json`, or of what tells its own."""
    if "verdict" in answer:
        return of_checks(answer)
    if "training" in answer:
        return of_training(answer["training"])
    return dict(answer)


def of_checks(answer: dict[str, Any]) -> dict[str, Any]:
    """Return how many checks came to which verdict, and the names of those that were not well."""
    verdicts = [check["verdict"] for check in answer["checks"]]
    counts = [f"{verdicts.count(one)} {one}" for one in ("ok", "warn", "fail") if one in verdicts]
    bad = [check["name"] for check in answer["checks"] if check["verdict"] != "ok"]
    left = [f"left out: {', '.join(answer['skipped'])}"] if answer["skipped"] else []
    return {"says": "; ".join([", ".join(counts), *bad, *left]), "checks": answer}


def of_training(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the speed and memory of our side in the first result, and how its peers stand to it."""
    ours, *peers = results[0]["sides"]
    times = [f"{side['ours_is_faster_by']['median']:.2f} times {side['side']}" for side in peers]
    return {
        "tokens_per_second": ours["tokens_per_second"]["median"],
        "peak_bytes": ours["device_bytes"] or ours["peak_bytes"],
        "says": "; ".join([f"{ours['share_of_ceiling']:.0%} of the ceiling", ", ".join(times)]),
        "sides": results[0]["sides"],
        "ceiling_flops": results[0]["ceiling_flops"]["median"],
    }


def of_run(run: Path) -> dict[str, Any]:
    """Return the figures of a training run, by its result, or by its metrics where it did not get to its end."""
    result, plan = read_object(run / "result.json"), read_object(run / "plan.json")
    lines = [line for line in read_lines(run / "metrics.jsonl") if line.get("split") == "train"]
    speeds = [line["tokens_per_second"] for line in lines if line.get("tokens_per_second")]
    bits = result.get("bits_per_byte")
    steps = result.get("step") or max((line.get("step", 0) for line in lines), default=0)
    words = [
        f"{plan['parameters'] / 1e6:.3g}M" if "parameters" in plan else "",
        f"context {plan['context']}" if "context" in plan else "",
        f"{plan['batch_tokens']:,} tokens a step" if "batch_tokens" in plan else "",
        {True: "compiled", False: "not compiled"}.get(plan.get("compile", ""), ""),
        "" if result else f"no result after step {steps}",
    ]
    return {
        "tokens_per_second": result.get("tokens_per_second") or (statistics.median(speeds) if speeds else None),
        "peak_bytes": result.get("peak_bytes"),
        "bits_per_byte": bits.get("value") if isinstance(bits, dict) else bits,
        "steps": steps,
        "bad_steps": len({line.get("step") for line in lines if is_bad(line)}),
        "says": ", ".join(filter(None, words)),
        "bad_events": [line for line in read_text(run / "events.log").splitlines() if _BAD_EVENT.search(line)][:20],
        "plan": plan,
        "result": {name: value for name, value in result.items() if not isinstance(value, list | dict)},
    }


def is_bad(line: dict[str, Any]) -> bool:
    """Say whether a logged step was skipped, or had a loss or gradient that is no number (JSON has null for it)."""
    return bool(line.get("skipped")) or line.get("loss") is None or line.get("gradient_norm") is None


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; empty when there is none, or half of one."""
    try:
        found = json.loads(read_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file, without lines that are damaged or not written to their end."""
    found = []
    for line in read_text(path).splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]


def read_text(path: Path) -> str:
    """Return the text of a file; empty when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the stages for people: name, exit code, seconds, and the figures that each has; its sides below it."""
    heading = ("stage", "exit", "seconds", "1st step", "tokens/s", "memory", "bits/byte", "bad steps", "late", "says")
    lines = [heading]
    for row in rows:
        lines += [_cells(row), *(_cells(_of_side(side)) for side in row.get("sides", ()))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_aligned(line, widths) for line in lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    says = str(row.get("says", ""))
    return (
        row["stage"],
        shown(row, "exit", "d"),
        shown(row, "seconds", ".1f"),
        shown(row, "first_step_seconds", ".1f"),
        shown(row, "tokens_per_second", ",.0f"),
        _size(row.get("peak_bytes")),
        shown(row, "bits_per_byte", ".3f"),
        _bad(row),
        shown(row, "late_share", "+.0%"),
        says if len(says) <= _WIDEST else says[: _WIDEST - 1] + "…",
    )


def _of_side(side: dict[str, Any]) -> dict[str, Any]:
    """Return a side of a comparison as a row."""
    ratio, share = side["ours_is_faster_by"], side.get("share_of_ceiling")
    words = [] if share is None else [f"{share:.1%} of the ceiling"]
    if ratio is not None:
        words.append(f"lavra is {ratio['median']:.2f} times as fast ({ratio['low']:.2f}-{ratio['high']:.2f})")
    return {
        "stage": f"  {side['side']}",
        "tokens_per_second": side["tokens_per_second"]["median"],
        "peak_bytes": side["device_bytes"] or side["peak_bytes"],
        "first_step_seconds": side["first_step_seconds"],
        "says": ", ".join(words),
    }


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *figures, says = cells
    middle = (figure.rjust(width) for figure, width in zip(figures, widths[1:-1], strict=True))
    return "  ".join([name.ljust(widths[0]), *middle, says]).rstrip()


def shown(row: dict[str, Any], name: str, form: str) -> str:
    """Return a figure in its form, or a dash where the stage has none."""
    value = row.get(name)
    return "-" if value is None else format(value, form)


def _size(amount: float | None) -> str:
    return "-" if amount is None else f"{amount / 1e9:.2f} GB"


def _bad(row: dict[str, Any]) -> str:
    return "-" if row.get("bad_steps") is None else f"{row['bad_steps']}/{row.get('steps', '?')}"
