"""Techniques around the optimiser step, one file each. The order of a run's list is their nesting, outermost first."""

from lavra.training.updates.base import Outcome, Update, run_chain
from lavra.training.updates.clip import Clip

__all__ = ["Clip", "Outcome", "Update", "run_chain"]
