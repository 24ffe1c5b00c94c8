"""The model of lavra's own: one class for every decoder and encoder that a `DecoderSpec` describes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lavra.config.choices import Architecture
from lavra.core.errors import InputError
from lavra.models.native.attention import takes_documents
from lavra.models.native.attention_masks import (
    Mask,
    alibi_bias,
    alibi_slopes,
    attention_mask,
    causal_mask,
    near,
    prompt_mask,
)
from lavra.models.native.decode_step import StepProof, decode_steps
from lavra.models.native.initialization import initialize
from lavra.models.native.kv_cache import KeyValueCache
from lavra.models.native.layers import Block, HeadTransform, LayerCache, make_norm, rotary_table
from lavra.models.native.ngrams import BigramEmbedding, NgramCopy
from lavra.models.native.relative_positions import RelativePositions
from lavra.models.protocols import PREFIX, Batch
from lavra.models.spec import DecoderSpec


class Decoder(nn.Module):
    """A transformer of one stack of blocks: a decoder, or an encoder, which reads a text from both sides.

    `build_decoder` makes one with fresh weights.

    Args:
        spec: Shape of the model.

    Attributes:
        for_task_head: Whether `features` are the last hidden states without the transform that stands before the head,
            as a task head reads them; False at first. `lavra.models.heads.attach_head` sets it.
        checkpointing: Whether only the inputs of the blocks are kept for the backward pass, which then computes the
            rest again (gradient checkpointing). It takes a third more time and less memory; False at first.
    """

    block_class: type[Block] = Block

    table: torch.Tensor | None
    local_table: torch.Tensor | None
    slopes: torch.Tensor | None

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.checkpointing = self.for_task_head = False
        silent = None if spec.silent < 0 else spec.silent
        self.embedding = nn.Embedding(spec.padded_vocabulary, spec.size_of_embedding, padding_idx=silent)
        self.bigram_embedding = (
            BigramEmbedding(spec.bigram_embedding, spec.size_of_embedding) if spec.bigram_embedding else None
        )
        self.ngram_copy = NgramCopy(spec.width, spec.norm_epsilon) if spec.ngram_copy else None
        first_width = spec.size_of_embedding if spec.factorized else spec.width
        self.position_embedding = nn.Embedding(spec.context, first_width) if spec.positions == "learned" else None
        self.embedding_norm = make_norm(spec, first_width, True) if spec.embedding_norm_weight else None
        projected = spec.size_of_embedding != spec.width
        self.input_projection = (
            nn.Linear(spec.size_of_embedding, spec.width, bias=spec.factorized)
            if projected or spec.factorized
            else None
        )
        self.blocks = nn.ModuleList(self._made_blocks(spec))
        self.relative = RelativePositions(spec, spec.causal) if spec.positions == "relative" else None
        self.final_norm = make_norm(spec, spec.width, spec.norm_weight) if spec.final_norm else nn.Identity()
        back = projected and not spec.factorized  # else the transform before the head goes back
        self.feature_projection = nn.Linear(spec.width, spec.size_of_embedding, bias=False) if back else None
        self.head_transform = HeadTransform(spec) if spec.head_transform else None
        self.output = nn.Linear(spec.size_of_embedding, spec.padded_vocabulary, bias=spec.head_bias)
        if spec.tied:
            self.output.weight = self.embedding.weight
        self._local = [spec.is_local(number) for number in range(spec.depth)]
        self._head_rows: torch.Tensor | None = None
        self._steps = StepProof()
        rotary = spec.positions == "rope"
        self.register_buffer("table", rotary_table(spec) if rotary else None, persistent=False)
        local = rotary_table(spec, spec.rope_local_base) if rotary and spec.window and spec.rope_local_base else None
        self.register_buffer("local_table", local, persistent=False)
        self.register_buffer(
            "slopes", alibi_slopes(spec.heads) if spec.positions == "alibi" else None, persistent=False
        )

    def _made_blocks(self, spec: DecoderSpec) -> list[Block]:
        """Return the block of each depth: all different, or the same ones in turn, with norms of their own or not."""
        different = spec.shared_blocks or spec.depth
        made = [
            self.block_class(spec, first=number == 0) for number in range(spec.depth if spec.own_norms else different)
        ]
        for number in range(different, len(made)):
            made[number].attention, made[number].mlp = made[number % different].attention, made[number % different].mlp
        return [made[number if spec.own_norms else number % different] for number in range(spec.depth)]

    def initialize(self, generator: torch.Generator) -> None:
        """Draw fresh weights by the initialization of the specification, in a fixed order.

        Args:
            generator: Random generator on the device of the weights.
        """
        initialize(self, self.spec, generator)

    def forward(
        self,
        inputs: torch.Tensor,
        document_ids: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        bounds: torch.Tensor | None = None,
        embeddings: torch.Tensor | None = None,
        prefix: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the features of token ids, (sequences, length, width).

        Args:
            inputs: Token ids, (sequences, length).
            document_ids: Number of the document of each position, see `Batch`; None where each sequence is one
                document.
            positions: Position of each token in its document, see `Batch`; None means 0, 1, 2, ….
            bounds: Bounds of the documents, where attention is computed document by document; None uses a dense mask.
            embeddings: Input embeddings in place of the table's rows for `inputs`, see `features`; None looks them up.
            prefix: Positions that every position of their document attends to, (sequences, length) bool; None for a
                causal text.
        """
        return self._decode(inputs, document_ids, positions, bounds, embeddings, prefix=prefix)

    def _decode(
        self,
        inputs: torch.Tensor,
        document_ids: torch.Tensor | None,
        positions: torch.Tensor | None,
        bounds: torch.Tensor | None,
        embeddings: torch.Tensor | None,
        source: tuple[Any, ...] = (),
        prefix: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the features, see `forward`; `source` holds what each block gets beside its mask."""
        length = inputs.shape[1]
        if positions is None:
            positions = torch.arange(length, device=inputs.device)[None]
        x = self._embed(inputs, positions, inputs, embeddings)
        bias = self._bias(positions, positions)
        masks = self._masks(document_ids, length, bias, bounds, prefix, inputs.device)
        if self.spec.experts and document_ids is not None:
            whole, near_ones = (replace(mask, tokens=document_ids >= 0) for mask in masks)
            masks = whole, near_ones
        tables = self._tables_at(positions, x.dtype)
        source = source or self._first_values(x)
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for block, local in zip(self.blocks, self._local, strict=True):
            given = tables[local], masks[local], *source
            x = checkpoint(block, x, *given, use_reentrant=False) if again else block(x, *given)
        return self._finish(x)

    def _masks(
        self,
        document_ids: torch.Tensor | None,
        length: int,
        bias: torch.Tensor | None,
        bounds: torch.Tensor | None,
        prefix: torch.Tensor | None,
        device: torch.device,
    ) -> tuple[Mask, Mask]:
        """Return the mask of the blocks without a window, and that of the blocks with one."""
        spec = self.spec
        if spec.causal:
            whole = causal_mask(document_ids, length, bias, bounds, prefix=prefix)
        else:
            whole = attention_mask(document_ids, length, bias, bounds, causal=False)
        if not spec.window:
            return whole, whole
        if prefix is not None:
            return whole, replace(whole, allowed=self._allowed_near(whole.allowed, 0, length, device, causal=False))
        given = {"causal": spec.causal, "window": spec.window, "device": device}
        return whole, attention_mask(document_ids, length, bias, bounds, **given)

    def features(self, batch: Batch, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last hidden states after the final norm, (sequences, length, width).

        Args:
            batch: Batch on the device of the model.
            embeddings: Input embeddings in place of the table's rows for `batch.inputs`, (sequences, length, width of
                the embedding), as `embed` returns them; None looks them up. Bigram embeddings and copied n-grams are
                still made of the ids.
        """
        prefix = batch.model_inputs.get(PREFIX)
        by_documents = batch.document_ids is not None and prefix is None  # the kernel for documents is causal
        bounds = batch.bounds if by_documents and self._attends_by_documents(batch.inputs.device) else None
        return self(batch.inputs, batch.document_ids, batch.positions, bounds, embeddings, prefix)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the table's rows for token ids, (…, width of the embedding).

        Args:
            ids: Token ids, (…) int64.
        """
        return self.embedding(ids)

    def _attends_by_documents(self, device: torch.device) -> bool:
        """Return whether attention over packed documents needs no dense mask on this device."""
        spec = self.spec
        if spec.positions in ("alibi", "relative") or (spec.dropout and self.training):
            return False
        return takes_documents(device, self.embedding.weight.dtype, spec.size_of_head)

    def use_task_head(self) -> None:
        """Let features be the last hidden states from now on, and freeze what only predicting tokens uses."""
        self.for_task_head = True
        if self.head_transform is not None:
            self.head_transform.requires_grad_(False)
        if self.output.bias is not None:
            self.output.bias.requires_grad_(False)
        if not self.spec.tied:
            self.output.requires_grad_(False)

    def task_width(self) -> int:
        """Return the size of the features that a task's head receives."""
        return self.spec.width if self.spec.factorized else self.spec.size_of_embedding

    def output_projection(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weight of the head, (padded vocabulary, width), and its bias, (padded vocabulary,) or None."""
        return self.output.weight, self.output.bias

    @property
    def logit_cap(self) -> float | None:
        """Bound of the logits, see `lavra.models.protocols.logit_cap_of`."""
        return self.spec.logit_cap or None

    @property
    def kind(self) -> Architecture:
        """What the model is: a decoder or an encoder."""
        return self.spec.architecture

    @property
    def tied(self) -> bool:
        """Whether the head shares the weight of the embedding."""
        return self.spec.tied

    @property
    def vocabulary(self) -> int:
        """Number of tokens that can be predicted. The rows of the head after them are padding."""
        return self.spec.vocabulary

    @property
    def context(self) -> int:
        """Largest number of tokens of a sequence."""
        return self.spec.context

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits without those of padding, (…, vocabulary).

        Args:
            features: Hidden states, (…, width).
        """
        if isinstance(self.output, nn.Linear):
            bias = self.output.bias
            bias = None if bias is None else bias[: self.spec.vocabulary]
            logits = F.linear(features, self.output.weight[: self.spec.vocabulary], bias)
        else:
            logits = self.output(features)[..., : self.spec.vocabulary]  # a layer of low precision has no float weight
        cap = self.spec.logit_cap
        return cap * torch.tanh(logits / cap) if cap else logits

    def head_rows(self) -> torch.Tensor:
        """Return the weight of the head, (padded vocabulary, width), even where a layer without one replaced it."""
        return self.output.weight if self._head_rows is None else self._head_rows

    def keep_head_rows(self) -> None:
        """Keep the weight of the head, where n-gram copy reads its rows, before another layer replaces the head."""
        if self.ngram_copy is not None:
            self._head_rows = self.output.weight.detach()

    def new_cache(self, rows: int, length: int) -> KeyValueCache:
        """Return an empty key-value cache.

        Args:
            rows: Number of sequences.
            length: Largest number of tokens of a sequence.

        Raises:
            InputError: If the model is an encoder, which writes no text.
        """
        if not self.spec.causal:
            raise InputError("the model is an encoder: it reads, and writes no text", "use a decoder")
        weight = self.embedding.weight
        shape = (rows, self.spec.key_value_heads, length, self.spec.size_of_head)
        layers = [LayerCache(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in self.blocks]
        return KeyValueCache(layers, rows, length, weight.device)

    def step(self, ids: torch.Tensor, cache: KeyValueCache, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Append tokens to the cache and return their features, (rows, new, width).

        Args:
            ids: Ids of the new tokens, (rows, new). Prompts of different lengths are padded on the left.
            cache: Cache of the tokens before, which is extended.
            attention_mask: False on padding, (rows, new) bool; None where there is no padding.

        Raises:
            ValueError: If the tokens do not fit into the cache.
        """
        start = cache.length
        all_positions, allowed = cache.append(ids, attention_mask)
        positions = all_positions[:, start:]
        x = self._embed(ids, positions, cache.ids)
        bias, both = self._bias(positions, all_positions), self.spec.prefix_attention and not start
        if both:
            allowed = prompt_mask(ids, attention_mask)
        local = self._allowed_near(allowed, start, cache.length, ids.device, causal=not both)
        masks = Mask(allowed, bias, causal=not both), Mask(local, bias, causal=not both)
        tables = self._tables_at(positions, x.dtype)
        if cache.steps is None:
            cache.steps = list(self.blocks) if self.spec.value_residual else decode_steps(self.blocks)
        one = ids.shape[1] == 1 and not self.training
        first = int(self._local[0])
        one = one and self._steps.trusts(
            cache.steps[0], self.blocks[0], x, tables[first], masks[first], cache.layers[0], start
        )
        first_values = self._first_values(x)[2:]
        for block, local, layer in zip(cache.steps if one else self.blocks, self._local, cache.layers, strict=True):
            x = block(x, tables[local], masks[local], layer, start, *first_values)
        return self._finish(x)

    def _first_values(self, x: torch.Tensor) -> tuple[Any, ...]:
        """Return what blocks get beside table and mask so that they mix their values with those of the first; else ().

        Args:
            x: Input of the first block, (rows, length, width).
        """
        if not self.spec.value_residual:
            return ()
        block: Any = self.blocks[0]
        given = x if block.norm_after else block.attention_norm(x)
        return None, 0, block.attention.project(given)[2]  # no cache, of which nothing is stored

    def _allowed_near(
        self, allowed: torch.Tensor | None, start: int, end: int, device: torch.device, *, causal: bool
    ) -> torch.Tensor | None:
        """Return what the tokens from `start` on attend to within the window, given what they attend to without one,
        see `Mask`.

        The distance of two tokens of a row is that of their places in the cache, because padding stands on the left.
        """
        if not self.spec.window or end - 1 <= self.spec.window:
            return allowed
        index = torch.arange(end, device=device)
        within = near(index[start:, None], index, causal, self.spec.window)[None, None]
        return within if allowed is None else allowed & within

    def _embed(
        self,
        inputs: torch.Tensor,
        positions: torch.Tensor,
        read: torch.Tensor,
        embeddings: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the input of the first block for (rows, new) `inputs`, the last of the (rows, stored) ids `read`."""
        x = self.embed(inputs) if embeddings is None else embeddings
        if self.spec.embedding_scale != 1.0:
            x = x * self.spec.embedding_scale
        if self.bigram_embedding is not None:
            before = read.shape[1] - inputs.shape[1] - 1
            x = x + self.bigram_embedding(inputs, positions, read[:, before] if before >= 0 else None)
        if self.input_projection is not None and not self.spec.factorized:
            x = self.input_projection(x)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        elif self.spec.embedding_norm:
            x = F.rms_norm(x, (x.shape[-1],), eps=self.spec.norm_epsilon)
        if self.input_projection is not None and self.spec.factorized:
            x = self.input_projection(x)
        if self.ngram_copy is not None:
            x = self.ngram_copy(x, read, positions, self.head_rows())
        return F.dropout(x, self.spec.dropout, self.training) if self.spec.dropout else x

    def _finish(self, x: torch.Tensor) -> torch.Tensor:
        x = self.final_norm(x)
        if self.head_transform is not None and not self.for_task_head:
            x = self.head_transform(x)
        if self.spec.output_scale != 1.0 and not self.for_task_head:
            x = x * self.spec.output_scale
        return x if self.feature_projection is None else self.feature_projection(x)

    def _bias(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor | None:
        one_way = self.spec.causal and not self.spec.prefix_attention
        return self._bias_of(self.relative, queries, keys, causal=one_way)

    def _bias_of(
        self, relative: RelativePositions | None, queries: torch.Tensor, keys: torch.Tensor, *, causal: bool
    ) -> torch.Tensor | None:
        """Return the bias of a stack of blocks: that of its relative positions, or of ALiBi, or None."""
        if relative is not None:
            return relative(queries, keys)
        return None if self.slopes is None else alibi_bias(self.slopes, queries, keys, causal=causal)

    def _tables_at(
        self, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the rotary table at positions, see `rotate`, for blocks without a window and for those with one."""
        if self.table is None:
            return None, None
        whole = self.table[positions][:, None].to(dtype)
        return whole, whole if self.local_table is None else self.local_table[positions][:, None].to(dtype)
