"""Measurements of a model of `transformers` on a few tokens: its positions, its logits, and isolated documents."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.hf.kinds import quietly
from lavra.models.protocols import IGNORED, Batch, eval_mode

_LENGTHS = (5, 7)
_LARGE_LOGITS = 60.0
"""Size of the logits at which a model is tested for a cap; models that have one cap their logits at 15 to 30."""

_SATURATING = 1e4
"""Size of the logits at which every model that caps them reaches its cap."""

_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)
"""What classes of `transformers` raise for inputs that they cannot compute."""

_PADDING = 2
_TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest value, in float32 and in coarser types. A leak between documents
causes a far larger one."""
_COARSE = 5e-2


class Probed(Protocol):
    """The attributes of `lavra.models.hf.model.HFModel` that are read or set here."""

    inner: Any
    position_offset: int | None
    scale: float
    supports_packing: bool
    logit_cap: float | None
    _takes: frozenset[str]
    _head: Any

    def output_projection(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weight and the bias that the head applies."""
        ...

    @property
    def kind(self) -> str:
        """Decoder, encoder or encoder-decoder."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model knows."""
        ...

    @property
    def device(self) -> torch.device:
        """Device that holds the weights."""
        ...

    def features(self, batch: Batch, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Return the input of the head, (sequences, length, width)."""
        ...

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits, (…, vocabulary)."""
        ...


def measure(model: Probed) -> None:
    """Set the position offset of a model, the scale and the cap of its logits, and whether it isolates documents.

    Args:
        model: Model to measure and change in place.

    Raises:
        InputError: If its logits are not a matrix and a bias times its features, or if it is to predict the next token
            and sees it.
    """
    with quietly(), eval_mode(model), torch.no_grad():
        try:
            model.position_offset = _position_offset(model)
            if model.logit_cap is None:  # families name it differently in their configurations
                model.logit_cap = _cap(model)
            model.scale = _scale(model)
        except _FAILURES as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{type(model.inner).__name__} cannot compute a few tokens: {said}",
                "correct its config.json, or choose another model",
            ) from error
        if model.kind == "decoder":
            _refuse_looking_ahead(model)
        model.supports_packing = True
        model.supports_packing = _isolates(model)


def _documents(model: Probed) -> list[torch.Tensor]:
    """Return some (1, length) token ids without special tokens."""
    config = model.inner.config
    special = {value for name, value in vars(config).items() if name.endswith("_token_id") and isinstance(value, int)}
    usual = [number for number in range(min(model.vocabulary, 1000)) if number not in special] or [0]
    generator = torch.Generator(device="cpu").manual_seed(0)
    picked = [torch.randint(len(usual), (length,), generator=generator, device="cpu").tolist() for length in _LENGTHS]
    return [torch.tensor([[usual[place] for place in places]], device=model.device) for places in picked]


def _alone(model: Probed, ids: torch.Tensor, source: torch.Tensor) -> Batch:
    extra = {"encoder_inputs": source} if model.kind == "encoder-decoder" else {}
    return Batch(ids, torch.full_like(ids, IGNORED), model_inputs=extra)


def _position_offset(model: Probed) -> int | None:
    """Return what must be added to positions so that giving them changes nothing; None where nothing does that."""
    if "position_ids" not in model._takes:
        return None
    ids, source = _documents(model)
    plain = model.features(_alone(model, ids, source))
    padding = getattr(model.inner.config, "pad_token_id", None)
    for offset in (0, *(() if padding is None else (padding + 1,))):
        batch = _alone(model, ids, source)
        batch.positions = torch.arange(ids.shape[1], device=ids.device)[None]
        model.position_offset = offset
        try:
            same = _near(model.features(batch), plain, model)
        finally:
            model.position_offset = None
        if same:
            return offset
    return None


def _scale(model: Probed) -> float:
    """Return the factor that a model applies to its logits after the head."""
    ids, source = _documents(model)
    batch = _alone(model, ids, source)
    ours = model.head(model.features(batch)).double()
    arguments = _arguments(batch, source)
    theirs = model.inner(**arguments).logits.double()
    same_shape = ours.shape == theirs.shape
    capped = model.logit_cap is not None
    scale = float((ours * theirs).sum() / ours.square().sum()) if same_shape and ours.any() and not capped else 1.0
    scale = 1.0 if abs(scale - 1.0) < 1e-4 else scale
    if same_shape and _near(scale * ours, theirs, model) and _straight(model, batch, arguments, scale):
        return scale
    raise InputError(
        f"the logits of {type(model.inner).__name__} are not a matrix times its last hidden states",
        "a model that bends its logits after the head in its own way cannot be trained; choose another one",
    )


def _straight(model: Probed, batch: Batch, arguments: dict[str, torch.Tensor], scale: float) -> bool:
    """Return whether the head also explains large logits; small ones hardly show that a model caps them."""
    features = model.features(batch)
    factor = _LARGE_LOGITS / max(_largest(model, features), 1e-3)
    theirs = _enlarged(model, arguments, factor)
    return _near(scale * model.head(features * factor).double(), theirs, model)


def _cap(model: Probed) -> float | None:
    """Return the bound that very large logits reach, where a model caps them; None where they are not bound."""
    ids, source = _documents(model)
    batch = _alone(model, ids, source)
    largest, arguments = _largest(model, model.features(batch)), _arguments(batch, source)
    if not 0.0 < largest < _SATURATING:
        return None
    factor = _SATURATING / largest
    plain = float(model.inner(**arguments).logits.abs().max())
    found = float(_enlarged(model, arguments, factor).abs().max())
    return found if found < 0.5 * factor * plain and found < _SATURATING / 10 else None


def _arguments(batch: Batch, source: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the arguments with which the model itself computes the logits of a batch of one document."""
    if batch.model_inputs:
        return {"input_ids": source, "decoder_input_ids": batch.inputs}
    return {"input_ids": batch.inputs}


def _largest(model: Probed, features: torch.Tensor) -> float:
    """Return the size of the largest logit before anything is done to it after the head."""
    return float(F.linear(features, *model.output_projection()).abs().max())


def _enlarged(model: Probed, arguments: dict[str, torch.Tensor], factor: float) -> torch.Tensor:
    """Return the model's own logits where its head receives its input times a factor."""

    def enlarge(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (given[0] * factor, *given[1:])

    handle = model._head.register_forward_pre_hook(enlarge)
    try:
        return model.inner(**arguments).logits.double()
    finally:
        handle.remove()


def _refuse_looking_ahead(model: Probed) -> None:
    """Refuse a model that sees the tokens it is to predict; `transformers` opens some of them as decoders."""
    ids, _ = _documents(model)
    other = ids.clone()
    other[:, -1] = ids[:, 0] if int(ids[0, 0]) != int(ids[0, -1]) else ids[:, 1]
    before, after = (model.features(_alone(model, one, one))[:, :-1] for one in (ids, other))
    if not _near(after, before, model):
        raise InputError(
            f"{type(model.inner).__name__} is not causal: what it computes for a token depends on the tokens after it",
            "set is_decoder to true in its config.json where its family has that, or choose a decoder",
        )


def _isolates(model: Probed) -> bool:
    """Return whether two documents in one row, followed by padding, have the same features as each alone."""
    documents = _documents(model)
    sources = documents[::-1]
    apart = [model.features(_alone(model, *pair)) for pair in zip(documents, sources, strict=True)]
    inputs, document_ids, positions = _beside_each_other(documents)
    extra: dict[str, torch.Tensor] = {}
    if model.kind == "encoder-decoder":
        names = "encoder_inputs", "encoder_document_ids", "encoder_positions"
        extra.update(zip(names, _beside_each_other(sources), strict=True))
    batch = Batch(inputs, torch.full_like(inputs, IGNORED), document_ids, positions, model_inputs=extra)
    try:
        together = model.features(batch)
    except _FAILURES:
        return False
    return _near(together[:, : sum(_LENGTHS)], torch.cat(apart, 1), model)


def _beside_each_other(documents: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return inputs, document numbers and positions of one row that holds all documents and then padding."""
    padding = torch.zeros_like(documents[0][:, :_PADDING])
    inputs = torch.cat([*documents, padding], 1)
    document_ids = [torch.full_like(ids, number, dtype=torch.int32) for number, ids in enumerate(documents)]
    positions = [torch.arange(ids.shape[1], device=ids.device)[None] for ids in documents]
    return inputs, torch.cat([*document_ids, padding.int() - 1], 1), torch.cat([*positions, padding], 1)


def _near(one: torch.Tensor, other: torch.Tensor, model: Probed) -> bool:
    tolerance = _TOLERANCE if model.inner.dtype in (torch.float32, torch.float64) else _COARSE
    largest = float(other.abs().max().clamp(min=1e-30))
    return float((one - other).abs().max()) <= tolerance * largest
