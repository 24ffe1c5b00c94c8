"""Surgery on the positions of a pretrained model: another encoding, and longer sequences than it was made for.

The weights of the model stay what they are but for its positions, so that training goes on from what it knows.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lavra.config.choices import Extension, Positions
from lavra.core.errors import InputError
from lavra.models.heads import ATTRIBUTE
from lavra.models.native.decoder import Decoder
from lavra.models.native.store import decoder_from, weights_to_save
from lavra.models.spec import DecoderSpec

_TABLE = "position_embedding.weight"

NAMES = {
    "rope": "rotary positions",
    "learned": "learned positions",
    "alibi": "ALiBi",
    "relative": "relative positions",
    "none": "no positions",
}
"""What people call each position encoding."""

_WAYS: dict[str, tuple[Extension, ...]] = {"rope": ("llama3", "linear", "none"), "learned": ("tile", "interpolate")}
"""Ways to read longer sequences, the usual one first, by the position encoding; others need none."""


def operated_spec(
    spec: DecoderSpec, positions: Positions | None = None, context: int | None = None, extension: Extension = "auto"
) -> tuple[DecoderSpec, tuple[str, ...]]:
    """Return the specification of a model with other positions or a longer context, and what changes in words.

    Args:
        spec: Specification of the pretrained model.
        positions: Position encoding: rope, alibi or none; None keeps that of the model.
        context: Largest number of tokens of a sequence; None and numbers that are not above that of the model keep it.
        extension: How longer sequences are read; auto takes the usual way for the position encoding.

    Returns:
        The specification, and one clause for each change; none where nothing changes.

    Raises:
        InputError: If the positions have weights that the model lacks, or the way does not fit the positions.

    Examples:
        >>> spec, words = operated_spec(DecoderSpec(context=512, positions="learned"), "alibi", 1024)
        >>> spec.positions, spec.context
        ('alibi', 1024)
        >>> words[0]
        'ALiBi instead of learned positions, whose mean is added to the embeddings'
        >>> operated_spec(DecoderSpec(context=512), context=2048)[1]
        ('a context of 2,048 tokens instead of 512, by rotary positions slowed by 4 as in Llama 3',)
    """
    changed, words = spec, []
    if positions is not None and positions != spec.positions:
        _refuse_positions(spec, positions)
        changed = replace(spec, positions=positions, rope_scaling=1.0, rope_scaling_context=0, rope_local_base=0.0)
        kept = ", whose mean is added to the embeddings" if _keeps_mean(spec) else ""
        words.append(f"{NAMES[positions]} instead of {NAMES[spec.positions]}{kept}")
    if context is not None and context > spec.context:
        fresh = changed.positions != spec.positions
        changed, how = _lengthened(changed, context, extension, fresh=fresh)
        words.append(f"a context of {context:,} tokens instead of {spec.context:,}{how}")
    return changed, tuple(words)


def _refuse_positions(spec: DecoderSpec, positions: Positions) -> None:
    if spec.architecture == "encoder-decoder":
        raise InputError(
            f"an encoder-decoder keeps its {NAMES[spec.positions]}, which both of its sides read",
            "leave out --model.positions",
        )
    if positions in ("learned", "relative"):
        raise InputError(
            f"--model.positions {positions} needs weights that the model does not have: it has {NAMES[spec.positions]}",
            "give alibi, rope or none, or train a model from scratch",
        )


def _lengthened(spec: DecoderSpec, context: int, extension: Extension, *, fresh: bool) -> tuple[DecoderSpec, str]:
    """Return the specification for a longer context, and how it comes about.

    Args:
        spec: Specification whose positions are those of the changed model.
        context: Longer context.
        extension: How longer sequences are read.
        fresh: Whether the positions are new to the model, so that no window is what it was trained for.
    """
    way = _way(spec, extension, fresh=fresh)
    longer = replace(spec, context=context)
    if spec.positions == "learned":
        return longer, ", by repeating the learned ones" if way == "tile" else ", by stretching the learned ones"
    if spec.positions != "rope" or way == "none":
        return longer, ", by rotary positions that are not slowed" if spec.positions == "rope" and not fresh else ""
    factor = context / spec.context
    if way == "linear":
        return replace(longer, rope_scaling=spec.rope_scaling * factor), f", by rotary positions slowed by {factor:.4g}"
    known = spec.rope_scaling_context or spec.context
    return (
        replace(longer, rope_scaling=spec.rope_scaling * factor, rope_scaling_context=known),
        f", by rotary positions slowed by {factor:.4g} as in Llama 3",
    )


def _way(spec: DecoderSpec, extension: Extension, *, fresh: bool) -> Extension:
    """Return the way to read longer sequences, with `auto` resolved."""
    ways = _WAYS.get(spec.positions, ("none",))
    if extension == "auto":
        slowed: Extension = "llama3" if spec.rope_scaling_context else "linear"
        return "none" if fresh else slowed if spec.rope_scaling != 1.0 else ways[0]
    if extension not in ways:
        raise InputError(
            f"--model.extension {extension} does not fit {NAMES[spec.positions]}", f"give {' or '.join(ways)}"
        )
    if spec.rope_scaling != 1.0 and extension == ("linear" if spec.rope_scaling_context else "llama3"):
        raise InputError(
            f"the rotary positions of the model are slowed already, and in another way than {extension}",
            "leave out --model.extension, which goes on in the model's own way",
        )
    return extension


def _keeps_mean(spec: DecoderSpec) -> bool:
    """Return whether the mean of the learned positions can be added to the embeddings and changes no prediction.

    In a tied head it adds the same number to every logit, which a softmax does not see, but a bound on logits does.
    """
    fits = spec.factorized or spec.size_of_embedding == spec.width
    return spec.positions == "learned" and fits and not spec.ngram_copy and not (spec.tied and spec.logit_cap)


def operated(model: Decoder, spec: DecoderSpec, extension: Extension = "auto") -> Decoder:
    """Return a model of the specification that `operated_spec` returned for that of a pretrained one.

    All other weights are those of the pretrained model, in the same memory. A head of a task is left out.

    Args:
        model: Pretrained model, which stays as it is.
        spec: Specification of the changed model.
        extension: How longer sequences are read, as `operated_spec` got it.
    """
    weights = weights_without_head(model)
    table = weights.get(_TABLE)
    if table is not None and spec.positions == "learned" and spec.context > model.spec.context:
        way = _way(model.spec, extension, fresh=False)
        weights[_TABLE] = extended_table(table, spec.context, stretched=way == "interpolate")
    elif table is not None and spec.positions != "learned":
        del weights[_TABLE]
        if _keeps_mean(model.spec):
            rows = weights["embedding.weight"].clone()
            rows[: spec.vocabulary] += table.mean(0) / spec.embedding_scale
            weights["embedding.weight"] = rows
    return decoder_from(spec, weights, "the changed model").train(model.training)


def weights_without_head(model: Decoder) -> dict[str, torch.Tensor]:
    """Return the weights of a model by name, without those of the head of a task.

    Args:
        model: Model whose weights are returned; they are not copied.
    """
    return {name: weight for name, weight in weights_to_save(model).items() if not name.startswith(f"{ATTRIBUTE}.")}


def extended_table(table: torch.Tensor, rows: int, *, stretched: bool) -> torch.Tensor:
    """Return a table of learned positions for longer sequences.

    Args:
        table: Row of each position, (positions, width).
        rows: Number of rows of the new table.
        stretched: Whether the rows between the first and the last are interpolated, so that the new positions lie
            between the old ones; otherwise the table is repeated, so that short texts are read as before.

    Examples:
        >>> table = torch.tensor([[0.0], [2.0], [4.0]])
        >>> extended_table(table, 5, stretched=True).flatten().tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0]
        >>> extended_table(table, 5, stretched=False).flatten().tolist()
        [0.0, 2.0, 4.0, 0.0, 2.0]
    """
    old = len(table)
    if not stretched:
        return table[torch.arange(rows, device=table.device) % old]
    places = torch.arange(rows, dtype=torch.float64, device=table.device) * (old - 1) / max(1, rows - 1)
    below = places.long()
    return torch.lerp(table[below], table[(below + 1).clamp(max=old - 1)], (places - below)[:, None].to(table.dtype))
