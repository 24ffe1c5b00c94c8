"""`lavra plan`: know before you spend."""

from __future__ import annotations

from lavra.cli.options import parse, print_json
from lavra.config.planning import PlanRequest

_SHORT = {
    "--from": "--base",
    "--gradient-checkpointing": "--edits.gradient-checkpointing",
    "--vocabulary": "--text.vocabulary",
    "--tokenizer": "--text.tokenizer",
    "--text-column": "--text.column",
    "--encoding": "--text.encoding",
    "--validation": "--text.validation",
}
"""Flags that are so common that they have a short form."""


def main(arguments: list[str]) -> int:
    """Run `lavra plan …`."""
    request, as_json = parse(
        PlanRequest,
        [_lengthened(word) for word in arguments],
        prog="lavra plan",
        description="Say what a training will take in memory, time, energy and money, and what loss it will reach, "
        "before anything is spent.\nShort forms: " + ", ".join(f"{short} for {long}" for short, long in _SHORT.items()),
        examples=[
            "lavra plan mytext/ --budget 1h",
            "lavra plan mytext/ --budget 1h --pilot 5%",
            "lavra plan mytext/ --from runs/mine --budget 20m --pilot 10%",
            "lavra plan --model opt-125m --tokens 330M --hardware a100-40gb --efficiency 0.4 --price-per-hour 1.10",
            "lavra plan --calibrate runs/",
        ],
    )
    if request.calibrate is not None:
        from lavra.planning.scaling_law.past_runs import calibrate_from

        report = calibrate_from(request.calibrate)
        if as_json:
            print_json(report)
        else:
            print(report["file"])
        return 0
    from lavra.reports.forecast import show_outlook
    from lavra.workflows.planning.plan import plan

    outlook = plan(request)
    if as_json:
        print_json(outlook.to_json())
    else:
        print(show_outlook(outlook))
    return 0


def _lengthened(word: str) -> str:
    flag, equals, value = word.partition("=")
    return _SHORT.get(flag, flag) + equals + value
