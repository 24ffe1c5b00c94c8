"""The curve of effectiveness and index size against the share of the generated queries that is kept."""

from __future__ import annotations

from html import escape

from lavra.core.units import show_size
from lavra.search.experiment import PRIMARY, ExperimentResult, SystemResult

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 380, 70, 30, 50, 70


def points(result: ExperimentResult) -> list[tuple[float, SystemResult]]:
    """Return (share kept, system) by growing share, from the documents alone to all queries."""
    found = []
    for one in result.systems:
        changes = one.system.changes
        if changes.get("fields") == "doc":
            found.append((0.0, one))
        elif changes.get("fields") == "doc+queries" and not changes.get("drop_repeats"):
            found.append((float(changes["keep_queries"]), one))
    return sorted(found, key=lambda point: point[0])


def share_plot(result: ExperimentResult) -> str:
    """Return an SVG: MRR@10 with its interval against the share kept, index sizes below; empty without a filter."""
    curve = points(result)
    if len(curve) < 3:
        return ""
    estimates = [(share, one.estimates[PRIMARY]) for share, one in curve]
    ends = [end for _, one in estimates for end in (one.value, one.low, one.high) if end is not None]
    low, high = min(ends), max(ends)
    margin = 0.08 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def across(share: float) -> float:
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    title = f"{result.collection} {result.split}: {PRIMARY} against the share of generated queries kept"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="10" y="22" font-weight="bold" font-size="13">{escape(title)}</text>',
        f'<path d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}" fill="none" stroke="#888888"/>',
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
