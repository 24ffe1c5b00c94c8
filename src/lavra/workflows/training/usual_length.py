"""The length of a run that does not follow from its request alone: a usual one, and what measuring leaves of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.progress import log
from lavra.core.units import show_count
from lavra.tasks.base import Task
from lavra.workflows.training.autoconfig import given_seconds

LEAST_TOKENS = 100_000
"""Fewest tokens of such a run: new special tokens are not learned from less."""

MEASURING_SHARE = 0.15
"""Share of a time budget in which the labels are learned by which a model of a text is measured."""

_LINKS = 20
"""Most runs that are followed from a model to the one that it was trained from."""

Request = TypeVar("Request", bound=TrainConfig)


def with_usual_length(config: Request, task: Task, objective: str) -> Request:
    """Return a request with the usual length of its objective, in tokens; the same where it has a length of its own.

    Where it is not known how many tokens the base model was trained on, the request stays as it is, too, and that is
    said.

    Args:
        config: The request.
        task: The task.
        objective: The name of the objective.
    """
    share = task.share_of_pretraining(objective)
    given = any(getattr(config, name) is not None for name in ("budget", "tokens", "epochs", "steps"))
    if share is None or given or config.base is None:
        return config
    known = tokens_trained_on(config.base)
    if known is None:
        log(
            f"{objective} usually takes a small share of the pretraining ({share:.0%}), but nothing says on how many "
            f"tokens {config.base} was trained: the run has the usual time instead; --tokens or --budget sets another"
        )
        return config
    tokens = max(LEAST_TOKENS, round(share * known))
    told = f"{share:.0%} of the {show_count(known)} tokens that {config.base} was trained on"
    if tokens > share * known:
        told = f"more than {told}, because fewer teach nothing"
    log(f"{objective} goes on for {show_count(tokens)} tokens ({told}); --tokens or --budget sets another length")
    return replace(config, tokens=tokens)


def training_budget(config: Request) -> Request:
    """Return a request with what measuring leaves of its time budget; the same without rows to measure on.

    Args:
        config: The request.
    """
    seconds = given_seconds(config)
    if config.measure is None or seconds is None:
        return config
    return replace(config, budget=(1.0 - MEASURING_SHARE) * seconds)


def tokens_trained_on(location: str) -> int | None:
    """Return how many tokens a model was trained on, or None where that is not known.

    Args:
        location: The location of the model. Of a run the tokens are known, if those of its own base model are.
    """
    total, place = 0, location
    for _ in range(_LINKS):
        folder = Path(place)
        folder = folder.parent if folder.name == "model" and is_run(folder.parent) else folder
        if not is_run(folder):
            return None
        run = RunFolder(folder)
        tokens, plan = run.result.get("tokens"), run.plan
        if not isinstance(tokens, int) or plan.get("objective") not in ("causal", "fim"):
            return None
        total += tokens
        if plan.get("base") is None:
            return total
        place = str(plan["base"])
    return None
