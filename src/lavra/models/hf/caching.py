"""Key-value caches of models of `transformers`, which for encoder-decoders also hold the encoded sources."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch.nn.functional import pad

from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.models.hf.packing import Packing, position_tables
from lavra.models.hf.states import StateCache, cache_argument, keeps_state, new_inner_cache


class HFCache:
    """Keys and values of the tokens that a model of `transformers` has read.

    Attributes:
        inner: Cache of `transformers` with the keys and values; for an encoder-decoder also those of the sources.
        capacity: Largest number of tokens that fit.
        attention_mask: False on padding, which is on the left, (rows, length) bool.
        encoded: Output of the encoder for the sources, (rows, source length, width); None for a decoder.
        source_attention_mask: False on padding of the sources, which is on the right, (rows, source length) bool; None
            for a decoder.
    """

    def __init__(
        self,
        inner: Any,
        capacity: int,
        attention_mask: torch.Tensor,
        encoded: torch.Tensor | None = None,
        source_attention_mask: torch.Tensor | None = None,
    ) -> None:
        self.inner, self.capacity, self.attention_mask = inner, capacity, attention_mask
        self.encoded, self.source_attention_mask = encoded, source_attention_mask

    @property
    def length(self) -> int:
        """Number of tokens stored so far, padding included; it is the same for all rows."""
        return self.attention_mask.shape[1]

    def select(self, rows: torch.Tensor) -> None:
        """Keep, copy or reorder rows, as beams, samples and finished rows need it.

        Args:
            rows: Old number of each new row, (new rows,) int64.
        """
        self.inner.batch_select_indices(rows)
        self.attention_mask = self.attention_mask[rows]
        if self.encoded is not None and self.source_attention_mask is not None:
            self.encoded, self.source_attention_mask = self.encoded[rows], self.source_attention_mask[rows]

    def join(self, other: HFCache, capacity: int) -> HFCache:
        """Return a cache with the rows of this one, followed by those of the other.

        Rows are moved so that all end at the same place, and padding that no row needs is left out.

        Args:
            other: Cache of the same model.
            capacity: Largest number of tokens of the new cache.

        Raises:
            ValueError: If the longest row does not fit.
        """
        from transformers import EncoderDecoderCache

        length = max(self._longest(), other._longest())
        if capacity < length:
            raise ValueError(f"a cache of {capacity} tokens cannot hold rows of {length}")
        both = (self, other)
        attention_mask = torch.cat([_ending_at(one.attention_mask, length, 1) for one in both])
        if self.encoded is None:
            return HFCache(_joined(self.inner, other.inner, length, left=True), capacity, attention_mask)
        source = max(one.encoded.shape[1] for one in both if one.encoded is not None)
        inner = EncoderDecoderCache(
            _joined(self.inner.self_attention_cache, other.inner.self_attention_cache, length, left=True),
            _joined(self.inner.cross_attention_cache, other.inner.cross_attention_cache, source, left=False),
        )
        encoded = torch.cat([_begun_at(one.encoded, source, 1) for one in both if one.encoded is not None])
        source_attention_mask = torch.cat(
            [_begun_at(one.source_attention_mask, source, 1) for one in both if one.source_attention_mask is not None]
        )
        return HFCache(inner, capacity, attention_mask, encoded, source_attention_mask)

    def _longest(self) -> int:
        """Return the number of tokens of the longest row, padding excluded."""
        return int(self.attention_mask.sum(1).max())


def _ending_at(stored: torch.Tensor, length: int, dimension: int) -> torch.Tensor:
    """Return the last `length` places of a dimension, with zeros before them where there are fewer."""
    kept = stored.narrow(dimension, max(0, stored.shape[dimension] - length), min(length, stored.shape[dimension]))
    after = [0, 0] * (stored.dim() - dimension - 1)
    return pad(kept, [*after, length - kept.shape[dimension], 0])


def _begun_at(stored: torch.Tensor, length: int, dimension: int) -> torch.Tensor:
    """Return all places of a dimension, with zeros after them up to `length`."""
    after = [0, 0] * (stored.dim() - dimension - 1)
    return pad(stored, [*after, 0, length - stored.shape[dimension]])


def _joined(first: Any, second: Any, length: int, *, left: bool) -> Any:
    """Return a `transformers` cache with the rows of two, padded to `length` on the left or on the right."""
    from transformers import DynamicCache

    joined, align = DynamicCache(), _ending_at if left else _begun_at
    for number, layers in enumerate(zip(first.layers, second.layers, strict=True)):
        keys = torch.cat([align(layer.keys, length, 2) for layer in layers])
        values = torch.cat([align(layer.values, length, 2) for layer in layers])
        joined.update(keys, values, number)
    return joined


class Cached(torch.nn.Module):
    """The methods of `CachedModel` for a module that holds a model of `transformers` (see `lavra.generation.reader`).

    Attributes:
        inner: Model of `transformers`.
        kind: "decoder", "encoder" or "encoder-decoder".
        position_offset: Number that is added to positions before the model receives them; None where it receives none.
    """

    inner: Any
    kind: Literal["decoder", "encoder", "encoder-decoder"]
    position_offset: int | None
    _takes: frozenset[str]

    @cached_property
    def decoder_start_ids(self) -> tuple[int, ...]:
        """Decoder start tokens of an encoder-decoder, a forced first token included; empty for a decoder."""
        if self.kind != "encoder-decoder":
            return ()
        start = self._setting("decoder_start_token_id")
        start = self._setting("bos_token_id") if start is None else start
        if start is None:
            raise InputError(
                f"{_name(self.inner)} does not say which token its decoder begins with",
                "set decoder_start_token_id in its config.json",
            )
        forced = self._setting("forced_bos_token_id")
        begin = list(start) if isinstance(start, list | tuple) else [start]
        return tuple(begin if forced is None else [*begin, forced])

    @property
    def forced(self) -> int:
        """Number of tokens at the end of `decoder_start_ids` (0 or 1) that already belong to the new text and its
        length."""
        return int(bool(self.decoder_start_ids) and self._setting("forced_bos_token_id") is not None)

    @cached_property
    def pads(self) -> bool:
        """Whether rows of different lengths can be read together, because padding on the left changes nothing.

        It is measured on three tokens. A model that takes no positions, or is recurrent, reads only rows of equal
        length together.
        """
        self._refuse_encoders()
        if self._keeps_state:
            return False
        ids = torch.tensor([[1, 2, 3]], device=self._device) % self._words
        with torch.no_grad():
            plain = self.step(ids, self._new(1, 8, [(1, 2)]))
            attention_mask = torch.tensor([[False, False, True, True, True]], device=self._device)
            padded = self.step(pad(ids, (2, 0)), self._new(1, 8, [(1, 2)]), attention_mask)
        return bool(torch.allclose(plain, padded[:, 2:], rtol=1e-3, atol=1e-3 * float(plain.abs().max())))

    def new_cache(self, rows: int, length: int, sources: Sequence[Sequence[int]] = ()) -> HFCache | StateCache:
        """Return an empty cache: of keys and values, or of the state of a recurrent model.

        Args:
            rows: Number of sequences.
            length: Largest number of tokens of a sequence, on the decoder's side.
            sources: For an encoder-decoder, the ids that its encoder reads for each row. They are encoded here, once.

        Raises:
            InputError: If the model does not write text.
        """
        self._refuse_encoders()
        if not self._keeps_state:
            return self._new(rows, length, sources)
        nothing = torch.zeros(rows, 0, dtype=torch.long, device=self._device)
        return StateCache(None if self._cache_argument is None else new_inner_cache(self.inner), length, nothing)

    def _refuse_encoders(self) -> None:
        if self.kind == "encoder":
            raise InputError(f"{_name(self.inner)} is an encoder: it reads, and writes no text", "use a decoder")

    @cached_property
    def _keeps_state(self) -> bool:
        """Whether the model is recurrent, at least in some layers."""
        return self.kind == "decoder" and keeps_state(self.inner, self._takes)

    @cached_property
    def _cache_argument(self) -> str | None:
        """Argument by which a recurrent model takes a cache of `transformers`; None where it can use none."""
        found = cache_argument(self.inner, self._takes, self._read)
        if found is None:
            log(
                f"{_name(self.inner)} keeps its state in a way of its own: each token reads the whole text, more slowly"
            )
        return found

    def _read(self, ids: torch.Tensor, cache: dict[str, Any]) -> torch.Tensor:
        """Return the features of ids, which a recurrent model reads with a cache, or without one."""
        named = {"use_cache": False, **cache}
        return self._captured({"input_ids": ids, **{key: named[key] for key in named if key in self._takes}}, Packing())

    def _step_state(self, ids: torch.Tensor, cache: StateCache) -> torch.Tensor:
        """Append tokens to the state of a recurrent model; see `step`."""
        before = cache.length
        cache.ids = torch.cat((cache.ids, ids), 1)
        if self._cache_argument is None:
            return self._read(cache.ids, {})[:, before:]
        arguments = {self._cache_argument: cache.inner, "use_cache": True}
        if not before:
            return self._read(ids, arguments)
        # Many models take more than one token for the beginning of a text, and forget their state.
        return torch.cat([self._read(one, arguments) for one in ids.split(1, 1)], 1)

    def step(
        self, ids: torch.Tensor, cache: HFCache | StateCache, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Append tokens to the cache and return their features, (rows, new, width).

        Args:
            ids: Ids of the new tokens, (rows, new). Prompts of different lengths are padded on the left.
            cache: Cache of the tokens before, which is extended.
            attention_mask: False on padding, (rows, new) bool; None where there is no padding.
        """
        if isinstance(cache, StateCache):
            return self._step_state(ids, cache)
        new = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask
        cache.attention_mask = torch.cat((cache.attention_mask, new), 1)
        positions = (cache.attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        side = "decoder_" if self.kind == "encoder-decoder" else ""
        arguments: dict[str, Any] = {
            f"{side}input_ids": ids,
            f"{side}attention_mask": cache.attention_mask.long(),
            "past_key_values": cache.inner,
            "use_cache": True,
        }
        if cache.encoded is not None:
            arguments |= {"encoder_outputs": (cache.encoded,), "attention_mask": cache.source_attention_mask}
        if "position_ids" in self._takes:
            arguments["position_ids"] = positions + (self.position_offset or 0)
        return self._captured(arguments, Packing(positions=positions) if self._looks_positions_up else Packing())

    @cached_property
    def _looks_positions_up(self) -> bool:
        """Whether the model has tables of positions that it can be given positions for in no other way."""
        return bool(position_tables(self.inner))

    def _captured(self, arguments: dict[str, Any], packing: Packing) -> torch.Tensor:
        """Run the model up to its head, and return the input of the head."""
        raise NotImplementedError

    @property
    def _device(self) -> torch.device:
        return next(self.inner.parameters()).device

    @property
    def _words(self) -> int:
        return self.inner.get_input_embeddings().weight.shape[0]

    def _setting(self, name: str) -> Any:
        """Return a setting of generation from the model's generation configuration, or else from its configuration."""
        settings = getattr(self.inner, "generation_config", None)
        value = getattr(settings, name, None)
        return getattr(self.inner.config, name, None) if value is None else value

    def _new(self, rows: int, length: int, sources: Sequence[Sequence[int]]) -> HFCache:
        from transformers import DynamicCache, EncoderDecoderCache

        nothing = torch.zeros(rows, 0, dtype=torch.bool, device=self._device)
        if self.kind == "decoder":
            return HFCache(DynamicCache(), length, nothing)
        encoded, attention_mask = self._encode(sources)
        return HFCache(EncoderDecoderCache(DynamicCache(), DynamicCache()), length, nothing, encoded, attention_mask)

    def _encode(self, sources: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output of the encoder and the mask of its padding; equal sources are encoded once."""
        place = {source: number for number, source in enumerate(dict.fromkeys(map(tuple, sources)))}
        longest = max(map(len, place))
        ids = torch.tensor([[*source, *[0] * (longest - len(source))] for source in place], device=self._device)
        lengths = torch.tensor([len(source) for source in place], device=self._device)
        attention_mask = torch.arange(longest, device=self._device) < lengths[:, None]
        encoder = self.inner.get_encoder()
        encoded = encoder(input_ids=ids, attention_mask=attention_mask.long(), return_dict=True).last_hidden_state
        order = torch.tensor([place[tuple(source)] for source in sources], device=self._device)
        return encoded[order], attention_mask[order]


def _name(inner: Any) -> str:
    return type(inner).__name__
