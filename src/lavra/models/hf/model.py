"""A `transformers` model behind the model contract."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.contract import Batch, device_of
from lavra.models.hf.caching import Cached
from lavra.models.hf.kinds import Kind, freeze_unused, meant_tied
from lavra.models.hf.packing import Packing, packed, places, position_tables
from lavra.models.hf.probe import measure

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Wrapped(Cached):
    """A decoder, encoder or encoder-decoder of `transformers` that answers the model contract.

    It is the model itself: parameters have its names after `inner.`, tied ones stay tied, and nothing is copied. In a
    batch for an encoder-decoder the inputs are the decoder's; the encoder's are `encoder_inputs`, `encoder_segments`
    and `encoder_positions` in `extra`, and a decoder's segment reads the encoder's segment of the same number.

    Args:
        inner: with a language-model head.
        kind: what it is.

    Attributes:
        inner: the model.
        kind: what it is.
        isolates: whether a packed batch equals its documents one by one, measured on a few tokens. Where it does not,
            each row of a batch holds one document.
        position_offset: what the model adds to positions before it is given them (RoBERTa's begin at 2); None for a
            model that is not given any.
        scale: what its logits are multiplied by after the head.
        logit_cap: what its logits are bent to after that, see `lavra.models.contract.logit_cap_of`.
        tied: whether the head is meant to be the embedding of the inputs: its configuration says so, and they do not
            differ. (Of T5 1.1 `transformers` says so too, although its files hold two matrices.)
        unused: names of the parameters that predicting tokens has no use for (poolers); they are frozen.

    Raises:
        InputError: if it has no head, or one that a matrix and a bias cannot express.
    """

    def __init__(self, inner: PreTrainedModel, kind: Kind) -> None:
        super().__init__()
        self.inner = inner
        self.kind: Kind = kind
        self._takes = frozenset(inspect.signature(inner.forward).parameters)
        if not isinstance(inner.get_output_embeddings(), nn.Linear):
            raise InputError(
                f"{type(inner).__name__} has no language-model head", "give a model that predicts tokens (…ForCausalLM)"
            )
        self.position_offset: int | None = None
        self.scale, self.isolates = 1.0, False
        self.logit_cap = getattr(inner.config.get_text_config(decoder=True), "final_logit_softcapping", None)
        self.tied = meant_tied(inner)
        self.unused = frozenset(f"inner.{name}" for name in freeze_unused(inner))
        self.train(inner.training)
        measure(self)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the features, as `features` does."""
        return self.features(batch)

    def features(self, batch: Batch) -> torch.Tensor:
        """Return (rows, length, width): what the head is given, so with all that the model computes before it.

        Raises:
            InputError: if a row holds several documents and the model cannot keep them apart.
        """
        arguments: dict[str, Any] = {}
        read = None
        if self.kind == "encoder-decoder":
            read = batch.extra.get("encoder_segments")
            if read is None and batch.segments is not None:
                read = torch.zeros_like(batch.extra["encoder_inputs"])
            # BERT's kin make no mask for cross-attention, which a packing could narrow, unless they are given one.
            mask = torch.ones_like(read) if read is not None and self.isolates else self._padding_mask(read)
            arguments = {"encoder_outputs": self.encode(batch), "attention_mask": mask}
            names = "decoder_input_ids", "decoder_attention_mask"
        else:
            names = "input_ids", "attention_mask"
        arguments |= {names[0]: batch.inputs, names[1]: self._padding_mask(batch.segments)}
        if "use_cache" in self._takes:
            arguments["use_cache"] = False
        segments, read = (batch.segments, read) if self.isolates else (None, None)
        if read is not None and segments is None:
            segments = torch.zeros_like(batch.inputs)
        return self._captured(arguments, Packing(segments, self._places(batch.positions, arguments, batch), read))

    def encode(self, batch: Batch) -> Any:
        """Return the output of an encoder-decoder's encoder for the encoder's side of the batch."""
        ids, segments = batch.extra["encoder_inputs"], batch.extra.get("encoder_segments")
        packing = Packing(segments if self.isolates else None, batch.extra.get("encoder_positions"))
        encoder = self.inner.get_encoder()
        with packed(encoder, packing):
            return encoder(input_ids=ids, attention_mask=self._padding_mask(segments), return_dict=True)

    def _captured(self, arguments: dict[str, Any], packing: Packing) -> torch.Tensor:
        """Run the model up to its head, which gets an empty slice, so that no logits are computed."""
        found: list[torch.Tensor] = []

        def capture(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            found.append(given[0])
            return (given[0][:, :0],)

        handle = self._head.register_forward_pre_hook(capture)
        try:
            with packed(self.inner, packing):
                self.inner(**arguments)
        finally:
            handle.remove()
        return found[0] * self.scale if self.scale != 1.0 else found[0]

    def _places(self, positions: torch.Tensor | None, arguments: dict[str, Any], batch: Batch) -> torch.Tensor | None:
        """Give positions by the argument that the model has for them, else return them for the tables to look up."""
        if self.position_offset is None:
            return positions if position_tables(self.inner) else None
        if positions is None and self.position_offset:
            positions = torch.arange(batch.inputs.shape[1], device=batch.inputs.device).expand_as(batch.inputs)
        if positions is not None:
            arguments["position_ids"] = positions + self.position_offset
        return None

    def _padding_mask(self, segments: torch.Tensor | None) -> torch.Tensor | None:
        """Return the plain 2D mask for a model that cannot isolate documents; others are told by a packing."""
        if segments is None or self.isolates:
            return None
        if int(segments.max()) > 0:
            raise InputError(
                f"{type(self.inner).__name__} cannot keep documents of one row apart",
                "train it without packing, one document a row",
            )
        return (segments >= 0).long()

    @property
    def _head(self) -> nn.Linear:
        return self.inner.get_output_embeddings()  # pyright: ignore[reportReturnType]

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return (…, vocabulary) logits, the model's own."""
        weight, bias = self.output_projection()
        logits = F.linear(features, weight, bias)
        return logits if self.logit_cap is None else self.logit_cap * torch.tanh(logits / self.logit_cap)

    def output_projection(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the head's (vocabulary, width) weight and its bias, together with a bias added after it (BART)."""
        bias, added = self._head.bias, getattr(self.inner, "final_logits_bias", None)
        if bias is not None and self.scale != 1.0:
            bias = bias * self.scale
        if added is None:
            return self._head.weight, bias
        added = added[0].to(self._head.weight.dtype)
        return self._head.weight, added if bias is None else bias + added

    def decoder_inputs(self, targets: Sequence[int]) -> list[int]:
        """Return what an encoder-decoder's decoder reads to predict `targets`, by its own rule of shifting right.

        Raises:
            InputError: if the model is none, or its configuration lacks the token that begins a target.
        """
        if self.kind != "encoder-decoder":
            raise InputError(f"{type(self.inner).__name__} is no encoder-decoder", "use another objective for it")
        try:
            shifted = self.inner.prepare_decoder_input_ids_from_labels(torch.tensor([list(targets)]))  # pyright: ignore[reportCallIssue]
        except ValueError as error:
            raise InputError(
                f"{type(self.inner).__name__} cannot shift targets: {error}",
                "set decoder_start_token_id and pad_token_id in its config.json",
            ) from error
        return shifted[0].tolist()

    @property
    def vocabulary(self) -> int:
        """Token ids that can be predicted: the rows of the head."""
        return self._head.weight.shape[0]

    @property
    def context(self) -> int:
        """Longest window in tokens; for an encoder-decoder, of either side."""
        told = context_of(self.inner.config, self.position_offset or 0)
        return min([told, *(places(table) for table in position_tables(self.inner))])

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return device_of(self)


_BY_FAMILY = {"bloom": 2048}
_WITHOUT_LIMIT = 512
"""For models with relative positions alone, whose configuration names no length: those of their training, T5's last."""


def context_of(config: Any, offset: int) -> int:
    """Return the longest window that a configuration allows, less the positions that are never used.

    The configuration of an encoder-decoder that was put together of two models allows what both of them do.
    """
    parts = [part for part in (getattr(config, side, None) for side in ("encoder", "decoder")) if part is not None]
    if parts:
        return min(context_of(part, offset) for part in parts)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length"):
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length - offset
    return _BY_FAMILY.get(getattr(config, "model_type", ""), _WITHOUT_LIMIT)


# One dropout for a wrapped model, wherever its family keeps the probability.


def set_dropout(model: Wrapped, probability: float) -> None:
    """Set every dropout of a model, in its modules and in the configuration that is saved with it.

    Layers are never dropped whole (BART's layer drop), because what is drawn then is the shape of the step.

    Args:
        model: changed in place.
        probability: from 0 (none) to below 1.
    """
    for module in model.inner.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        _set(module, vars(module), probability)
    configuration: Any = model.inner.config
    parts = [getattr(configuration, name, None) for name in ("encoder", "decoder", "text_config")]
    for part in [configuration, *(part for part in parts if part is not None)]:
        _set(part, vars(part), probability)


def _set(owner: Any, attributes: dict[str, Any], probability: float) -> None:
    for name, value in list(attributes.items()):
        if "drop" in name and isinstance(value, float | int) and not isinstance(value, bool):
            setattr(owner, name, 0.0 if "layer" in name else probability)
