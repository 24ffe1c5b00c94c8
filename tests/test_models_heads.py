"""Heads and pooling: packed documents are the documents one by one, for our decoder and every kind of model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import hf_models as tiny
from lavra.core.errors import InputError
from lavra.models.heads import (
    EmbeddingHead,
    Head,
    LMHead,
    SequenceHead,
    SpanHead,
    TokenHead,
    attach_head,
    head_from_dict,
    head_of,
    width_of,
)
from lavra.models.hf.folders import open_hf_model
from lavra.models.hf.kinds import quietly
from lavra.models.pooling import POOLINGS, Pooling, documents_of, pool
from lavra.models.protocols import Batch, Model
from tiny_training import SPEC, lively

NAMES = ["ours", "gpt2", "bert", "t5", "bart", "granite", "modernbert"]


def model_of(name: str) -> Any:
    return lively(replace(SPEC, vocabulary=tiny.VOCABULARY)).eval() if name == "ours" else tiny.hf_model(name).eval()


def documents_for(name: str) -> list[tiny.Document]:
    return tiny.documents(tiny.shared_model("gpt2" if name == "ours" else name))


def heads(width: int) -> dict[str, Head]:
    made: dict[str, Head] = {
        "sequence": SequenceHead(width, 3, dropout=0.1),
        "attention": SequenceHead(width, 3, pooling="attention"),
        "token": TokenHead(width, 5),
        "span": SpanHead(width),
        "embedding": EmbeddingHead(width, pooling="last"),
        "projected": EmbeddingHead(width, pooling="max", normalise=False, dimensions=4),
    }
    for head in made.values():
        head.initialize(torch.Generator().manual_seed(2))
        nn.init.normal_(next(head.parameters(), torch.empty(0)), generator=torch.Generator().manual_seed(5))
        head.eval()
    return made


def plain(pooling: Pooling, features: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return the vector of one document of (length, width) features."""
    return {
        "first": lambda: features[0],
        "last": lambda: features[-1],
        "mean": lambda: features.mean(0),
        "max": lambda: features.amax(0),
        "attention": lambda: (torch.softmax(scores, 0)[:, None] * features).sum(0),
    }[pooling]()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_that_of_each_document_by_itself(pooling: Pooling):
    ids = torch.tensor([[-1, 0, 0, 0, 1, 1], [0, 1, 1, 2, -1, -1], [-1] * 6, [0] * 6])
    spans = [(0, 1, 4), (0, 4, 6), (1, 0, 1), (1, 1, 3), (1, 3, 4), (3, 0, 6)]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64).requires_grad_()
    scores = torch.randn(4, 6, generator=generator, dtype=torch.float64) * 100
    documents = documents_of(Batch(ids, ids, ids.int()))
    found = pool(features, documents, pooling, scores)
    expected = torch.stack([plain(pooling, features[s, i:j], scores[s, i:j]) for s, i, j in spans])
    torch.testing.assert_close(found, expected)
    outcome = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(found, features, outcome)[0], torch.autograd.grad(expected, features, outcome)[0]
    )
    assert pool(features.bfloat16(), documents, pooling, scores).dtype == torch.bfloat16


def test_without_numbers_each_sequence_is_a_document():
    ids = torch.zeros(3, 4, dtype=torch.int64)
    one, other = documents_of(Batch(ids, ids)), documents_of(Batch(ids, ids, ids.int()))
    assert one.first.tolist() == other.first.tolist() == [0, 4, 8]
    assert one.index.tolist() == other.index.tolist()
    assert one.last.tolist() == other.last.tolist() == [3, 7, 11]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_outputs_of_packed_and_padded_documents_are_those_of_each_alone(name: str):
    model, given = model_of(name), documents_for(name)
    for kind, head in heads(width_of(model)).items():
        attach_head(model, head)
        alone = [head(model.features(batch), batch)[0] for batch in map(tiny.alone, given)]
        for batch in (tiny.packed(given), tiny.padded(given, "right"), tiny.padded(given, "left")):
            found = head(model.features(batch), batch)
            if kind in ("token", "span"):
                assert batch.document_ids is not None
                real = batch.document_ids >= 0
                assert kind == "token" or bool(torch.isneginf(found[~real]).all())
                torch.testing.assert_close(found[real], torch.cat(alone), atol=1e-4, rtol=1e-4)
            else:
                torch.testing.assert_close(found, torch.stack(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", list(tiny.FAMILIES))
@torch.no_grad()
def test_a_task_head_reads_the_last_hidden_states_of_transformers(name: str):
    model = tiny.hf_model(name).eval()
    given = tiny.documents(model)
    attach_head(model, SequenceHead(width_of(model), 2))
    theirs = []
    for inputs, _, source in given:
        if source is None:
            theirs.append(model.inner.base_model(input_ids=inputs[None]).last_hidden_state[0])
        else:
            told = model.inner(input_ids=source[None], decoder_input_ids=inputs[None], output_hidden_states=True)
            theirs.append(told.decoder_hidden_states[-1][0])
    batch = tiny.packed(given)
    assert batch.document_ids is not None
    found = model.features(batch)
    torch.testing.assert_close(found[batch.document_ids >= 0], torch.cat(theirs), atol=1e-4, rtol=1e-4)
    assert torch.equal(model.features(batch, model.embed(batch.inputs)), found)


@pytest.mark.parametrize("name", ["ours", "bert", "gemma2"])
@torch.no_grad()
def test_the_head_of_a_language_model_is_the_models_own(name: str):
    model = model_of(name)
    batch = tiny.alone(documents_for(name)[0])
    head = LMHead(model)
    assert torch.equal(head(model.features(batch), batch), model.head(model.features(batch)))
    assert head.state_dict() == {}
    assert isinstance(head_from_dict({"kind": "lm", "width": 0}, model), LMHead)


def test_a_specification_and_the_weights_are_the_head():
    for head in heads(16).values():
        again = head_from_dict(json.loads(json.dumps(head.to_dict()))).eval()
        assert again.to_dict() == head.to_dict()
        again.load_state_dict(head.state_dict())
        features = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
        batch = Batch(torch.zeros(2, 6), torch.zeros(2, 6))
        assert torch.equal(again(features, batch), head(features, batch))


def test_fresh_weights_depend_on_the_seed_alone():
    one, other = SequenceHead(8, 3, "attention"), SequenceHead(8, 3, "attention")
    for head in (one, other):
        torch.rand(3)
        head.initialize(torch.Generator().manual_seed(1))
    assert all(torch.equal(left, other.state_dict()[name]) for name, left in one.state_dict().items())
    assert not one.output.bias.any()


def test_vectors_have_the_length_one():
    vectors = EmbeddingHead(8)(torch.randn(3, 5, 8) * 9, Batch(torch.zeros(3, 5), torch.zeros(3, 5)))
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))


def test_a_head_becomes_a_part_of_its_model():
    model = lively(SPEC)
    before = set(model.state_dict())
    with pytest.raises(InputError, match="no head"):
        head_of(model)
    head = SequenceHead(width_of(model), 2)
    attach_head(cast("Model", model), head)
    assert head_of(model) is head
    assert set(model.state_dict()) - before == {"task_head.output.weight", "task_head.output.bias"}
    with pytest.raises(InputError, match="features of 7"):
        attach_head(cast("Model", model), SequenceHead(7, 2))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "crown"}, "no head called 'crown'"),
        ({"kind": "sequence", "width": 8}, "specification of the sequence head"),
        ({"kind": "sequence", "width": 8, "classes": 0}, "0 classes"),
        ({"kind": "embedding", "width": 8, "pooling": "median"}, "'median' is no pooling"),
        ({"kind": "lm", "width": 0}, "needs its model"),
    ],
)
def test_a_specification_that_makes_no_head_is_refused(spec: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        head_from_dict(spec)


@pytest.mark.parametrize("name", ["ours", *tiny.FAMILIES])
def test_what_a_task_does_not_use_is_frozen_and_all_else_learns(name: str):
    model = model_of(name)
    before = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    attach_head(model, SequenceHead(width_of(model), 2))
    batch = tiny.packed(documents_for(name))
    head_of(model)(model.features(batch), batch).square().sum().backward()
    learned = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert learned == {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert learned <= before | {"task_head.output.weight", "task_head.output.bias"}
    assert len(learned) > len(before) // 2


def test_an_encoder_without_its_head_is_opened_for_a_task_only(tmp_path: Path):
    inner = tiny.plain_model("bert")
    with quietly():
        inner.bert.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no weights for"):
        open_hf_model(tmp_path)
    model, again = (open_hf_model(tmp_path, for_task_head=True) for _ in range(2))
    attach_head(model, EmbeddingHead(width_of(model)))
    batch = tiny.alone(tiny.documents(model)[0])
    with torch.no_grad():
        expected = inner.bert(input_ids=batch.inputs).last_hidden_state
        torch.testing.assert_close(model.features(batch), expected)
    assert all(torch.equal(one, again.state_dict()[key]) for key, one in model.state_dict().items())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="no weights for 1 tensors"):
        open_hf_model(tmp_path, for_task_head=True)
