"""`lavra score`: how likely options are after prompts."""

from __future__ import annotations

from lavra.cli.options import parse, print_json, say_last, show
from lavra.config.inference import ScoreConfig
from lavra.core.errors import InputError
from lavra.core.program import command, without_display_flags


def main(arguments: list[str]) -> int:
    """Run `lavra score …`."""
    request, as_json = parse(
        ScoreConfig,
        arguments,
        prog="lavra score",
        description="Measure how likely each of some options is after a prompt.",
        examples=[
            'lavra score runs/book --prompt "The capital of France is" --options " Paris" " London"',
            "lavra score runs/book --in questions.jsonl --by byte --json",
        ],
    )
    if bool(request.input) == bool(request.options):
        raise InputError("score wants either --options or --in", 'for instance --options " yes" " no"')
    from lavra.workflows.generation.score import score, score_file

    how = {name: getattr(request, name) for name in ("by", "neutral", "long_prompt", "bos", "device")}
    if request.input:
        scored = score_file(request.model, request.input, **how)
    else:
        scored = score(request.model, [request.prompt], [request.options], **how)
    if as_json:
        print_json({"prompts": [one.to_json() for one in scored]})
        return 0
    from lavra.core.progress import log
    from lavra.reports.formatting import text_table

    for one in scored:
        rows = [
            [repr(score.option), f"{score.log_probability:.3f}", str(score.tokens), f"{value:.3f}", f"{share:.1%}"]
            for score, value, share in zip(one.scores, one.values, one.probabilities, strict=True)
        ]
        show(text_table(["option", "log-probability", "tokens", request.by, "share"], rows))
        again = max(score.from_prompt for score in one.scores)
        if again:
            tokens = "token is scored" if again == 1 else f"{again} tokens are scored"
            log(f"the options complete the prompt's last word: its last {tokens} along with each")
    kept = command("score", *without_display_flags(arguments), "--json")
    say_last(
        ("result", f"printed above, and not kept; {kept} > scores.json keeps it"),
        ("explain", command("explain", request.model, "--prompt", scored[0].prompt if scored else "…")),
    )
    return 0
