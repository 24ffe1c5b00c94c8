"""A model of `transformers` with the contract of every model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.hf.caching import Cached
from lavra.models.hf.kinds import Kind, body_of, body_parameters, freeze_unused, meant_tied, target_embedding
from lavra.models.hf.packing import Packing, packed, places, position_tables
from lavra.models.hf.probe import measure
from lavra.models.protocols import Batch, device_of, eval_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HFModel(Cached):
    """A decoder, encoder or encoder-decoder of `transformers` with the contract of every model.

    Nothing is copied: parameters have the names of the model with `inner.` before them, and tied ones stay tied. In a
    batch for an encoder-decoder the inputs are those of the decoder. Those of the encoder are `encoder_inputs`,
    `encoder_segments` and `encoder_positions` in `extra`, and a document of the decoder reads the document of the same
    number on the encoder's side.

    Args:
        inner: Model of `transformers` with a language-model head.
        kind: Kind of the model.

    Attributes:
        inner: Model of `transformers`.
        kind: Kind of the model.
        supports_packing: Whether a packed batch gives the same features as its documents one by one, measured on a few
            tokens. Where it does not, each sequence of a batch must hold one document.
        position_offset: Number that is added to positions before the model receives them (2 for RoBERTa); None for a
            model that receives none.
        scale: Factor that the model applies to its logits after the head.
        logit_cap: Bound to which the model caps its logits, see `lavra.models.protocols.logit_cap_of`.
        tied: Whether the head is meant to share the weight of the embedding: the configuration says so and the values
            are equal. (T5 1.1 says so too, although its files hold two matrices.)
        for_task_head: Whether `features` are the last hidden states of the model without its language-model head, as a
            task head reads them: without the transform that stands before the projection of BERT, and without the
            factor that T5 applies. `lavra.models.heads.attach_head` sets it; False at first.
        unused: Names of the parameters that predicting tokens does not use (poolers); they are frozen.

    Raises:
        InputError: If the model has no language-model head, or its logits are not a matrix and a bias times features.
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
        self.scale, self.supports_packing, self.for_task_head = 1.0, False, False
        self.logit_cap = getattr(inner.config.get_text_config(decoder=True), "final_logit_softcapping", None)
        self.tied = meant_tied(inner)
        self.unused = frozenset(f"inner.{name}" for name in freeze_unused(inner))
        self.train(inner.training)
        measure(self)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the same as `features`.

        Args:
            batch: Batch on the device of the model.
        """
        return self.features(batch)

    def features(self, batch: Batch, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Return the input of the head, (sequences, length, width): of the language-model head, or of a task's head.

        Args:
            batch: Batch on the device of the model.
            embeddings: Input embeddings in place of the table's rows for `batch.inputs`, which are those of the decoder
                in an encoder-decoder, (sequences, length, width of the embedding), as `embed` returns them; None lets
                the model look them up. Those of the encoder are `encoder_embeddings` in `batch.model_inputs`.

        Raises:
            InputError: If a sequence holds several documents and the model cannot keep them apart, or if embeddings
                are given to a model that takes ids alone.
        """
        arguments: dict[str, Any] = {}
        read = None
        if self.kind == "encoder-decoder":
            read = batch.model_inputs.get("encoder_document_ids")
            if read is None and batch.document_ids is not None:
                read = torch.zeros_like(batch.model_inputs["encoder_inputs"])
            # BERT-like models make a mask for cross-attention, which a packing can narrow, only if they are given one.
            mask = torch.ones_like(read) if read is not None and self.supports_packing else self._padding_mask(read)
            arguments = {"encoder_outputs": self.encode(batch), "attention_mask": mask}
            names = "decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds"
        else:
            names = "input_ids", "attention_mask", "inputs_embeds"
        if embeddings is not None and names[2] not in self._takes:
            raise _takes_ids_alone(self.inner)
        read_by_model = {names[0]: batch.inputs} if embeddings is None else {names[2]: embeddings}
        arguments |= read_by_model | {names[1]: self._padding_mask(batch.document_ids)}
        if "use_cache" in self._takes:
            arguments["use_cache"] = False
        if "token_type_ids" in self._takes and "token_types" in batch.model_inputs:
            arguments["token_type_ids"] = batch.model_inputs["token_types"]
        document_ids, read = (batch.document_ids, read) if self.supports_packing else (None, None)
        if read is not None and document_ids is None:
            document_ids = torch.zeros_like(batch.inputs)
        packing = Packing(document_ids, self._places(batch.positions, arguments, batch), read)
        return (self._last_hidden if self.for_task_head else self._captured)(arguments, packing)

    def encode(self, batch: Batch) -> Any:
        """Return the output of the encoder of an encoder-decoder.

        Args:
            batch: Batch with the inputs of the encoder in `model_inputs`; `encoder_embeddings` there, (sequences,
                source length, width of the embedding), are used in place of the rows for `encoder_inputs`.
        """
        document_ids, embeddings = (
            batch.model_inputs.get(f"encoder_{name}") for name in ("document_ids", "embeddings")
        )
        packing = Packing(document_ids if self.supports_packing else None, batch.model_inputs.get("encoder_positions"))
        encoder: Any = self.inner.get_encoder()
        given = (
            {"input_ids": batch.model_inputs["encoder_inputs"]} if embeddings is None else {"inputs_embeds": embeddings}
        )
        if embeddings is not None and "inputs_embeds" not in inspect.signature(encoder.forward).parameters:
            raise _takes_ids_alone(self.inner)
        with packed(encoder, packing):
            return encoder(**given, attention_mask=self._padding_mask(document_ids), return_dict=True)

    def embed(self, ids: torch.Tensor, *, encoder: bool = False) -> torch.Tensor:
        """Return what the table of input embeddings gives for token ids, (…, width of the embedding).

        Args:
            ids: Token ids, (…) int64.
            encoder: Whether the encoder of an encoder-decoder reads the ids; its decoder does otherwise. Both may share
                one table, or scale its rows differently.
        """
        table = self.inner.get_encoder().get_input_embeddings() if encoder else target_embedding(self.inner)
        return table(ids)

    def _captured(self, arguments: dict[str, Any], packing: Packing) -> torch.Tensor:
        """Return the input of the head; the head itself receives an empty slice, so that no logits are computed."""
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
        if not found:
            raise InputError(
                f"{type(self.inner).__name__} computes its logits in a way of its own, without calling its head",
                "choose another model",
            )
        return found[0] * self.scale if self.scale != 1.0 else found[0]

    def _last_hidden(self, arguments: dict[str, Any], packing: Packing) -> torch.Tensor:
        """Return the last hidden states of the model without its language-model head."""
        inner = self.inner
        if self.kind != "encoder-decoder":
            with packed(inner, packing):
                return body_of(inner)(**arguments)[0]
        found: list[torch.Tensor] = []
        handle = body_of(inner).register_forward_hook(lambda _module, _given, output: found.append(output[0]))
        try:
            self._captured(arguments, packing)
        finally:
            handle.remove()
        return found[0]

    def use_task_head(self) -> None:
        """Let features be the last hidden states from now on, and freeze what only the language-model head uses."""
        self.for_task_head = True
        used = {id(parameter) for parameter in body_parameters(self.inner)}
        for parameter in self.inner.parameters():
            if id(parameter) not in used:
                parameter.requires_grad_(False)

    def task_width(self) -> int:
        """Return the size of the features that a task head receives, measured on two tokens."""
        ids = torch.zeros(1, 2, dtype=torch.int64, device=self.device)
        extra = {"encoder_inputs": ids} if self.kind == "encoder-decoder" else {}
        before, self.for_task_head = self.for_task_head, True
        try:
            with eval_mode(self), torch.no_grad():
                return self.features(Batch(ids, ids, model_inputs=extra)).shape[-1]
        finally:
            self.for_task_head = before

    def _places(self, positions: torch.Tensor | None, arguments: dict[str, Any], batch: Batch) -> torch.Tensor | None:
        """Pass positions as the model's argument for them, or return them for hooks on its tables of positions."""
        if self.position_offset is None:
            return positions if position_tables(self.inner) else None
        if positions is None and self.position_offset:
            positions = torch.arange(batch.inputs.shape[1], device=batch.inputs.device).expand_as(batch.inputs)
        if positions is not None:
            arguments["position_ids"] = positions + self.position_offset
        return None

    def _padding_mask(self, document_ids: torch.Tensor | None) -> torch.Tensor | None:
        """Return the plain mask of padding for a model that cannot isolate documents; for others a packing is used."""
        if document_ids is None or self.supports_packing:
            return None
        if int(document_ids.max()) > 0:
            raise InputError(
                f"{type(self.inner).__name__} cannot keep documents of one row apart",
                "train it without packing, one document a row",
            )
        return (document_ids >= 0).long()

    @property
    def _head(self) -> nn.Linear:
        return self.inner.get_output_embeddings()  # pyright: ignore[reportReturnType]

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits of the model, (…, vocabulary).

        Args:
            features: Hidden states as `features` returns them, (…, width).
        """
        weight, bias = self.output_projection()
        logits = F.linear(features, weight, bias)
        return logits if self.logit_cap is None else self.logit_cap * torch.tanh(logits / self.logit_cap)

    def output_projection(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weight of the head, (vocabulary, width), and its bias, with one that is added after it (BART)."""
        bias, added = self._head.bias, getattr(self.inner, "final_logits_bias", None)
        if bias is not None and self.scale != 1.0:
            bias = bias * self.scale
        if added is None:
            return self._head.weight, bias
        added = added[0].to(self._head.weight.dtype)
        return self._head.weight, added if bias is None else bias + added

    def decoder_inputs(self, targets: Sequence[int]) -> list[int]:
        """Return the ids that the decoder of an encoder-decoder reads, shifted right by the model's own rule.

        Args:
            targets: Ids of the target text.

        Raises:
            InputError: If the model is not an encoder-decoder, or its configuration lacks the decoder start token.
        """
        if self.kind != "encoder-decoder":
            raise InputError(f"{type(self.inner).__name__} is no encoder-decoder", "use another objective for it")
        inner: Any = self.inner
        start = getattr(inner.config, "decoder_start_token_id", None)
        if start is not None and not hasattr(inner, "prepare_decoder_input_ids_from_labels"):  # as in Blenderbot
            return [start, *targets[:-1]]
        try:
            shifted = inner.prepare_decoder_input_ids_from_labels(torch.tensor([list(targets)]))
        except (ValueError, AttributeError, TypeError) as error:
            raise InputError(
                f"{type(self.inner).__name__} cannot shift targets: {error}",
                "set decoder_start_token_id and pad_token_id in its config.json",
            ) from error
        return shifted[0].tolist()

    @property
    def vocabulary(self) -> int:
        """Number of tokens that can be predicted, which is the number of rows of the head."""
        return self._head.weight.shape[0]

    @property
    def context(self) -> int:
        """Largest number of tokens of a sequence, for an encoder-decoder on either side."""
        told = context_of(self.inner.config, self.position_offset or 0)
        return min([told, *(places(table) for table in position_tables(self.inner))])

    @property
    def device(self) -> torch.device:
        """Device that holds the weights and computes."""
        return device_of(self)


def _takes_ids_alone(inner: nn.Module) -> InputError:
    return InputError(
        f"{type(inner).__name__} takes no embeddings in place of ids",
        "switch off what perturbs or mixes embeddings, or train a model of another family",
    )


_BY_FAMILY = {"bloom": 2048}
"""Length in tokens of the training of families with relative positions, whose configuration names no length."""

_WITHOUT_LIMIT = 512
"""Length in tokens for all other families whose configuration names none; it is that of T5."""


def context_of(config: Any, offset: int) -> int:
    """Return the largest number of tokens that a configuration allows.

    An encoder-decoder that was made of two models allows as many as both of them do.

    Args:
        config: Configuration of `transformers`.
        offset: Number of positions at the beginning that are never used.
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


def set_dropout(model: HFModel, probability: float) -> None:
    """Set every dropout probability of a model, in its modules and in the configuration that is saved with it.

    Whole layers are never dropped (the layer drop of BART), because then the shape of a step would be random.

    Args:
        model: Model to change in place.
        probability: Dropout probability, from 0 (no dropout) to below 1.
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
