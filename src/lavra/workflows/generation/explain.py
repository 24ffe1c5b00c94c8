"""Showing what a model would write next: the candidates, and a picture with the line that each filter draws."""

from __future__ import annotations

from collections.abc import Sequence

from lavra.config.generation import GenerateOptions
from lavra.generation.explaining import Step
from lavra.generation.explaining import explain as explain_prompt
from lavra.workflows.models.open import open_model


def explain(
    model: str, prompt: str, options: GenerateOptions | None = None, *, top: int = 10, device: str = "auto"
) -> list[Step]:
    """Return the steps that the model at `model` (a run, a checkpoint or a model folder) takes after a prompt.

    Raises:
        InputError: if there is no such model, or the prompt does not fit its context.
    """
    opened = open_model(model, device)
    return explain_prompt(opened.model, opened.tokenizer, prompt, options, top=top)


WIDTH = 30
_EIGHTHS = " ▏▎▍▌▋▊▉"


def explain_picture(steps: Sequence[Step]) -> str:
    """Return the picture for a terminal or a pipe: for each step its candidates, ▶ before the one that was taken."""
    return "\n\n".join(_step(number, step) for number, step in enumerate(steps, 1))


def _step(number: int, step: Step) -> str:
    filters = ", ".join(f"{name.replace('_', '-')} keeps {count:,}" for name, count in step.kept_by.items())
    lines = [
        f"{number}. entropy {step.entropy:.2f} bits, with temperature {step.tempered_entropy:.2f}, "
        f"with filters {step.final_entropy:.2f}" + (f"; {filters}" if filters else "") + f"; {step.kept:,} left",
        f"     {'token':<16} {'model':>6}  {'drawn':>6}",
    ]
    for one in step.candidates:
        mark = "▶" if one.token == step.chosen else " "
        drawn = f"{one.final:>6.1%}" if one.final else "     –"
        lines.append(
            f"   {mark} {_shown(one.text):<16} {one.probability:>6.1%}  {drawn}  {_bar(one.probability)}".rstrip()
        )
    if step.chosen not in {one.token for one in step.candidates}:
        lines.append(f"   ▶ {_shown(step.text):<16} (less likely than these)")
    return "\n".join(lines)


def _shown(text: str) -> str:
    """Return a token's text as one can see it: its spaces, and the end of the document."""
    if not text:
        return "(end)"
    return repr(text)[1:-1].replace(" ", "␣")[:16]


def _bar(share: float) -> str:
    eighths = round(share * WIDTH * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
