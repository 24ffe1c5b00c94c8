"""Encoder-decoders put together of a pretrained encoder and a decoder: their ties, their limits, and parts unused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hf_models as tiny
from hf_training import check_context_of
from lavra.checks.base import CheckContext
from lavra.checks.batches import ENCODER_DOCUMENT_IDS, ENCODER_INPUTS, with_room
from lavra.checks.documents import check_documents, check_padding
from lavra.checks.gradients import check_tied
from lavra.checks.suite import QUICK, run_checks
from lavra.data.examples.store import Example, PackedRow
from lavra.models.certificate import certify
from lavra.models.hf.folders import open_hf_model, save_hf_model
from lavra.models.hf.model import HFModel
from lavra.models.protocols import Batch
from lavra.objectives.seq2seq import Seq2Seq

POSITIONS = 64
SIZES: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
}


def put_together(**decoder: Any) -> HFModel:
    """Return a BERT2BERT model whose encoder has a pooler, as that of every sentence encoder has."""
    from transformers import BertConfig, BertLMHeadModel, BertModel, EncoderDecoderModel

    torch.manual_seed(0)
    encoder = BertModel(BertConfig(**SIZES))
    writer = BertLMHeadModel(BertConfig(**{**SIZES, "is_decoder": True, "add_cross_attention": True, **decoder}))
    model: Any = EncoderDecoderModel(encoder=encoder, decoder=writer)
    model.config.decoder_start_token_id, model.config.pad_token_id = tiny.START, tiny.PAD
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.05
    return HFModel(model.eval(), "encoder-decoder")


def full_rows(source: int, count: int = 8) -> list[PackedRow]:
    """Return rows of one document each, whose sources have `source` tokens."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(count):
        read = rng.integers(tiny.FIRST, tiny.VOCABULARY, source)
        answer = np.append(read[:12], tiny.END)
        rows.append(PackedRow((Example(number, answer, np.ones(len(answer), bool), read),)))
    return rows


def check_context(source: int = POSITIONS, **decoder: Any) -> CheckContext:
    model = put_together(**decoder)
    return check_context_of(
        model, rows=full_rows(source), objective=Seq2Seq(POSITIONS, POSITIONS, model.decoder_inputs)
    )


def model_of(given: CheckContext) -> Any:
    return given.module


def test_the_tie_is_that_of_the_decoder() -> None:
    assert put_together().tied
    assert not put_together(tie_word_embeddings=False).tied


def test_poolers_keep_their_values_and_their_place_in_the_file(tmp_path: Path) -> None:
    model = put_together()
    assert model.unused == {"inner.encoder.pooler.dense.weight", "inner.encoder.pooler.dense.bias"}
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == model.unused
    save_hf_model(tmp_path / "saved", model)
    again = dict(open_hf_model(tmp_path / "saved").named_parameters())
    assert all(torch.equal(weight, again[name]) for name, weight in model.named_parameters())


def test_nothing_is_unused_in_a_model_for_tokens() -> None:
    assert tiny.shared_model("bert").unused == frozenset()


def test_the_shorter_side_is_the_limit() -> None:
    assert put_together().context == POSITIONS
    assert put_together(max_position_embeddings=32).context == 32


def test_the_battery_finds_no_fault_with_rows_as_long_as_the_model_reads() -> None:
    given = check_context()
    given.frozen = model_of(given).unused
    assert given.encoded.model_inputs[ENCODER_INPUTS].shape[1] == POSITIONS
    wrong = [f"{one.name}: {one.measured}" for one in run_checks(given, QUICK).results if one.verdict == "fail"]
    assert wrong == []


@pytest.mark.parametrize("tied", [True, False])
def test_a_tie_that_is_not_there_is_seen_on_the_decoders_side(tied: bool) -> None:
    given = check_context(tie_word_embeddings=tied)
    assert check_tied(given.module, given.tied, "tied_weights").verdict == "ok"
    writer: Any = model_of(given).inner.decoder
    writer.set_output_embeddings(torch.nn.Linear(32, tiny.VOCABULARY))
    writer.cls.predictions.decoder.weight = (
        torch.nn.Parameter(torch.zeros(tiny.VOCABULARY, 32)) if tied else writer.get_input_embeddings().weight
    )
    assert check_tied(given.module, given.tied, "tied_weights").verdict == "fail"


def test_padding_and_neighbours_are_tried_inside_of_the_limit() -> None:
    given = check_context()
    (padding,), (documents,) = check_padding(given), check_documents(given)
    assert (padding.verdict, documents.verdict) == ("ok", "ok")
    assert "leave no room" not in padding.measured
    assert "two documents were packed for this check" in documents.measured


def test_room_is_made_of_padding_first_and_then_of_the_longest_text() -> None:
    ids = torch.arange(20)[None]
    document_ids = torch.tensor([[0] * 5 + [1] * 12 + [-1] * 3])
    extra = {ENCODER_INPUTS: ids, ENCODER_DOCUMENT_IDS: document_ids}
    batch = Batch(ids, ids, model_inputs=extra)
    assert with_room(batch, 4, 24) is batch
    shorter = with_room(batch, 8, 20)
    assert shorter is not None
    assert shorter.model_inputs[ENCODER_DOCUMENT_IDS].tolist() == [[0] * 5 + [1] * 7]
    assert shorter.model_inputs[ENCODER_INPUTS].tolist() == [list(range(12))]
    assert with_room(batch, 19, 20) is None
    assert with_room(Batch(ids, ids), 8, 20) is not None


@pytest.mark.usefixtures("reference_in_this_process")
def test_the_certificate_sees_the_decoders_tie(tmp_path: Path) -> None:
    model = put_together()
    save_hf_model(tmp_path / "saved", model)
    sources = [list(range(6, 16)), list(range(20, 33))]
    certificate = certify(model, tmp_path / "saved", [[7, 8, 9], [10, 11]], sources=sources)
    assert (certificate.tied, certificate.transformers_tied) == (True, True)
    assert certificate.tied_by_config
