"""The files of an experiment: JSON, a table of plain text, the queries that gained and lost, and plots."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from textwrap import wrap

from lavra.core.disk.files import write_atomically, write_json
from lavra.core.units import counted, show_size
from lavra.evaluation.intervals import Estimate
from lavra.search.experiment.dense import FusionTuning
from lavra.search.experiment.experiment import PRIMARY, ExperimentResult, SystemResult

# The curve of effectiveness and index size against the share of the generated queries that is kept.

_W = 640
"""Width and height of that plot, and its left, right, upper and lower margins, in pixels."""
_HEIGHT = 380
_X = 70
_MARGIN = 30
_TOP = 50
_BOTTOM = 70


def points(result: ExperimentResult) -> list[tuple[float, SystemResult]]:
    """Return the points of the curve: share of the queries that is kept, and the results, by increasing share.

    Args:
        result: The results of the experiment.
    """
    found = []
    for one in result.systems:
        changes = one.system.changes
        if changes.get("fields") == "doc":
            found.append((0.0, one))
        elif changes.get("fields") == "doc+queries" and not changes.get("drop_repeats"):
            found.append((float(changes["keep_queries"]), one))
    return sorted(found, key=lambda point: point[0])


def share_plot(result: ExperimentResult) -> str:
    """Return a plot of MRR@10 with intervals against the share of the queries that is kept, with the index sizes.

    Args:
        result: The results of the experiment.

    Returns:
        The plot as SVG; an empty string where no filtered system was measured.
    """
    curve = points(result)
    if len(curve) < 3:
        return ""
    estimates = [(share, one.estimates[PRIMARY]) for share, one in curve]
    ends = [end for _, one in estimates for end in (one.value, one.low, one.high) if end is not None]
    low, high = min(ends), max(ends)
    margin = 0.08 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def across(share: float) -> float:
        return _X + share * (_W - _X - _MARGIN)

    def up(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    title = f"{result.collection} {result.split}: {PRIMARY} against the share of generated queries kept"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{_W}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="10" y="22" font-weight="bold" font-size="13">{escape(title)}</text>',
        f'<path d="M{_X} {_TOP}V{_HEIGHT - _BOTTOM}H{_W - _MARGIN}" fill="none" stroke="#888888"/>',
    ]
    line = " ".join(f"{across(share):.1f},{up(one.value):.1f}" for share, one in estimates)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#225588" stroke-width="1.5"/>')
    for (share, one), (_, system) in zip(estimates, curve, strict=True):
        x, y = across(share), up(one.value)
        if one.low is not None and one.high is not None:
            parts.append(f'<path d="M{x:.1f} {up(one.low):.1f}V{up(one.high):.1f}" stroke="#225588"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#225588"/>',
            f'<text x="{x + 6:.1f}" y="{y - 6:.1f}" font-size="11">{one.value:.3f}</text>',
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{share:.0%}</text>',
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 36}" text-anchor="middle" font-size="11" fill="#666666">'
            f"{show_size(system.bytes)}</text>",
        ]
    note = "0 %: documents alone; below: size of the index; bars: 95 % intervals over queries"
    parts += [f'<text x="10" y="{_HEIGHT - 10}" font-size="11" fill="#666666">{note}</text>', "</svg>"]
    return "\n".join(parts) + "\n"


# All files of an experiment, and the table.


def write_experiment(result: ExperimentResult, folder: Path) -> None:
    """Write the results as `experiment.json`, `experiment.txt`, `differences.tsv` and `experiment.svg`.

    Where filtered systems were measured, `shares.svg` is written too.

    Args:
        result: The results of the experiment.
        folder: The folder to write into.
    """
    write_json(folder / "experiment.json", result.to_json())
    write_atomically(folder / "experiment.txt", "\n".join(table(result)) + "\n")
    write_atomically(folder / "differences.tsv", "".join(difference_lines(result)))
    write_atomically(folder / "experiment.svg", plot(result))
    curve = share_plot(result)
    if curve:
        write_atomically(folder / "shares.svg", curve)


def table(result: ExperimentResult, width: int | None = None, tell: Callable[[str], str] = str) -> list[str]:
    """Return the lines of a table: measures with intervals, gain in MRR@10, size and latency of each system.

    Args:
        result: The results of the experiment.
        width: Columns of the terminal; in a table that would be wider, the values of a system are below one another.
            None for no limit.
        tell: The function that returns lines in the language of a person; by default they stay English.
    """
    measures = list(result.systems[0].estimates)
    latency = "latency p50/p95/p99 (ms)"
    heads = ["system", *measures, f"gain in {PRIMARY}", "k1, b, query weight", "index size", latency, "new terms"]
    rows = [heads, *(_row(result, one, measures) for one in result.systems)]
    if result.oracle is not None:
        means = result.oracle.means()
        rows.append(["human questions", *(f"{means[name]:.3f}" for name in measures), *[""] * 5])
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    queries = counted(len(result.queries), "query", "queries")
    title = f"{result.collection} {result.split}: {counted(result.documents, 'document')}, {queries}".strip()
    lines = [
        title,
        "",
        *(_aligned(rows, widths) if width is None or sum(widths) + 2 * len(widths) <= width else _stacked(rows)),
    ]
    lines += [
        "",
        "In brackets: 95 % bootstrap interval over queries. p: paired randomisation test against the first line,",
        "corrected for the number of systems by Holm's method. BM25 as in Lucene; ties broken as in trec_eval.",
    ]
    for one in result.systems[1:]:
        share = result.gain_share(one.system.name)
        if share is not None and share > 0:
            lines.append(f"{one.system.name}: {share:.0%} of the gain in {PRIMARY} that human questions bring")
    lines += [*_about_fusions(result), *_about_queries(result), *result.warnings]
    lines = tell("\n".join(lines)).split("\n")
    return lines if width is None else [part for line in lines for part in (wrap(line, width) if line else [""])]


def _aligned(rows: list[list[str]], widths: list[int]) -> list[str]:
    return ["  ".join(cell.ljust(most) for cell, most in zip(row, widths, strict=True)).rstrip() for row in rows]


def _stacked(rows: list[list[str]]) -> list[str]:
    heads, *systems = rows
    most = max(map(len, heads))
    lines = []
    for name, *cells in systems:
        lines.append(name)
        lines += [f"  {head.ljust(most)}  {cell}" for head, cell in zip(heads[1:], cells, strict=True) if cell]
    return lines


def _about_fusions(result: ExperimentResult) -> list[str]:
    """Return a sentence for each fusion whose weight was tuned."""
    return [
        f"{one.system.name}: weight {one.tuning.weight:g} of the vectors, tuned on "
        f"{counted(one.tuning.queries, 'validation query', 'validation queries')}"
        for one in result.systems
        if isinstance(one.tuning, FusionTuning)
    ]


def _about_queries(result: ExperimentResult) -> list[str]:
    """Return a sentence that says how the queries were generated, where that is known."""
    about = result.expansion or {}
    request = about.get("request")
    if not isinstance(request, dict):
        return []
    scored = f", scored with {request['scored_with']}" if request.get("scored_with") else ""
    return [
        f"Queries generated by {request.get('model')}, {request.get('queries')} for each chunk "
        f"({counted(about.get('chunks', 0), 'chunk')}){scored}; the generator read "
        f"{about.get('share_read', 0.0):.0%} of the text ({counted(about.get('tokens', 0), 'token')})."
    ]


def _row(result: ExperimentResult, one: SystemResult, measures: list[str]) -> list[str]:
    comparison = result.comparison(one.system.name)
    latency = one.latency
    return [
        one.system.name,
        *(_shown(one.estimates[name]) for name in measures),
        f"{comparison.difference.value:+.3f} (p {comparison.p_holm:.4f})" if comparison else "",
        _parameters(one),
        show_size(one.bytes),
        f"{latency.p50:.2f}/{latency.p95:.2f}/{latency.p99:.2f}",
        f"{one.shares.new_share:.0%}" if one.shares.queries else "",
    ]


def _parameters(one: SystemResult) -> str:
    if one.settings is None:
        return ""
    weight = f", {one.settings.query_weight:g}" if one.shares.queries else ""
    return f"{one.settings.k1:g}, {one.settings.b:g}{weight}"


def _shown(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def difference_lines(result: ExperimentResult) -> list[str]:
    """Return the queries that gained or lost, one tab-separated line for each system and query, largest losses first.

    Args:
        result: The results of the experiment.

    Returns:
        A header and the lines: system, query id, text, MRR@10 of the baseline, of the system, and the difference.
    """
    base = result.systems[0].scores
    lines = ["system\tquery\ttext\tbaseline\tvalue\tdifference\n"]
    for one in result.systems[1:]:
        before, after = base.of(PRIMARY), one.scores.of(PRIMARY)
        changed = sorted(
            (float(after[row] - before[row]), row) for row in range(len(before)) if after[row] != before[row]
        )
        for difference, row in changed:
            query = base.queries[row]
            text = " ".join(result.queries[query].split())
            lines.append(
                f"{one.system.name}\t{query}\t{text}\t{before[row]:.4f}\t{after[row]:.4f}\t{difference:+.4f}\n"
            )
    return lines


_WIDTH = 860
"""Width of the plot of systems, height of a system's line, and the left and right margins, in pixels."""
_LINE = 30
_LEFT = 300
_RIGHT = 110


def plot(result: ExperimentResult) -> str:
    """Return a plot of MRR@10 of each system with its interval, with the index sizes, as SVG.

    Args:
        result: The results of the experiment.
    """
    estimates = [one.estimates[PRIMARY] for one in result.systems]
    ends = [end for one in estimates for end in (one.value, one.low, one.high) if end is not None]
    if result.oracle is not None:
        ends.append(result.oracle.means()[PRIMARY])
    low, high = min(ends), max(ends)
    margin = 0.05 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    height = 70 + _LINE * len(estimates)
    title = (
        f"{result.collection} {result.split}: {PRIMARY}, 95 % interval over "
        f"{counted(len(result.queries), 'query', 'queries')}, index size"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif"'
        ' font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="22" font-weight="bold">{escape(title)}</text>',
        _vertical(place(estimates[0].value), height, "#bbbbbb"),
    ]
    if result.oracle is not None:
        parts.append(_vertical(place(result.oracle.means()[PRIMARY]), height, "#cc8800"))
    for number, (one, estimate) in enumerate(zip(result.systems, estimates, strict=True)):
        middle, value = 52 + _LINE * number, f"{estimate.value:.3f}"
        point = place(estimate.value)
        if estimate.low is not None and estimate.high is not None:
            left, right = place(estimate.low), place(estimate.high)
            parts.append(f'<path d="M{left:.1f} {middle}H{right:.1f}" stroke="#225588" stroke-width="2"/>')
        parts += [
            f'<text x="10" y="{middle + 4}">{escape(one.system.name)}</text>',
            f'<circle cx="{point:.1f}" cy="{middle}" r="5" fill="#225588"/>',
            f'<text x="{point:.1f}" y="{middle - 8}" text-anchor="middle" font-size="11">{value}</text>',
            f'<text x="{_WIDTH - 10}" y="{middle + 4}" text-anchor="end">{show_size(one.bytes)}</text>',
        ]
    labels = "grey: documents alone" + ("; orange: human questions" if result.oracle is not None else "")
    parts += [f'<text x="10" y="{height - 8}" font-size="11" fill="#666666">{labels}</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def _vertical(place: float, height: int, colour: str) -> str:
    return f'<path d="M{place:.1f} 34V{height - 24}" stroke="{colour}" stroke-dasharray="4 3"/>'
