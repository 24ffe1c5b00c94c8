"""How a model of `transformers` reads token by token: its keys and values, and for encoder-decoders the sources too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch.nn.functional import pad

from lavra.core.errors import InputError
from lavra.models.hf.packing import Packing, position_tables

_KEYS_AND_VALUES = ("full_attention", "sliding_attention", "chunked_attention")
"""Kinds of layers whose memory is one key and one value for each token."""


class WrappedCache:
    """What a wrapped model remembers of the tokens that it has read.

    Attributes:
        inner: keys and values, a cache of `transformers`; for encoder-decoders those of the sources beside them.
        capacity: tokens that fit.
        real: (rows, length) bool, False on padding, which is on the left.
        encoded: (rows, source length, width) what the encoder made of the sources; None for decoders.
        source_real: (rows, source length) bool, False on padding, which is on the right.
    """

    def __init__(
        self,
        inner: Any,
        capacity: int,
        real: torch.Tensor,
        encoded: torch.Tensor | None = None,
        source_real: torch.Tensor | None = None,
    ) -> None:
        self.inner, self.capacity, self.real = inner, capacity, real
        self.encoded, self.source_real = encoded, source_real

    @property
    def length(self) -> int:
        """Tokens stored so far (padding included), the same for all rows."""
        return self.real.shape[1]

    def select(self, rows: torch.Tensor) -> None:
        """Keep, repeat or reorder rows: row i becomes what row `rows[i]` was (beams, finished rows, samples)."""
        self.inner.batch_select_indices(rows)
        self.real = self.real[rows]
        if self.encoded is not None and self.source_real is not None:
            self.encoded, self.source_real = self.encoded[rows], self.source_real[rows]

    def join(self, other: WrappedCache, capacity: int) -> WrappedCache:
        """Return a cache for up to `capacity` tokens with the rows of this one, then those of the other.

        Rows are moved to end together, and padding that no row needs is left out.
        """
        from transformers import EncoderDecoderCache

        length = max(self._longest(), other._longest())
        if capacity < length:
            raise ValueError(f"a cache of {capacity} tokens cannot hold rows of {length}")
        both = (self, other)
        real = torch.cat([_ending_at(one.real, length, 1) for one in both])
        if self.encoded is None:
            return WrappedCache(_joined(self.inner, other.inner, length, left=True), capacity, real)
        source = max(one.encoded.shape[1] for one in both if one.encoded is not None)
        inner = EncoderDecoderCache(
            _joined(self.inner.self_attention_cache, other.inner.self_attention_cache, length, left=True),
            _joined(self.inner.cross_attention_cache, other.inner.cross_attention_cache, source, left=False),
        )
        encoded = torch.cat([_begun_at(one.encoded, source, 1) for one in both if one.encoded is not None])
        source_real = torch.cat([_begun_at(one.source_real, source, 1) for one in both if one.source_real is not None])
        return WrappedCache(inner, capacity, real, encoded, source_real)

    def _longest(self) -> int:
        """Return the number of tokens of the longest row, without padding."""
        return int(self.real.sum(1).max())


def _ending_at(stored: torch.Tensor, length: int, dimension: int) -> torch.Tensor:
    """Return the last `length` places of a dimension, zeros before them where there are fewer."""
    kept = stored.narrow(dimension, max(0, stored.shape[dimension] - length), min(length, stored.shape[dimension]))
    after = [0, 0] * (stored.dim() - dimension - 1)
    return pad(kept, [*after, length - kept.shape[dimension], 0])


def _begun_at(stored: torch.Tensor, length: int, dimension: int) -> torch.Tensor:
    """Return the places of a dimension with zeros after them, up to `length`."""
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
    """Reading token by token, for a module that holds a model of `transformers` (see `lavra.generation.reader`).

    Attributes:
        inner: the model.
        kind: "decoder", "encoder" or "encoder-decoder".
        position_offset: what is added to positions before the model is given them.
    """

    inner: Any
    kind: Literal["decoder", "encoder", "encoder-decoder"]
    position_offset: int | None
    _takes: frozenset[str]

    @cached_property
    def beginning(self) -> tuple[int, ...]:
        """Ids that the decoder of an encoder-decoder begins with, a forced first token included; none for decoders."""
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
        """How many tokens at the end of `beginning` are the model's text already (0 or 1): a length counts them."""
        return int(bool(self.beginning) and self._setting("forced_bos_token_id") is not None)

    @cached_property
    def pads(self) -> bool:
        """Whether rows of different lengths can be read together: padding on the left then changes nothing.

        Measured on three tokens. A model whose positions cannot be told reads only rows of equal length together.
        """
        self._refuse_what_cannot_be_read()
        ids = torch.tensor([[1, 2, 3]], device=self._device) % self._words
        with torch.no_grad():
            plain = self.step(ids, self._new(1, 8, [(1, 2)]))
            real = torch.tensor([[False, False, True, True, True]], device=self._device)
            padded = self.step(pad(ids, (2, 0)), self._new(1, 8, [(1, 2)]), real)
        return bool(torch.allclose(plain, padded[:, 2:], rtol=1e-3, atol=1e-3 * float(plain.abs().max())))

    def new_cache(self, rows: int, length: int, sources: Sequence[Sequence[int]] = ()) -> WrappedCache:
        """Return an empty cache for `rows` sequences of at most `length` tokens.

        Args:
            rows: how many.
            length: tokens of each (of the decoder's side).
            sources: for encoder-decoders the ids that the encoder reads, for each row; they are encoded here, once.

        Raises:
            InputError: if the model does not write text, or keeps something else than keys and values.
        """
        self._refuse_what_cannot_be_read()
        return self._new(rows, length, sources)

    def _refuse_what_cannot_be_read(self) -> None:
        if self.kind == "encoder":
            raise InputError(f"{_name(self.inner)} is an encoder: it reads, and writes no text", "use a decoder")
        odd = sorted(set(self._layer_types) - set(_KEYS_AND_VALUES))
        if odd or "past_key_values" not in self._takes or getattr(self.inner, "_is_stateful", False):
            kinds = f" ({', '.join(odd)})" if odd else ""
            raise InputError(
                f"{_name(self.inner)} keeps no plain keys and values of what it read{kinds}, in which "
                "generation goes back and forth",
                "generate with transformers itself; training and evaluation work",
            )

    def step(self, ids: torch.Tensor, cache: WrappedCache, real: torch.Tensor | None = None) -> torch.Tensor:
        """Append (rows, new) tokens to the cache and return their (rows, new, width) features.

        Args:
            ids: the tokens; those of rows of different lengths are padded on the left.
            cache: what was read before; filled further.
            real: (rows, new) bool, False on padding. None: nothing is padding.
        """
        new = torch.ones_like(ids, dtype=torch.bool) if real is None else real
        cache.real = torch.cat((cache.real, new), 1)
        positions = (cache.real.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        side = "decoder_" if self.kind == "encoder-decoder" else ""
        arguments: dict[str, Any] = {
            f"{side}input_ids": ids,
            f"{side}attention_mask": cache.real.long(),
            "past_key_values": cache.inner,
            "use_cache": True,
        }
        if cache.encoded is not None:
            arguments |= {"encoder_outputs": (cache.encoded,), "attention_mask": cache.source_real}
        if "position_ids" in self._takes:
            arguments["position_ids"] = positions + (self.position_offset or 0)
        return self._captured(arguments, Packing(positions=positions) if self._looks_positions_up else Packing())

    @cached_property
    def _looks_positions_up(self) -> bool:
        """Whether the model has tables of positions that cannot be told otherwise; looked for once."""
        return bool(position_tables(self.inner))

    def _captured(self, arguments: dict[str, Any], packing: Packing) -> torch.Tensor:
        """Run the model up to its head, and return what the head would get."""
        raise NotImplementedError

    @property
    def _device(self) -> torch.device:
        return next(self.inner.parameters()).device

    @property
    def _words(self) -> int:
        return self.inner.get_input_embeddings().weight.shape[0]

    @property
    def _layer_types(self) -> Sequence[str]:
        text = self.inner.config.get_text_config(decoder=True)
        return getattr(text, "layer_types", None) or ()

    def _setting(self, name: str) -> Any:
        """Return a setting of generation: from the model's generation settings, else from its configuration."""
        settings = getattr(self.inner, "generation_config", None)
        value = getattr(settings, name, None)
        return getattr(self.inner.config, name, None) if value is None else value

    def _new(self, rows: int, length: int, sources: Sequence[Sequence[int]]) -> WrappedCache:
        from transformers import DynamicCache, EncoderDecoderCache

        nothing = torch.zeros(rows, 0, dtype=torch.bool, device=self._device)
        if self.kind == "decoder":
            return WrappedCache(DynamicCache(), length, nothing)
        encoded, real = self._encode(sources)
        return WrappedCache(EncoderDecoderCache(DynamicCache(), DynamicCache()), length, nothing, encoded, real)

    def _encode(self, sources: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the encoder makes of the sources, each distinct one encoded once, and which places are real."""
        place = {source: number for number, source in enumerate(dict.fromkeys(map(tuple, sources)))}
        longest = max(map(len, place))
        ids = torch.tensor([[*source, *[0] * (longest - len(source))] for source in place], device=self._device)
        lengths = torch.tensor([len(source) for source in place], device=self._device)
        real = torch.arange(longest, device=self._device) < lengths[:, None]
        encoder = self.inner.get_encoder()
        encoded = encoder(input_ids=ids, attention_mask=real.long(), return_dict=True).last_hidden_state
        order = torch.tensor([place[tuple(source)] for source in sources], device=self._device)
        return encoded[order], real[order]


def _name(inner: Any) -> str:
    return type(inner).__name__
