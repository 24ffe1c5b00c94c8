"""What a plan says in words beside its figures: what is wrong with the request, and what would be better."""

from __future__ import annotations

from lavra.core.units import show_duration, show_size
from lavra.planning.budget import vocabulary_for
from lavra.planning.builtin_law import GAIN_OF_PAIRS, GAIN_OF_RECALL
from lavra.planning.outlook import Outlook
from lavra.planning.repetition import repetition_note
from lavra.recipes.beginning import PAIRS_UNTIL
from lavra.recipes.plan_request import PlanRequest

COMFORTABLE_BUDGET = 30.0
"""Seconds of a budget from which on start-up, the probe and the last evaluation are a small part of it."""

_PAIRS, _BYTES_OF_A_WEIGHT = 65536, 18
"""Rows of a table that suits short runs; a master, its gradient, two averages and a working copy in 16 bits."""


def notes_on(request: PlanRequest, outlook: Outlook) -> list[str]:
    """Return the warnings and explanations that belong to an outlook, a sentence or two each."""
    notes: list[str] = []
    text, model = outlook.text, outlook.model
    if outlook.epochs is not None and (note := repetition_note(outlook.epochs)):
        notes.append(note)
    if text is not None and request.base is None:
        wanted = vocabulary_for(model.vocabulary, text.text_bytes)
        if wanted < model.vocabulary:
            notes.append(
                f"{text.text_bytes / 1e6:.2f} MB of text are little for a vocabulary of {model.vocabulary}: its rarest "
                f"tokens occur only a few times. {wanted} fits this text (--text.vocabulary {wanted})"
            )
    if request.budget is not None and request.budget < COMFORTABLE_BUDGET:
        notes.append(
            f"of a budget of {show_duration(request.budget)}, start-up, probe and evaluation take a large part; "
            f"from {COMFORTABLE_BUDGET:.0f}s on, most of it is training"
        )
    if not outlook.memory.fits:
        remedies = "; ".join(outlook.memory.would_fit) or "only a smaller model: see --model"
        notes.append(f"this does not fit into the memory of {outlook.hardware.name}. What would fit: {remedies}")
    if outlook.steps < 50 and outlook.memory.fits:
        notes.append(f"{outlook.steps} steps are few: a smaller model, or smaller steps, would learn more in this time")
    if request.base is None and model.chosen and outlook.tokens <= PAIRS_UNTIL * model.vocabulary:
        memory = show_size(_PAIRS * model.width * _BYTES_OF_A_WEIGHT)
        notes.append(
            f"lavra train --model.recall, which looks up what followed tokens earlier in their document, would take "
            f"about {1 - GAIN_OF_RECALL:.0%} off the bits per byte, and --model.pairs {_PAIRS}, a table of pairs of "
            f"tokens, {1 - GAIN_OF_PAIRS:.0%} more, for {memory} of memory; no other program reads such models"
        )
    return notes
