"""Names of choices, importable without torch, so that the command line's help is quick."""

from typing import Literal

NewRows = Literal["mean", "focus"]
"""How the rows of new tokens begin when a model gets another vocabulary."""

Positions = Literal["rope", "learned", "alibi", "none"]
Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "geglu", "swiglu"]
