"""Checkpoints of llama2.c (Karpathy 2023): a header and float32 tensors of a Llama that rotates neighbouring pairs."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lavra.core.errors import CorruptFile, InputError
from lavra.models.families.family import Names, join
from lavra.models.families.layouts import QUERY_KEY_VALUE, QUERY_KEY_VALUE_IN_PAIRS
from lavra.models.families.llama import LLAMA
from lavra.models.native.decoder import Decoder
from lavra.models.native.store import decoder_from
from lavra.models.spec import DecoderSpec

MAGIC = 0x616B3432
"""First number of a file of version 1 or later, the characters "ak42"."""

_SIZES = "<7i"
"""The sizes in the header: seven little-endian integers of 32 bits."""

_SIZES_END = 28
"""Bytes of the header of version 0, and of the padded header of version 1."""
_VERSION_1_START = 256

_LARGEST = 1 << 24
"""Largest size that a header of version 0, which has no magic number, may plausibly state."""

_FAMILY = replace(
    LLAMA,
    title="llama2.c model",
    names=tuple(
        Names(line.ours, line.theirs, QUERY_KEY_VALUE_IN_PAIRS if line.layout is QUERY_KEY_VALUE else line.layout)
        for line in LLAMA.names
    ),
)


@dataclass(frozen=True)
class _Header:
    spec: DecoderSpec
    start: int
    version: int


def is_llama2c(path: Path) -> bool:
    """Return whether a path is a file that begins like a checkpoint of llama2.c.

    Args:
        path: Any path.
    """
    if path.suffix != ".bin" or not path.is_file():
        return False
    with path.open("rb") as handle:
        head = handle.read(_SIZES_END)
    if len(head) < _SIZES_END or head[:2] == b"PK":  # torch's own .bin is a zip file
        return False
    sizes = struct.unpack(_SIZES, head)
    return sizes[0] == MAGIC or _plausible(sizes)


def read_llama2c(path: Path) -> Decoder:
    """Return the decoder of a checkpoint of version 0 or 1, which are float32; version 0 has no magic number.

    Args:
        path: File of the checkpoint.

    Raises:
        InputError: If the file is no checkpoint of llama2.c, or one of a quantised version.
        CorruptFile: If the file is shorter than its header says.
    """
    header = _read_header(path)
    places: dict[str, tuple[int, tuple[int, ...]]] = {}
    end = header.start
    for name, shape in _tensors(header):
        places[name] = (end, shape)
        end += 4 * math.prod(shape)
    size = path.stat().st_size
    if size < end:
        raise CorruptFile(f"{path} is cut short: it has {size} bytes, and its header asks for {end}", "copy it again")

    def get(name: str) -> torch.Tensor:
        begin, shape = places[name]
        return torch.from_numpy(np.fromfile(path, "<f4", math.prod(shape), offset=begin)).view(shape)

    weights = join(_FAMILY, header.spec, get, torch.float32, str(path))
    return decoder_from(header.spec, weights, str(path))


def _plausible(sizes: tuple[int, ...]) -> bool:
    width, _, _, heads, kv_heads, _, _ = sizes
    in_range = all(0 < abs(size) < _LARGEST for size in sizes)
    return in_range and min(width, heads, kv_heads) > 0 and width % heads == 0 and heads % kv_heads == 0


def _read_header(path: Path) -> _Header:
    with path.open("rb") as handle:
        head = handle.read(_VERSION_1_START)
    sizes, version = struct.unpack_from(_SIZES, head), 0
    if sizes[0] == MAGIC:
        version = sizes[1]
        if version != 1 or len(head) < _VERSION_1_START:
            raise InputError(
                f"{path} is a llama2.c checkpoint of version {version}; versions 0 and 1 are read",
                "export the model again as version 1 (float32)",
            )
        sizes = struct.unpack_from(_SIZES, head, 8)
        shared = bool(head[8 + _SIZES_END])
    else:
        shared = sizes[5] > 0  # in version 0 the sign of the vocabulary says it
    if not _plausible(sizes):
        raise InputError(f"{path} is no llama2.c checkpoint: its header says {sizes}", "give a model.bin of llama2.c")
    width, hidden, depth, heads, kv_heads, vocabulary, context = sizes
    fields = {
        "vocabulary": abs(vocabulary),
        "context": context,
        "depth": depth,
        "width": width,
        "heads": heads,
        "kv_heads": kv_heads,
        "mlp_width": hidden,
        "norm": "rmsnorm",
        "norm_epsilon": 1e-5,
        "norm_weight": True,
        "activation": "swiglu",
        "qk_norm": False,
        "embedding_norm": False,
        "tied": shared,
        "initialization": "gpt2",
    }
    return _Header(DecoderSpec.from_dict(fields), _VERSION_1_START if version else _SIZES_END, version)


def _tensors(header: _Header) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names of the tensors, which are those of Llama, and their shapes in the order of the file."""
    spec = header.spec
    width, queries, keys = spec.width, spec.heads * spec.size_of_head, spec.key_value_heads * spec.size_of_head
    embedding = [("embed_tokens.weight", (spec.vocabulary, width))]
    head = [] if spec.tied else [("lm_head.weight", (spec.vocabulary, width))]
    attention_norm = _layers(spec, "input_layernorm", (width,))
    mlp_norm = _layers(spec, "post_attention_layernorm", (width,))
    final_norm = [("norm.weight", (width,))]
    attention = [
        *_layers(spec, "self_attn.q_proj", (queries, width)),
        *_layers(spec, "self_attn.k_proj", (keys, width)),
        *_layers(spec, "self_attn.v_proj", (keys, width)),
        *_layers(spec, "self_attn.o_proj", (width, queries)),
    ]
    mlp = [
        *_layers(spec, "mlp.gate_proj", (spec.hidden_width, width)),
        *_layers(spec, "mlp.down_proj", (width, spec.hidden_width)),
        *_layers(spec, "mlp.up_proj", (spec.hidden_width, width)),
    ]
    if header.version == 1:
        yield from [*attention_norm, *mlp_norm, *final_norm, *embedding, *attention, *mlp, *head]
    else:
        unused_tables = [("rotary tables", (2, spec.context, spec.size_of_head // 2))]
        yield from [*embedding, *attention_norm, *attention, *mlp_norm, *mlp, *final_norm, *unused_tables, *head]


def _layers(spec: DecoderSpec, name: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"layers.{layer}.{name}.weight", shape) for layer in range(spec.depth)]
