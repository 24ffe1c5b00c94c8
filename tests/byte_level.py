"""A byte-level stand-in for the tokenizer and tiny decoders with lively random weights, for tests of what uses them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.spec import DecoderSpec


class ByteTokenizer:
    """One token per UTF-8 byte, and 256 for the end of a document, which is also read before a text."""

    vocabulary_size = 257
    end_of_document = beginning = document_bos = 256
    end_ids: tuple[int, ...] = (256,)
    stop_strings: tuple[str, ...] = ()
    text_bos: tuple[int, ...] = (256,)
    around_source: tuple[list[int], list[int]] = ([], [256])
    fingerprint = "bytes"

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf8", "surrogatepass"))

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array(self.encode(text), dtype=np.int64) for text in texts]

    def decode(self, ids: Any) -> str:
        return bytes(int(one) for one in ids).decode("utf8", "replace")


def lively_decoder(seed: int = 0, **fields: Any) -> Decoder:
    """A tiny decoder in float64 whose distributions are far from uniform."""
    spec = DecoderSpec(**{"vocabulary": 257, "context": 16, "depth": 2, "width": 16, "heads": 2, **fields})
    model = build_decoder(spec, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6, generator=generator)
    return model.double().eval()
