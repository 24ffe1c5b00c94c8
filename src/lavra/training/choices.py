"""Names of choices, importable without torch, so that the command line's help is quick."""

from typing import Literal

Shape = Literal["constant", "cosine", "linear", "wsd"]
"""Shapes of the learning rate over a run."""

OptimizerName = Literal["muon", "adamw"]
"""Optimisers."""

Policy = Literal["skip", "rollback", "stop"]
"""What to do about a step with numbers that are not finite."""
