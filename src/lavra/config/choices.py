"""Names of choices, importable without torch, so that the command line's help is quick."""

from __future__ import annotations

from typing import Literal

NewRows = Literal["mean", "focus"]
"""How the rows of new tokens begin when a model gets another vocabulary."""

Positions = Literal["rope", "learned", "alibi", "none"]
Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "geglu", "swiglu"]


# Names of choices, importable without torch, so that the command line's help is quick.

ObjectiveName = Literal["auto", "causal", "answers", "seq2seq", "masked"]
"""What is learned; `auto` is decided by the model and the data."""


# Names of choices, importable without torch, so that the command line's help is quick.

Shape = Literal["constant", "cosine", "linear", "wsd"]
"""Shapes of the learning rate over a run."""

OptimizerName = Literal["muon", "adamw"]
"""Optimisers."""

Policy = Literal["skip", "rollback", "stop"]
"""What to do about a step with numbers that are not finite."""
