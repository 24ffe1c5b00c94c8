"""Wrapped models compute what `transformers` computes: alone, padded on either side, and packed into one row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hf_models as tiny
from lavra.core.errors import InputError
from lavra.models.hf import probe
from lavra.models.hf.model import HFModel, context_of
from lavra.models.protocols import IGNORED, Batch, Model
from lavra.models.transforms.checkpointing import CheckpointBlocks
from lavra.objectives.causal import Causal

TOLERANCE = 1e-5
NAMES = list(tiny.FAMILIES)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= TOLERANCE * max(1.0, float(theirs.abs().max())))


def laid_out(batch: Batch, logits: torch.Tensor) -> torch.Tensor:
    """Return the logits of real tokens, in the order of the documents."""
    assert batch.document_ids is not None
    return logits[batch.document_ids >= 0]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_logits_alone_padded_and_packed_are_those_of_transformers(name):
    model = tiny.shared_model(name)
    assert isinstance(model, Model)
    assert model.supports_packing
    given = tiny.documents(model)
    theirs = [tiny.plain_logits(model, document) for document in given]
    for document, expected in zip(given, theirs, strict=True):
        assert close(model.head(model.features(tiny.alone(document)))[0], expected)
    for batch in (tiny.padded(given, "right"), tiny.padded(given, "left"), tiny.packed(given)):
        assert close(laid_out(batch, model.head(model.features(batch))), torch.cat(theirs))


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_of_a_packed_row_are_those_of_transformers_one_by_one(name):
    model = tiny.shared_model(name)
    given = tiny.documents(model)
    parameters = dict(model.named_parameters())
    ours = Causal(64).loss(model, tiny.packed(given))
    mine = torch.autograd.grad(ours.sum, list(parameters.values()), allow_unused=True)
    plain = sum(
        F.cross_entropy(tiny.plain_logits(model, document), document[1], ignore_index=IGNORED, reduction="sum")
        for document in given
    )
    assert isinstance(plain, torch.Tensor)
    theirs = torch.autograd.grad(plain, list(parameters.values()), allow_unused=True)
    assert float(ours.sum.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    largest = max(float(one.abs().max()) for one in theirs if one is not None)
    for key, one, other in zip(parameters, mine, theirs, strict=True):
        assert (one is None) == (other is None), key
        if one is not None and other is not None:
            assert float((one - other).abs().max()) <= TOLERANCE * largest, key


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_stands_in_padding_and_in_other_documents_is_never_seen(name):
    model = tiny.shared_model(name)
    first, second, third = tiny.documents(model)
    other = tiny.documents(model, seed=8)[1]
    lengths = len(first[0]), len(second[0])
    before = model.features(tiny.packed([first, second, third]))
    after = model.features(tiny.packed([first, other, third], noise=tiny.VOCABULARY - 1))
    assert torch.equal(before[:, : lengths[0]], after[:, : lengths[0]])
    start = sum(lengths)
    assert torch.equal(before[:, start : start + len(third[0])], after[:, start : start + len(third[0])])


def test_a_sliding_window_still_slides_inside_each_document():
    model = tiny.shared_model("mistral")
    given = tiny.documents(model, (12, 12))
    with torch.no_grad():
        whole = model.features(tiny.packed(given))
        one_layer_back = given[1][0].clone()
        one_layer_back[0] = tiny.FIRST + (int(one_layer_back[0]) + 1 - tiny.FIRST) % 50
        changed = model.features(tiny.packed([given[0], (one_layer_back, given[1][1], None)]))
    moved = (whole[0, 12:24] - changed[0, 12:24]).abs().amax(-1) > 0
    assert moved.tolist() == [True] * 5 + [False] * 7  # two layers of windows of three


@pytest.mark.parametrize(
    ("name", "expected"),
    [("t5", [tiny.PAD, 7, 8, tiny.END]), ("bart", [tiny.END, 7, 8, tiny.END]), ("mbart", [9, 7, 8, tiny.END])],
)
def test_the_decoders_inputs_follow_the_models_own_rule(name, expected):
    assert tiny.shared_model(name).decoder_inputs([7, 8, tiny.END, 9]) == expected


@pytest.mark.parametrize("supports_packing", [True, False])
@pytest.mark.parametrize("name", ["t5", "bart"])
@torch.no_grad()
def test_one_side_may_be_told_apart_alone(name, supports_packing):
    model = tiny.hf_model(name)
    model.supports_packing = supports_packing
    document = tiny.documents(model)[0]
    theirs = tiny.plain_logits(model, document)
    batch = tiny.padded([document], "right")
    attention_mask = batch.model_inputs["encoder_document_ids"] >= 0
    only_written = replace(
        batch, model_inputs={"encoder_inputs": batch.model_inputs["encoder_inputs"][:, attention_mask[0]]}
    )
    assert close(laid_out(only_written, model.head(model.features(only_written))), theirs)
    only_read = replace(tiny.alone(document), model_inputs=batch.model_inputs)
    assert close(model.head(model.features(only_read))[0], theirs)


def test_a_decoder_has_no_shifted_inputs():
    with pytest.raises(InputError, match="no encoder-decoder"):
        tiny.shared_model("gpt2").decoder_inputs([7])
    nameless = tiny.hf_model("t5", decoder_start_token_id=None, pad_token_id=None)
    with pytest.raises(InputError, match="cannot shift targets"):
        nameless.decoder_inputs([7])


@pytest.mark.parametrize("name", NAMES)
def test_positions_head_and_ties(name):
    model = tiny.shared_model(name)
    assert model.tied is (name not in ("t5-gated", "llama", "mistral", "granite"))
    assert model.vocabulary == tiny.VOCABULARY
    weight, bias = model.output_projection()
    assert weight is model.inner.get_output_embeddings().weight
    assert (bias is not None) == (model.kind == "encoder" or name in ("bart", "mbart"))
    assert {"roberta": 2, "t5": None, "bart": None, "gpt2": 0}.get(name, model.position_offset) == model.position_offset
    assert model.context == {"roberta": 62, "t5": 512, "t5-gated": 512, "bloom": 2048}.get(name, 64)
    assert model.scale == pytest.approx(0.25 if name == "granite" else 1.0)


def test_a_configuration_without_a_length_has_that_of_t5():
    assert context_of(object(), 0) == 512


def test_logits_bent_in_a_models_own_way_are_refused_though_small_ones_hardly_show_it():
    import transformers

    class Bent(transformers.GPT2LMHeadModel):
        def forward(self, input_ids: Any = None, **options: Any) -> Any:
            found = super().forward(input_ids, **options)
            found.logits = 30 * F.softsign(found.logits / 30)
            return found

    plain = tiny.plain_model("gpt2", noise=0.0)
    bent = Bent(plain.config).eval()
    ids = torch.arange(6, 20)[None]
    with torch.no_grad():
        for parameter in (*plain.parameters(), *bent.parameters()):
            parameter.mul_(0.3)  # logits so small that the bending is below the tolerance
        assert bent(ids).logits.abs().max() < 0.05
    with pytest.raises(InputError, match="not a matrix times"):
        HFModel(bent, "decoder")
    assert HFModel(plain, "decoder").logit_cap is None


def test_logits_that_the_configuration_caps_are_the_models_own():
    model = tiny.shared_model("gemma2")
    assert model.logit_cap == 2.0
    (document, *_) = tiny.documents(model)
    with torch.no_grad():
        logits = model.head(model.features(tiny.alone(document)))[0]
        assert torch.allclose(logits, tiny.plain_logits(model, document), atol=1e-5)
    assert 0.5 < float(logits.abs().max()) < 2.0


def test_a_model_without_a_head_is_refused():
    import transformers

    bare = transformers.BertModel(transformers.BertConfig(vocab_size=64, **tiny._BERT))
    with pytest.raises(InputError, match="no language-model head"):
        HFModel(bare, "encoder")


class Leaky(nn.Embedding):
    """Adds to every token what stands before it in the row, whatever the document."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        found = super().forward(input)
        return found + 0.1 * torch.roll(found, 1, 1)


def test_a_model_that_mixes_neighbours_is_measured_as_not_isolating_and_takes_one_document_a_row():
    inner = tiny.plain_model("bert")
    inner.bert.embeddings.word_embeddings = Leaky(tiny.VOCABULARY, 32)
    model = HFModel(inner, "encoder")
    assert not model.supports_packing
    given = tiny.documents(model)
    with pytest.raises(InputError, match="cannot keep documents of one row apart"):
        model.features(tiny.packed(given))


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "opt", "bert", "deberta-v2", "t5", "bart"])
def test_without_isolation_right_padding_is_still_masked(name):
    model = tiny.hf_model(name)
    model.supports_packing = False
    given = tiny.documents(model)
    batch = tiny.padded(given, "right")
    theirs = torch.cat([tiny.plain_logits(model, document) for document in given])
    assert close(laid_out(batch, model.head(model.features(batch))), theirs)


def test_the_probe_sees_a_mask_that_is_not_narrowed(monkeypatch):
    from lavra.models.hf import packing

    for name in ("opt", "bloom", "t5", "bart", "bert", "roberta", "deberta-v2", "modernbert"):
        model = tiny.shared_model(name)
        with monkeypatch.context() as patched, torch.no_grad():
            patched.setattr(packing, "_current", type("Never", (), {"get": lambda _: None, "set": lambda *_: None,
                                                                    "reset": lambda *_: None})())  # fmt: skip
            patched.setattr(packing, "self_masking_encoders", lambda _: [])
            assert not probe._isolates(model), name


@pytest.mark.parametrize("name", ["gpt2", "t5", "bart", "bert", "deberta-v2", "modernbert"])
def test_checkpointed_gradients_are_the_same(name):
    model = tiny.hf_model(name)
    batch = tiny.packed(tiny.documents(model))
    found = []
    for wanted in (False, True):
        if wanted:
            CheckpointBlocks().apply(model)
        # Checkpointing works in training mode only; dropout is zero, so that both are the same function.
        for module in model.modules():
            module.training = True
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.inner.config.attention_dropout = 0.0
        torch.manual_seed(0)
        loss = Causal(64).loss(model, batch).sum
        weights = list(model.parameters())
        found.append([loss.detach(), *torch.autograd.grad(loss, weights, allow_unused=True)])
    for one, other in zip(*found, strict=True):
        assert (one is None and other is None) or torch.allclose(one, other, atol=1e-5, rtol=1e-4)


def test_a_cap_that_the_configuration_names_otherwise_is_measured():
    import transformers

    fields = {"hidden_size": 16, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    config = transformers.RecurrentGemmaConfig(vocab_size=40, num_hidden_layers=3, logits_soft_cap=3.0, **fields)
    inner = transformers.RecurrentGemmaForCausalLM(config).eval()
    model = HFModel(inner, "decoder")
    assert model.logit_cap == pytest.approx(3.0)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert close(
            model.head(model.features(tiny.alone((ids[0], ids[0], None))))[0], inner(ids, use_cache=False).logits[0]
        )


def test_a_model_that_sees_the_tokens_it_is_to_predict_is_no_decoder():
    import transformers

    fields = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=40, **fields)
    with pytest.raises(InputError, match="BertLMHeadModel is not causal"):
        HFModel(transformers.BertLMHeadModel(config).eval(), "decoder")
    config.is_decoder = True
    assert HFModel(transformers.BertLMHeadModel(config).eval(), "decoder").kind == "decoder"
