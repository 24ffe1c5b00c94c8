"""`lavra score`: how likely options are after prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.cli.options import parse, print_json
from lavra.config.quantities import Choice
from lavra.core.errors import InputError


@dataclass
class _Score:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run, one of its checkpoints, or a model folder."""
    prompt: str = ""
    """The text before the options."""
    options: tuple[str, ...] = ()
    """What may come next; as a rule with a space at the beginning."""
    input: Annotated[str, tyro.conf.arg(name="in")] = ""
    """Instead: a file of JSON Lines with "prompt" and "options"."""
    by: Literal["sum", "token", "byte", "pmi"] = "sum"
    """Compare by the log-probability, that per token or per byte, or its gain over the neutral prompt."""
    neutral: str = ""
    """The prompt that says nothing, for --by pmi."""
    long_prompt: Literal["refuse", "window"] = "refuse"
    """Refuse prompts that do not fit the model's context, or leave their beginnings out."""
    bos: Choice = None
    """Read a beginning-of-text token before a prompt, or none (--bos, --no-bos); by default as the model's own
    tokenizer does it."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


def main(arguments: list[str]) -> int:
    """Run `lavra score …`."""
    request, as_json = parse(
        _Score,
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
    from lavra.core.progress import say
    from lavra.reports.formatting import text_table

    for one in scored:
        rows = [
            [repr(score.option), f"{score.log_probability:.3f}", str(score.tokens), f"{value:.3f}", f"{share:.1%}"]
            for score, value, share in zip(one.scores, one.values, one.probabilities, strict=True)
        ]
        print(text_table(["option", "log-probability", "tokens", request.by, "share"], rows))
        again = max(score.from_prompt for score in one.scores)
        if again:
            say(f"the options complete the prompt's last word: its last {again} tokens are scored along with each")
    return 0
