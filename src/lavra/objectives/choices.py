"""Names of choices, importable without torch, so that the command line's help is quick."""

from typing import Literal

ObjectiveName = Literal["auto", "causal", "answers", "seq2seq", "masked"]
"""What is learned; `auto` is decided by the model and the data."""
