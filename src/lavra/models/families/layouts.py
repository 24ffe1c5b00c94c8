"""How a tensor of ours is laid out in a family's file: whole, transposed, in parts, head by head.

Every layout is a pair of functions: `join` makes our tensor of the family's parts, `part` makes the parts of ours.
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
    """Both ways between our tensor and the family's parts of it; weights are (outputs, …), biases (outputs,)."""

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
    """Swap the two leading dimensions of (`parts`, size of a head, …)."""
    split = tensor.reshape(*parts, spec.size_of_head, *tensor.shape[1:])
    return split.transpose(0, 1).reshape(tensor.shape)


def _swap_halves(tensor: torch.Tensor, spec: DecoderSpec) -> torch.Tensor:
    """Swap the halves of every head, which turns a rotation by an angle into one by its negative."""
    heads = tensor.reshape(-1, 2, spec.size_of_head // 2, *tensor.shape[1:])
    return heads.flip(1).reshape(tensor.shape)


def _pairs_to_halves(tensor: torch.Tensor, spec: DecoderSpec) -> torch.Tensor:
    """Reorder the channels of every head from neighbours that are rotated together to halves that are."""
    heads = tensor.reshape(-1, spec.size_of_head // 2, 2, *tensor.shape[1:])
    return heads.transpose(1, 2).reshape(tensor.shape)


def _halves_to_pairs(tensor: torch.Tensor, spec: DecoderSpec) -> torch.Tensor:
    heads = tensor.reshape(-1, 2, spec.size_of_head // 2, *tensor.shape[1:])
    return heads.transpose(1, 2).reshape(tensor.shape)


SAME = Layout(lambda parts, spec: parts[0], lambda tensor, spec: [tensor])
"""The same tensor."""

TRANSPOSED = Layout(lambda parts, spec: _transpose(parts[0]), lambda tensor, spec: [_transpose(tensor)])
"""Weights as (inputs, outputs): GPT-2's Conv1D; a fused one holds queries, keys and values in our order."""

VOCABULARY = Layout(
    lambda parts, spec: _pad_vocabulary(parts[0], spec), lambda tensor, spec: [tensor[: spec.vocabulary]]
)
"""Rows per token id, without our padding rows."""

QUERY_KEY_VALUE = Layout(lambda parts, spec: torch.cat(parts), lambda tensor, spec: list(tensor.split(_widths(spec))))
"""Three tensors for our one."""

QUERY_KEY_VALUE_BACKWARDS = Layout(
    lambda parts, spec: torch.cat([_swap_halves(part, spec) for part in parts[:2]] + parts[2:]),
    lambda tensor, spec: [
        part if number == 2 else _swap_halves(part, spec) for number, part in enumerate(tensor.split(_widths(spec)))
    ],
)
"""Three tensors, of a family that rotates by the negative angle (NanoChat)."""

QUERY_KEY_VALUE_IN_PAIRS = Layout(
    lambda parts, spec: torch.cat([_pairs_to_halves(part, spec) for part in parts[:2]] + parts[2:]),
    lambda tensor, spec: [
        part if number == 2 else _halves_to_pairs(part, spec) for number, part in enumerate(tensor.split(_widths(spec)))
    ],
)
"""Three tensors, with neighbouring channels rotated together (Meta's own Llama files and llama2.c)."""

BY_HEAD = Layout(
    lambda parts, spec: _by_head(parts[0], spec, (spec.heads, 3)),
    lambda tensor, spec: [_by_head(tensor, spec, (3, spec.heads))],
)
"""One tensor with query, key and value of the first head, then of the second, …: GPT-NeoX and BLOOM."""

GATED = Layout(lambda parts, spec: torch.cat(parts), lambda tensor, spec: list(tensor.chunk(2)))
"""Two tensors, gate and value, for our one."""

POSITIONS_FROM_2 = Layout(
    lambda parts, spec: parts[0][2:],
    lambda tensor, spec: [torch.cat((tensor.new_zeros(2, tensor.shape[1]), tensor))],
)
"""OPT's learned positions: the first two rows are for padding and never reach a result."""
