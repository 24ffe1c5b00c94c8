"""Names of choices, importable without torch, so that the command line's help is quick."""

from __future__ import annotations

from typing import Literal

NewRows = Literal["mean", "focus"]
"""Initialisations of the embeddings of new tokens, when a model gets another vocabulary."""

Positions = Literal["rope", "learned", "alibi", "none"]
"""Position encodings of a decoder."""

Norm = Literal["layernorm", "rmsnorm"]
"""Normalisation layers."""

Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "geglu", "swiglu"]
"""Activations of the MLP; the last two are gated."""

ObjectiveName = Literal["auto", "causal", "answers", "seq2seq", "masked"]
"""Training objectives; `auto` takes what the model and the data allow."""

Shape = Literal["constant", "cosine", "linear", "wsd"]
"""Learning-rate schedules."""

OptimizerName = Literal["muon", "adamw"]
"""Optimisers; `muon` trains the matrices of the blocks with Muon and all else with AdamW."""

Policy = Literal["skip", "rollback", "stop"]
"""Reactions to a step whose loss or gradient is not finite."""
