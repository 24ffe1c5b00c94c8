"""The encoder-decoder of lavra's own: an encoder reads a source, and a decoder writes while attending to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lavra.models.native.attention_masks import Mask, attention_mask
from lavra.models.native.cross_attention import CrossBlock, CrossLayerCache
from lavra.models.native.decoder import Decoder
from lavra.models.native.kv_cache import KeyValueCache
from lavra.models.native.layers import Block, LayerCache, make_norm
from lavra.models.native.relative_positions import RelativePositions
from lavra.models.protocols import Batch
from lavra.models.spec import DecoderSpec


class EncoderStack(nn.Module):
    """The blocks of the encoder, with a final norm; the embeddings are those of the decoder.

    Args:
        spec: Specification of the whole model.
    """

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.spec = spec.of_encoder()
        self.blocks = nn.ModuleList(Block(self.spec, first=number == 0) for number in range(self.spec.depth))
        self.final_norm = make_norm(spec, spec.width, spec.norm_weight) if spec.final_norm else nn.Identity()
        self.relative = RelativePositions(spec, causal=False) if spec.positions == "relative" else None


class EncoderDecoder(Decoder):
    """A transformer of two stacks of blocks. `build_decoder` makes one with fresh weights.

    In a batch the inputs are those of the decoder. Those of the encoder are `encoder_inputs`, `encoder_document_ids`
    and `encoder_positions` in `model_inputs`, and a document of the decoder reads the document of the same number on
    the encoder's side. Without them, as in a dry run, both sides read the same inputs.

    Args:
        spec: Shape of the model.
    """

    block_class = CrossBlock

    forced = 0
    """Number of tokens of `decoder_start_ids` that belong to the new text."""

    pads = True
    """Whether rows of different lengths can be read together."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__(spec)
        self.encoder = EncoderStack(spec)

    @property
    def decoder_start_ids(self) -> tuple[int, ...]:
        """The token with which the decoder begins."""
        return (self.spec.decoder_start,)

    def decoder_inputs(self, targets: Sequence[int]) -> list[int]:
        """Return the ids that the decoder reads: its start token, then all targets but the last.

        Args:
            targets: Ids of the target text.
        """
        return [self.spec.decoder_start, *targets[:-1]]

    def features(self, batch: Batch, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last hidden states of the decoder after the final norm, (sequences, length, width).

        Args:
            batch: Batch on the device of the model, with the inputs of both sides.
            embeddings: Input embeddings of the decoder in place of the table's rows for `batch.inputs`, see `embed`.
        """
        read = batch.model_inputs.get("encoder_document_ids", batch.document_ids if not batch.model_inputs else None)
        encoded = self.encode(batch)
        extra = None, 0, encoded, _source_mask(batch.document_ids, read)  # no cache, of which nothing is stored
        return self._decode(batch.inputs, batch.document_ids, batch.positions, None, embeddings, extra)

    def encode(self, batch: Batch) -> torch.Tensor:
        """Return the output of the encoder, (sequences, source length, width).

        Args:
            batch: Batch with the inputs of the encoder in `model_inputs`; `encoder_embeddings` there, (sequences,
                source length, width of the embedding), are used in place of the rows for `encoder_inputs`.
        """
        given = batch.model_inputs
        inputs = given.get("encoder_inputs", batch.inputs)
        document_ids = given.get("encoder_document_ids", batch.document_ids if not given else None)
        positions = given.get("encoder_positions", batch.positions if not given else None)
        return self._encoded(inputs, document_ids, positions, given.get("encoder_embeddings"))

    def _encoded(
        self,
        inputs: torch.Tensor,
        document_ids: torch.Tensor | None,
        positions: torch.Tensor | None = None,
        embeddings: torch.Tensor | None = None,
    ) -> torch.Tensor:
        side, length = self.encoder, inputs.shape[1]
        if positions is None:
            positions = torch.arange(length, device=inputs.device)[None]
        x = self._embed(inputs, positions, inputs, embeddings)
        bias = self._bias_of(side.relative, positions, positions, causal=False)
        mask = attention_mask(document_ids, length, bias, causal=False)
        if self.spec.experts and document_ids is not None:
            mask = replace(mask, tokens=document_ids >= 0)
        table, _ = self._tables_at(positions, x.dtype)
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for block in side.blocks:
            x = checkpoint(block, x, table, mask, use_reentrant=False) if again else block(x, table, mask)
        return side.final_norm(x)

    def embed(self, ids: torch.Tensor, *, encoder: bool = False) -> torch.Tensor:
        """Return the table's rows for token ids, (…, width of the embedding); both sides share the table.

        Args:
            ids: Token ids, (…) int64.
            encoder: Whether the encoder reads the ids.
        """
        return super().embed(ids)

    def new_cache(self, rows: int, length: int, sources: Sequence[Sequence[int]] = ()) -> KeyValueCache:
        """Return an empty key-value cache, in which the sources are encoded.

        Args:
            rows: Number of sequences.
            length: Largest number of tokens of a sequence on the decoder's side.
            sources: Ids that the encoder reads for each row; equal ones are encoded once.
        """
        device = self.embedding.weight.device
        place = {source: number for number, source in enumerate(dict.fromkeys(map(tuple, sources)))}
        longest = max(map(len, place))
        ids = torch.tensor([[*source, *[0] * (longest - len(source))] for source in place], device=device)
        lengths = torch.tensor([len(source) for source in place], device=device)
        seen = torch.arange(longest, device=device) < lengths[:, None]
        encoded = self._encoded(ids, torch.where(seen, 0, -1))
        order = torch.tensor([place[tuple(source)] for source in sources], device=device)
        cache = super().new_cache(rows, length)
        layers: list[LayerCache] = [
            CrossLayerCache(layer.keys, layer.values, *_taken(block.cross.project(encoded), order), seen[order])
            for layer, block in zip(cache.layers, self._cross_blocks(), strict=True)
        ]
        cache.layers = layers
        return cache

    def _cross_blocks(self) -> list[Any]:
        return list(self.blocks)


def _taken(tensors: tuple[torch.Tensor, torch.Tensor], order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return tensors[0][order], tensors[1][order]


def _source_mask(document_ids: torch.Tensor | None, read: torch.Tensor | None) -> Mask:
    """Return the mask of the tokens of the source that each token of the decoder attends to.

    A side without document numbers is one document. Padding of the decoder, which has no document, attends to all of
    the source, because a softmax over nothing would be NaN.

    Args:
        document_ids: Number of the document of each token of the decoder, (rows, length), -1 on padding.
        read: The same of each token of the encoder, (rows, source length).
    """
    if read is None:
        return Mask(causal=False)
    if document_ids is None:
        return Mask(allowed=(read == 0)[:, None, None], causal=False)
    queries = document_ids[:, :, None]
    return Mask(allowed=((queries == read[:, None, :]) | (queries < 0))[:, None], causal=False)
