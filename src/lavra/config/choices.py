"""The names that options with a fixed set of values accept.

They stand here as `Literal` types, apart from the code that acts on them, because the command line's help needs them
and must not import torch.
"""

from __future__ import annotations

from typing import Literal

# The model.

NewRows = Literal["mean", "focus"]
"""How the embeddings of new tokens are initialised when a model gets another vocabulary: `mean` averages the embeddings
of the token's old parts, `focus` averages those of tokens that are used alike (FOCUS, arXiv 2305.14481)."""

Architecture = Literal["decoder", "encoder", "encoder-decoder"]
"""What a model of lavra's own is: a decoder, whose tokens see those before them and which writes text; an encoder,
whose tokens see the text on both sides and which reads it; or an encoder-decoder, which reads one text and writes
another."""

Positions = Literal["rope", "learned", "alibi", "relative", "none"]
"""The position encodings that a model of lavra's own can have; `relative` is the learned bias of T5."""

Extension = Literal["auto", "none", "linear", "llama3", "tile", "interpolate"]
"""How a pretrained model reads sequences longer than its window. Rotary positions: `linear` slows every rotation
(position interpolation), `llama3` only those that do not turn within the old window, and `none` none. Learned
positions: `tile` repeats the table, and `interpolate` stretches it. `auto` is llama3 and tile."""

Norm = Literal["layernorm", "rmsnorm"]
"""The normalisation layers that a model of lavra's own can have."""

NormPlacement = Literal["before", "after", "both"]
"""Where the norms of a block stand: before attention and MLP, after each sum, or before and after attention and MLP
(sandwich norm)."""

Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "geglu", "geglu_tanh", "swiglu"]
"""The activation functions of the feed-forward layers; `relu2` is the squared ReLU, and `…_tanh` the approximation of
GELU by a tanh."""

# The optimisation.

Shape = Literal["constant", "cosine", "linear", "wsd"]
"""The shapes of the learning-rate schedule after the warm-up; `wsd` is warm-up, stable, decay."""

OptimizerName = Literal["muon", "adamw", "lion", "adafactor", "soap", "shampoo", "schedule-free-adamw", "adamw-8bit"]
"""The optimisers; muon, soap and shampoo take the matrices inside the blocks, and leave the rest to AdamW."""

Policy = Literal["skip", "rollback", "stop"]
"""What a run does about a step whose loss or gradient is not finite."""
