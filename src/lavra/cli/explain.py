"""`lavra explain`: what a model would write next, and what the filters keep of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.cli.options import parse, print_json
from lavra.config.generation import GenerateOptions
from lavra.config.quantities import Choice


@dataclass
class _Explain:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The model: a run, one of its checkpoints, or a model folder."""
    prompt: str = ""
    """The text that the model continues."""
    steps: int = 5
    """Number of tokens to generate and explain."""
    top: int = 10
    """Number of candidates to show for each token."""
    temperature: float = 0.8
    """Logits are divided by the temperature; 1 is the model's own distribution."""
    top_k: int = 0
    """Keep the k most probable tokens; 0 is off."""
    top_p: float = 0.95
    """Keep the fewest most probable tokens whose probabilities sum to this share (nucleus sampling); 1 is off."""
    min_p: float = 0.0
    """Keep tokens with at least this share of the highest probability; 0 is off."""
    typical_p: float = 1.0
    """Keep the fewest tokens of this total probability whose surprisal is nearest to the entropy; 1 is off."""
    greedy: bool = False
    """Always take the most probable token."""
    seed: int = 0
    """Seed of the sampling; the same seed gives the tokens of `lavra generate`."""
    long_prompt: Literal["refuse", "window"] = "refuse"
    """Stop at a prompt that does not fit the model's context (refuse), or read its end only (window)."""
    bos: Choice = None
    """Put a beginning-of-text token before the prompt (--bos) or none (--no-bos); by default as the model's own
    tokenizer does."""
    device: str = "auto"
    """Device that computes: auto, cpu, cuda or mps."""


def main(arguments: list[str]) -> int:
    """Run `lavra explain …`."""
    request, as_json = parse(
        _Explain,
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

    names = ("temperature", "top_k", "top_p", "min_p", "typical_p", "greedy", "seed", "long_prompt", "bos")
    how = GenerateOptions(max_new_tokens=request.steps, **{name: getattr(request, name) for name in names})
    steps = explain(request.model, request.prompt, how, top=request.top, device=request.device)
    if as_json:
        print_json({"prompt": request.prompt, "steps": [dataclasses.asdict(step) for step in steps]})
    else:
        print(explain_picture(steps))
    return 0
