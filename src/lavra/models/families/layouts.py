"""Layouts of our tensors in the files of a family: whole, transposed, in parts, or head by head.

Every layout is a pair of functions. `join` makes our tensor of the tensors of the family, and `part` does the reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lavra.models.spec import DecoderSpec

Join = Callable[[list[torch.Tensor], DecoderSpec], torch.Tensor]
Part = Callable[[torch.Tensor, DecoderSpec], list[torch.Tensor]]


@dataclass(frozen=True)
class Layout:
    """The conversion between a tensor of ours and those of a family, in both directions.

    Attributes:
        join: Function from the tensors of the family and our specification to our tensor.
        part: Function from our tensor and our specification to the tensors of the family. Weights are (outputs, inputs)
            and biases (outputs,).
    """

    join: Join
    part: Part


def _transpose(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.T if tensor.dim() == 2 else tensor


def _widths(spec: DecoderSpec) -> tuple[int, int, int]:
    keys = spec.key_value_heads * spec.size_of_head
    return spec.heads * spec.size_of_head, keys, keys


def _pad_vocabulary(tensor: torch.Tensor, spec: DecoderSpec) -> torch.Tensor:
    if len(tensor) != spec.vocabulary:
        return tensor  # of a wrong shape, which the import reports
    return torch.cat((tensor, tensor.new_zeros(spec.padded_vocabulary - spec.vocabulary, *tensor.shape[1:])))


def _by_head(tensor: torch.Tensor, spec: DecoderSpec, parts: tuple[int, int]) -> torch.Tensor:
    """Return the tensor with the two dimensions `parts`, into which its outputs are divided, exchanged."""
    split = tensor.reshape(*parts, spec.size_of_head, *tensor.shape[1:])
    return split.transpose(0, 1).reshape(tensor.shape)


def _swap_halves(tensor: torch.Tensor, spec: DecoderSpec) -> torch.Tensor:
    """Return the tensor with the halves of every head exchanged, which negates the angle of a rotation."""
    heads = tensor.reshape(-1, 2, spec.size_of_head // 2, *tensor.shape[1:])
    return heads.flip(1).reshape(tensor.shape)


def _pairs_to_halves(tensor: torch.Tensor, spec: DecoderSpec) -> torch.Tensor:
    """Return the tensor with channels reordered from rotated neighbours (as in GPT-J) to rotated halves (Llama)."""
    heads = tensor.reshape(-1, spec.size_of_head // 2, 2, *tensor.shape[1:])
    return heads.transpose(1, 2).reshape(tensor.shape)


def _halves_to_pairs(tensor: torch.Tensor, spec: DecoderSpec) -> torch.Tensor:
    heads = tensor.reshape(-1, 2, spec.size_of_head // 2, *tensor.shape[1:])
    return heads.transpose(1, 2).reshape(tensor.shape)


SAME = Layout(lambda parts, spec: parts[0], lambda tensor, spec: [tensor])
"""The same tensor in both."""

TRANSPOSED = Layout(lambda parts, spec: _transpose(parts[0]), lambda tensor, spec: [_transpose(tensor)])
"""Weights as (inputs, outputs), which is GPT-2's Conv1D; a fused one has queries, keys and values in our order."""

VOCABULARY = Layout(
    lambda parts, spec: _pad_vocabulary(parts[0], spec), lambda tensor, spec: [tensor[: spec.vocabulary]]
)
"""A row for each token, without our padding rows."""

QUERY_KEY_VALUE = Layout(lambda parts, spec: torch.cat(parts), lambda tensor, spec: list(tensor.split(_widths(spec))))
"""Three tensors, for queries, keys and values, where we have one."""

KEY_VALUE = Layout(lambda parts, spec: torch.cat(parts), lambda tensor, spec: list(tensor.chunk(2)))
"""Two tensors, for keys and values, where we have one."""

QUERY_KEY_VALUE_BACKWARDS = Layout(
    lambda parts, spec: torch.cat([_swap_halves(part, spec) for part in parts[:2]] + parts[2:]),
    lambda tensor, spec: [
        part if number == 2 else _swap_halves(part, spec) for number, part in enumerate(tensor.split(_widths(spec)))
    ],
)
"""Three tensors, for queries, keys and values, in a family that rotates by the negative angle (NanoChat)."""

QUERY_KEY_VALUE_IN_PAIRS = Layout(
    lambda parts, spec: torch.cat([_pairs_to_halves(part, spec) for part in parts[:2]] + parts[2:]),
    lambda tensor, spec: [
        part if number == 2 else _halves_to_pairs(part, spec) for number, part in enumerate(tensor.split(_widths(spec)))
    ],
)
"""Three tensors, for queries, keys and values, with neighbouring channels rotated together (Meta's Llama files and
llama2.c)."""

BY_HEAD = Layout(
    lambda parts, spec: _by_head(parts[0], spec, (spec.heads, 3)),
    lambda tensor, spec: [_by_head(tensor, spec, (3, spec.heads))],
)
"""One tensor with query, key and value of the first head, then of the second, and so on (GPT-NeoX and BLOOM)."""

GATED = Layout(lambda parts, spec: torch.cat(parts), lambda tensor, spec: list(tensor.chunk(2)))
"""Two tensors, for gate and value, where we have one."""

LESS_ONE = Layout(lambda parts, spec: parts[0] + 1.0, lambda tensor, spec: [tensor - 1.0])
"""Gains that are stored less one (Gemma)."""

POSITIONS_FROM_2 = Layout(
    lambda parts, spec: parts[0][2:],
    lambda tensor, spec: [torch.cat((tensor.new_zeros(2, tensor.shape[1]), tensor))],
)
"""Learned positions of OPT, whose first two rows are for padding and never affect a result."""
