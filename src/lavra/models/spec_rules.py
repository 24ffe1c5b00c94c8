"""Which values of a specification can stand together: whatever no model of lavra's own can be is refused in words."""

from __future__ import annotations

from typing import Any

from lavra.core.errors import InputError


def refuse_impossible(spec: Any) -> None:
    """Raise an error for a specification that no model can have.

    Args:
        spec: `lavra.models.spec.DecoderSpec`, which this module cannot import because it is used by it.

    Raises:
        InputError: If a value is out of range or two values contradict each other.
    """
    _refuse_sizes(spec)
    _refuse_positions(spec)
    _refuse_blocks(spec)
    _refuse_embeddings(spec)
    _refuse_what_is_for_decoders(spec)
    _refuse_impossible_experts(spec)


def _refuse_sizes(spec: Any) -> None:
    for name in ("vocabulary", "context", "depth", "width", "heads"):
        least = 0 if name == "depth" and spec.architecture == "encoder" else 1
        if getattr(spec, name) < least:
            raise InputError(f"model.{name} is {getattr(spec, name)}; it must be at least {least}")
    if not spec.head_width and spec.width % spec.heads:
        raise InputError(
            f"model.width {spec.width} is not divisible by model.heads {spec.heads}",
            "choose a width that is a multiple of the number of heads, or set model.head_width",
        )
    if spec.heads % spec.key_value_heads:
        raise InputError(
            f"model.heads {spec.heads} is not a multiple of model.kv_heads {spec.kv_heads}",
            "each key and value head serves the same number of query heads",
        )
    if not 0.0 <= spec.dropout < 1.0:
        raise InputError(f"model.dropout is {spec.dropout}; it must be at least 0 and below 1")


def _refuse_positions(spec: Any) -> None:
    if spec.positions == "rope" and spec.rotary_width % 2:
        raise InputError(
            f"the rotated part of a head is {spec.rotary_width} wide; rotary positions need an even width",
            "change model.heads, model.head_width or model.rope_fraction",
        )
    if spec.rope_scaling < 1.0:
        raise InputError(f"model.rope_scaling is {spec.rope_scaling}; it must be at least 1")
    if spec.relative_buckets < 4 or spec.relative_distance <= spec.relative_buckets:
        raise InputError(
            f"model.relative_distance {spec.relative_distance} must be above model.relative_buckets "
            f"{spec.relative_buckets}, which must be at least 4"
        )
    if spec.window < 0 or spec.rope_local_base < 0 or not 0 <= spec.global_first < max(1, spec.global_every):
        raise InputError(
            f"model.window {spec.window}, model.rope_local_base {spec.rope_local_base}, model.global_every "
            f"{spec.global_every} and model.global_first {spec.global_first} do not fit together",
            "none may be negative, and model.global_first must be below model.global_every",
        )


def _refuse_blocks(spec: Any) -> None:
    if (spec.parallel or spec.normformer) and spec.norm_placement != "before":
        raise InputError(
            f"model.{'parallel' if spec.parallel else 'normformer'} needs model.norm_placement before",
            "branches in parallel read one normalised input, and NormFormer has norms of its own; choose one",
        )
    if spec.deepnorm and spec.norm_placement != "after":
        raise InputError("model.deepnorm needs model.norm_placement after", "choose both, or neither")
    if spec.value_residual and spec.shared_blocks:
        raise InputError(
            "model.value_residual mixes the values of different blocks, and model.shared_blocks makes them one",
            "choose one of them",
        )
    if min(spec.attention_cap, spec.logit_cap, spec.shared_blocks) < 0 or spec.shared_blocks > spec.depth:
        raise InputError(
            f"model.attention_cap {spec.attention_cap}, model.logit_cap {spec.logit_cap} and model.shared_blocks "
            f"{spec.shared_blocks} must be at least 0, and the last at most model.depth"
        )
    if spec.own_norms and not (spec.shared_blocks and spec.norm_weight):
        raise InputError(
            "model.own_norms gives every depth norms with gains of its own where blocks are shared",
            "set model.shared_blocks and norms with gains, or leave out model.own_norms",
        )
    if not spec.first_norm and (spec.parallel or spec.norm_placement == "after" or spec.shared_blocks):
        raise InputError(
            "model.first_norm can be left out only where norms stand before branches that follow each other",
            "keep model.first_norm, or leave out model.parallel, model.norm_placement and model.shared_blocks",
        )
    if spec.qk_norm_whole and not spec.qk_norm:
        raise InputError("model.qk_norm_whole says what model.qk_norm is over", "set both, or neither")


def _refuse_embeddings(spec: Any) -> None:
    if spec.bigram_embedding < 0:
        raise InputError(f"model.bigram_embedding is {spec.bigram_embedding}; it must be at least 0")
    if spec.ngram_copy and (spec.size_of_embedding != spec.width or spec.factorized):
        raise InputError(
            f"model.ngram_copy adds rows of the head, {spec.size_of_embedding} wide, to a stream of {spec.width}",
            "leave out model.embedding_width or model.ngram_copy",
        )
    if spec.factorized and (spec.architecture != "encoder" or not spec.head_transform):
        raise InputError(
            "model.factorized is for an encoder with a transform before its head, which goes back to the narrow width",
            "set model.head_transform, or leave out model.factorized",
        )


def _refuse_impossible_experts(spec: Any) -> None:
    if min(spec.experts, spec.shared_experts, spec.balance_loss) < 0:
        raise InputError("model.experts, model.shared_experts and model.balance_loss must be at least 0")
    if not spec.experts:
        if spec.shared_experts or spec.balance_loss or spec.balance_bias or spec.shared_gate:
            raise InputError(
                "model.shared_experts, model.shared_gate, model.balance_loss and model.balance_bias are for a mixture "
                "of experts",
                "set model.experts, or leave them out",
            )
        return
    if spec.shared_gate and not spec.shared_experts:
        raise InputError(
            "model.shared_gate weighs what shared experts give", "set model.shared_experts, or leave it out"
        )
    if not 1 <= spec.experts_per_token <= spec.experts:
        raise InputError(
            f"model.experts_per_token is {spec.experts_per_token}; it must be at least 1, and at most "
            f"model.experts, {spec.experts}"
        )
    if spec.experts_per_token == 1 < spec.experts and spec.expert_normalized:
        raise InputError(
            "the router of one expert for each token learns nothing where its weight is always 1",
            "set model.no-expert-normalized, or model.experts_per_token 2",
        )
    if spec.balance_bias and spec.experts_per_token == spec.experts:
        raise InputError("model.balance_bias changes nothing where every token gets every expert", "leave it out")


def _refuse_what_is_for_decoders(spec: Any) -> None:
    if spec.architecture != "decoder" and spec.ngram_copy:
        raise InputError(
            "model.ngram_copy is for decoders: it looks up what followed a token", f"no {spec.architecture} has it"
        )
    lacking = {
        "positions learned": spec.positions == "learned",
        "window": bool(spec.window),
        "parallel": spec.parallel,
        "norm_placement both": spec.norm_placement == "both",
        "normformer": spec.normformer,
        "deepnorm": spec.deepnorm,
        "value_residual": spec.value_residual,
        "shared_blocks": bool(spec.shared_blocks),
        "bigram_embedding": bool(spec.bigram_embedding),
    }
    if spec.architecture == "encoder-decoder" and any(lacking.values()):
        name = next(name for name, given in lacking.items() if given)
        raise InputError(f"an encoder-decoder has no model.{name}", "leave it out, or choose another architecture")
