"""Floating-point operations of a training step, from the specification of a decoder or counted by operation."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lavra.models.native.building import count_parameters, parameters_of
from lavra.models.protocols import Batch
from lavra.models.replaced_tokens import generator_spec
from lavra.models.spec import GATED, DecoderSpec
from lavra.objectives.room import Room
from lavra.planning.machine.dry_run import bare_model, fake_tensors
from lavra.planning.machine.memory import LiveMemory


def matrix_parameters(spec: DecoderSpec) -> int:
    """Return the number of parameters by which a token is multiplied: the matrices of the blocks and the head.

    A mixture of experts has more, of which each token meets some; shared blocks have fewer, which it meets several
    times.

    Args:
        spec: Specification of a decoder.

    Examples:
        >>> matrix_parameters(DecoderSpec(vocabulary=512, context=64, depth=1, width=64, heads=1))
        81920
    """
    block, cross = _of_block(spec)
    embedding = spec.size_of_embedding
    projections = 2 * spec.width * embedding if embedding != spec.width or spec.factorized else 0
    projections += spec.width**2 if spec.head_transform and not spec.factorized else 0
    blocks = spec.depth * (block + cross) + spec.blocks_of_encoder * block
    return blocks + projections + embedding * spec.padded_vocabulary


def _of_block(spec: DecoderSpec) -> tuple[int, int]:
    """Return the parameters of the matrices of a block, and those of its attention to a source, which only an
    encoder-decoder has."""
    attention = spec.width * spec.size_of_head * 2 * (spec.heads + spec.key_value_heads)
    mlp = spec.width * spec.hidden_width * (3 if spec.activation in GATED else 2)
    if spec.experts:  # of the experts those that a token gets, and the router
        mlp = mlp * (spec.experts_per_token + spec.shared_experts) + spec.width * (spec.experts + spec.shared_gate)
    return attention + mlp, attention if spec.architecture == "encoder-decoder" else 0


def training_flops_per_token(
    spec: DecoderSpec, length: float | None = None, predicted: float = 1.0, source: float = 0
) -> float:
    """Return the FLOPs per token of a forward and a backward pass: 6 per matrix parameter, plus those of attention.

    Attention counts all length x length scores, as appendix B of PaLM does (arXiv 2204.02311), although a causal kernel
    may skip half of them.

    Args:
        spec: Specification of a decoder.
        length: Length of the sequence in tokens; by default the context of the specification.
        predicted: Share of the tokens at which the head is computed: of all, or of those that a masked objective hides.
        source: Length of the source in tokens, for each sequence of an encoder-decoder; 0 means that of the sequence.
            What the encoder computes is counted among the tokens of the decoder.

    Examples:
        >>> training_flops_per_token(DecoderSpec(vocabulary=512, context=64, depth=1, width=64, heads=1))
        540672.0
    """
    length = spec.context if length is None else length
    attention = 12.0 * spec.depth * spec.heads * spec.size_of_head * length
    left_out = (1.0 - predicted) * spec.size_of_embedding * spec.padded_vocabulary
    return 6.0 * (matrix_parameters(spec) - left_out) + attention + _of_encoder(spec, length, source or length)


def _of_encoder(spec: DecoderSpec, length: float, source: float) -> float:
    """Return what an encoder-decoder computes beyond 6 FLOPs per matrix parameter and the decoder's own scores.

    The matrices of the encoder, and those that make keys and values of the source, are multiplied once for each token
    of the source, and there are scores of the source with itself and of the decoder with the source.
    """
    if spec.architecture != "encoder-decoder":
        return 0.0
    block, _ = _of_block(spec)
    keys = 2 * spec.width * spec.size_of_head * spec.key_value_heads
    per_source = 6.0 * (spec.blocks_of_encoder * block + spec.depth * keys)
    scores = 12.0 * spec.heads * spec.size_of_head
    own = spec.blocks_of_encoder * scores * source * source / length
    return per_source * (source / length - 1.0) + own + spec.depth * scores * source


def text_flops_per_token(
    spec: DecoderSpec, room: Room, predicted: float = 1.0, length: int | None = None, source: int = 0
) -> float:
    """Return the FLOPs of a training step for each token of text, whatever an objective makes of the text.

    Args:
        spec: Specification of the model.
        room: What the objective makes of a text: how many positions are computed for it, how many of them are targets,
            and whether a generator learns beside the model.
        predicted: Share of the positions at which the head is computed, where the room does not say it.
        length: Length in tokens that attention sees, where the texts of a row are apart; None for the whole row.
        source: Length of the source in tokens, of an encoder-decoder that learns from sources and targets.

    Examples:
        >>> from lavra.objectives.room import Room
        >>> spec = DecoderSpec(vocabulary=512, context=64, depth=1, width=64, heads=1)
        >>> text_flops_per_token(spec, Room(64, 64)) == training_flops_per_token(spec)
        True
    """
    decoder, encoder = room.lengths or (room.growth, 0.0)
    positions = length or room.context * decoder
    share = predicted if room.targets is None else room.targets / decoder
    if room.generator:
        return decoder * _detection_flops(spec, room.generator, positions, share)
    read = source or room.context * encoder
    return decoder * training_flops_per_token(spec, positions, share, read)


def _detection_flops(spec: DecoderSpec, share: float, length: float, hidden: float) -> float:
    """Return the FLOPs for each token of a generator and of the detector beside it; a share of the tokens is hidden.

    The head is computed three times in the forward and backward pass of the generator, as always, and once more to draw
    its tokens; the detector has a linear layer with one output.
    """
    generator = generator_spec(spec, share)
    head = spec.size_of_embedding * spec.padded_vocabulary
    unused = spec.width**2 if spec.head_transform else 0
    detector = training_flops_per_token(spec, length, 0.0) + 6.0 * (spec.size_of_embedding - unused)
    return detector + training_flops_per_token(generator, length, 0.0) + 8.0 * hidden * head


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations per token of a forward and a backward pass.

    Attributes:
        parameters: Number of parameters of the model; shared ones count once.
        exact: FLOPs per token of text, counted by operation; attention counts all scores. What an objective makes of a
            text (sentinels, both sides of an encoder-decoder, a generator) is counted among its tokens.
        context: Length in tokens of the text that was counted.
    """

    parameters: int
    exact: float
    context: int

    @property
    def rule(self) -> float:
        """FLOPs per token by the rule of thumb 6·N (Kaplan et al. 2020, arXiv 2001.08361), N to three digits."""
        return 6.0 * float(f"{self.parameters:.3g}")

    def to_json(self) -> dict[str, Any]:
        """Return the count as JSON values, with the figure by the rule of thumb."""
        return asdict(self) | {"rule": self.rule}


def count_flops(model: DecoderSpec | Path, context: int, predicted: float = 1.0, room: Room | None = None) -> FlopCount:
    """Count the floating-point operations of a training step on one text; nothing is computed or allocated.

    Args:
        model: Shape of lavra's own decoder, or a Hugging Face model folder with a `config.json`.
        context: Length of the text in tokens.
        predicted: Share of the positions at which the head is computed.
        room: What the objective makes of the text; None for the text as it is.

    Raises:
        InputError: if the folder does not contain the configuration of a language model.
    """
    room = room or Room(context, context)
    if isinstance(model, DecoderSpec):
        return FlopCount(parameters_of(model), text_flops_per_token(model, room, predicted), context)
    return _counted(model, context, room, predicted)


def _counted(model: DecoderSpec | Path, context: int, room: Room | None = None, predicted: float = 1.0) -> FlopCount:
    """Count by operation, on one sequence without values."""
    from torch.utils.flop_counter import FlopCounterMode

    from lavra.objectives.cross_entropy import summed_cross_entropy

    decoder = 1.0 if room is None else (room.lengths or (room.growth, 0.0))[0]
    length = round(context * decoder)
    asked = predicted * length if room is None or room.targets is None else room.targets * context
    with ExitStack() as stack:
        if isinstance(model, DecoderSpec):
            stack.enter_context(torch.device("meta"))
        else:  # models of transformers read values of tensors, which meta tensors refuse and fake ones answer
            stack.enter_context(fake_tensors())
            stack.enter_context(LiveMemory(fake=True))
        network: Any = bare_model(model, "eager")
        tokens = torch.zeros(1, length, dtype=torch.int64)
        predicting = max(1, round(asked))
        with FlopCounterMode(display=False) as counter:
            features = network.features(Batch(tokens, tokens, weight=float(length)))[0, :predicting]
            weight, bias = network.output_projection()
            summed_cross_entropy(features, weight, tokens[0, :predicting], bias=bias).backward()
    return FlopCount(count_parameters(network), counter.get_total_flops() / context, context)
