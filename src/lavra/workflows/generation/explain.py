"""Showing what a model would generate next: the candidates for each token, and a picture of them for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from lavra.config.generation import GenerateOptions
from lavra.core.messages.catalogue import told, told_number
from lavra.generation.explaining import Step
from lavra.generation.explaining import explain as explain_prompt
from lavra.workflows.models.open import open_language_model


def explain(
    model: str, prompt: str, options: GenerateOptions | None = None, *, top: int = 10, device: str = "auto"
) -> list[Step]:
    """Generate a few tokens after a prompt, and return what the model and the filters made of each.

    Args:
        model: The location of the model: a run, a checkpoint or a model folder.
        prompt: The text to continue.
        options: Temperature, filters, seed and the number of tokens (`max_new_tokens`); the defaults of
            `GenerateOptions` if None.
        top: Number of most probable candidates to return for each token.
        device: Device that computes: auto, cpu, cuda or mps.

    Returns:
        One step for each generated token: its candidates with their probabilities before and after the filters, the
        entropies in bits, and how many tokens each filter kept.

    Raises:
        InputError: If there is no such model, or the prompt does not fit its context.

    Examples:
        >>> import lavra
        >>> steps = lavra.explain("runs/book", "Era uma", top=3)     # doctest: +SKIP
        >>> [one.text for one in steps[0].candidates]                # doctest: +SKIP
    """
    opened = open_language_model(model, device)
    return explain_prompt(opened.model, opened.tokenizer, prompt, options, top=top)


WIDTH = 30
"""Characters of a bar for a probability of 1."""

_EIGHTHS = " ▏▎▍▌▋▊▉"
"""The last character of a bar, by the eighths of a character that it fills."""


def explain_picture(steps: Sequence[Step]) -> str:
    """Return the steps as plain text: for each token its candidates with bars, and ▶ before the one that was taken.

    Args:
        steps: What `explain` returned.

    Returns:
        One paragraph for each step.
    """
    return "\n\n".join(_step(number, step) for number, step in enumerate(steps, 1))


def _step(number: int, step: Step) -> str:
    filters = ", ".join(f"{name.replace('_', '-')} keeps {count:,}" for name, count in step.kept_by.items())
    lines = [
        told(
            f"{number}. entropy {step.entropy:.2f} bits, with temperature {step.tempered_entropy:.2f}, "
            f"with filters {step.final_entropy:.2f}" + (f"; {filters}" if filters else "") + f"; {step.kept:,} left"
        ),
        f"     {'token':<16} {told('model'):>6}  {told('drawn'):>6}",
    ]
    for one in step.candidates:
        mark = "▶" if one.token == step.chosen else " "
        drawn = f"{told_number(f'{one.final:.1%}'):>6}" if one.final else "     –"
        sure = f"{told_number(f'{one.probability:.1%}'):>6}"
        lines.append(f"   {mark} {_shown(one.text):<16} {sure}  {drawn}  {_bar(one.probability)}".rstrip())
    if step.chosen not in {one.token for one in step.candidates}:
        lines.append(f"   ▶ {_shown(step.text):<16} {told('(less likely than these)')}")
    return "\n".join(lines)


def _shown(text: str) -> str:
    """Return the text of a token with its spaces made visible; `(end)` for the end of the document."""
    if not text:
        return "(end)"
    return repr(text)[1:-1].replace(" ", "␣")[:16]


def _bar(share: float) -> str:
    eighths = round(share * WIDTH * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
