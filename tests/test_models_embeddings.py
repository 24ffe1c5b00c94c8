"""Input embeddings may be given in place of ids: the table's own rows are the same features to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import hf_models as tiny
from lavra.core.errors import InputError
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import Batch
from tiny_training import SPEC, lively

OURS = {
    "plain": SPEC,
    "bigrams": replace(SPEC, bigram_embedding=64, ngram_copy=True, positions="learned", embedding_norm_weight=True),
    "projected": replace(SPEC, embedding_width=16),
}


def packed_batch() -> Batch:
    """Return two documents in one sequence and one in another, with padding."""
    inputs = torch.randint(0, SPEC.vocabulary, (2, 12), generator=torch.Generator().manual_seed(0))
    document_ids = torch.tensor([[0] * 5 + [1] * 7, [0] * 9 + [-1] * 3], dtype=torch.int32)
    positions = torch.tensor([[*range(5), *range(7)], [*range(9), 0, 0, 0]])
    return Batch(inputs, inputs, document_ids, positions, weight=24.0)


def decoder(name: str) -> Decoder:
    return lively(OURS[name]).eval()


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_the_rows_of_our_decoders_table_are_its_features(name: str):
    model, batch = decoder(name), packed_batch()
    rows = model.embed(batch.inputs)
    assert rows.shape == (2, 12, model.spec.size_of_embedding)
    assert torch.equal(model.features(batch, rows), model.features(batch))
    assert not torch.equal(model.features(batch, rows + 0.1), model.features(batch))


@pytest.mark.parametrize("layout", ["packed", "padded", "alone"])
@pytest.mark.parametrize("name", list(tiny.FAMILIES))
@torch.no_grad()
def test_the_rows_of_the_table_are_the_features_of_every_family(name: str, layout: str):
    model = tiny.shared_model(name)
    given = tiny.documents(model)
    batch = {
        "packed": lambda: tiny.packed(given),
        "padded": lambda: tiny.padded(given, "right"),
        "alone": lambda: tiny.alone(given[0]),
    }[layout]()
    plain, rows = model.features(batch), model.embed(batch.inputs)
    assert torch.equal(model.features(batch, rows), plain)
    assert not torch.equal(model.features(batch, rows * 1.5), plain)
    if model.kind == "encoder-decoder":
        source = model.embed(batch.model_inputs["encoder_inputs"], encoder=True)
        for factor in (1.0, 1.5):
            told = replace(batch, model_inputs=batch.model_inputs | {"encoder_embeddings": source * factor})
            assert torch.equal(model.features(told), plain) == (factor == 1.0)
            assert torch.equal(model.features(told, rows), plain) == (factor == 1.0)


@pytest.mark.parametrize("name", ["ours", "gpt2", "bert", "t5"])
def test_a_gradient_reaches_them_and_through_them_the_table(name: str):
    model: Any = decoder("plain") if name == "ours" else tiny.hf_model(name)
    batch = packed_batch() if name == "ours" else tiny.packed(tiny.documents(model))
    rows = model.embed(batch.inputs)
    rows.retain_grad()
    model.features(batch, rows).square().sum().backward()
    assert rows.grad is not None
    assert rows.grad.abs().sum() > 0


def test_a_model_that_takes_ids_alone_says_so():
    model = tiny.hf_model("gpt2")
    model._takes = model._takes - {"inputs_embeds"}
    batch = tiny.alone(tiny.documents(model)[0])
    with pytest.raises(InputError, match="takes no embeddings in place of ids"):
        model.features(batch, model.embed(batch.inputs))
