"""`lavra explain`: what a model would write next, and what the filters keep of it."""

from __future__ import annotations

import dataclasses

from lavra.cli.options import parse, print_json
from lavra.config.inference import ExplainConfig


def main(arguments: list[str]) -> int:
    """Run `lavra explain …`."""
    request, as_json = parse(
        ExplainConfig,
        arguments,
        prog="lavra explain",
        description="Show, token by token, what a model would write next, how sure it is, and what temperature, top-k "
        "and top-p leave of its choice.",
        examples=[
            'lavra explain runs/book --prompt "Era uma" --steps 3',
            'lavra explain runs/book --prompt "Era uma" --temperature 0.5 --top-k 20 --json',
        ],
    )
    from lavra.workflows.generation.explain import explain, explain_picture

    steps = explain(request.model, request.prompt, request.options, top=request.top, device=request.device)
    if as_json:
        print_json({"prompt": request.prompt, "steps": [dataclasses.asdict(step) for step in steps]})
    else:
        print(explain_picture(steps))
    return 0
