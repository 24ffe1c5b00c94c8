"""Encoders: the same logits, loss and gradients as `transformers`, after import, after export, and after both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from families import opened_exactly
from lavra.core.errors import InputError
from lavra.models.certificate import certify
from lavra.models.families.exporting import export_decoder
from lavra.models.families.importing import import_decoder
from lavra.models.families.registry import family_for
from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.presets import PRESETS, as_encoder
from lavra.models.protocols import Batch
from lavra.models.spec import DecoderSpec
from lavra.objectives.base import loss_at_targets
from tiny_training import lively

VOCABULARY = 131  # no multiple of 64, so that padding rows are there
IDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
TOLERANCE = 1e-5
LENGTH = 30

_BERT: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 48,
}
_MODERN: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "local_attention": 8,
}
_SLOWED: dict[str, Any] = {
    "full_attention": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}
_ROBERTA: dict[str, Any] = {**_BERT, "type_vocab_size": 1, "pad_token_id": 1}
_ALBERT: dict[str, Any] = {**_BERT, "embedding_size": 16, "num_hidden_layers": 3}
CONFIGURATIONS: list[tuple[str, dict[str, Any]]] = [
    ("bert", _BERT),
    ("roberta", _ROBERTA),
    ("xlm-roberta", {**_ROBERTA, "type_vocab_size": 2, "layer_norm_eps": 1e-5}),
    ("camembert", _ROBERTA),
    ("albert", _ALBERT),
    ("albert", {**_ALBERT, "inner_group_num": 2, "hidden_act": "gelu"}),
    ("albert", {**_ALBERT, "embedding_size": 24, "hidden_act": "relu", "num_hidden_layers": 1}),
    ("roformer", _BERT),
    ("roformer", {**_BERT, "embedding_size": 16, "hidden_act": "gelu_new"}),
    ("bert", {**_BERT, "hidden_act": "relu", "layer_norm_eps": 1e-4, "num_attention_heads": 2}),
    ("modernbert", _MODERN),
    ("modernbert", {**_MODERN, "norm_bias": True, "attention_bias": True, "tie_word_embeddings": False}),
    ("modernbert", {**_MODERN, "mlp_bias": True, "classifier_bias": True, "decoder_bias": False}),
    (
        "modernbert",
        {**_MODERN, "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]},
    ),
    ("modernbert", {**_MODERN, "layer_types": ["sliding_attention"] * 5, "global_rope_theta": 10000.0}),
    ("modernbert", {**_MODERN, "layer_types": ["full_attention"] * 5}),
    ("modernbert", {**_MODERN, "rope_parameters": _SLOWED}),
    ("modernbert", {**_MODERN, "rope_parameters": dict.fromkeys(_SLOWED, _SLOWED["full_attention"])}),
]
_LIKE_BERT = ("roberta", "xlm-roberta", "camembert")
"""Families whose models are a BERT for us, which is written where nothing prefers them."""

_FIRST_NAMES = {
    "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}
"""Name in a file of each tied tensor that a model may name otherwise."""

NAMES = [f"{kind}-{number}" for number, (kind, _) in enumerate(CONFIGURATIONS)]


def reference(kind: str, options: dict[str, Any], seed: int) -> Any:
    """Return a `transformers` model of that configuration with all parameters at random, gains and biases too."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id"))
    dropout = (
        {} if kind == "modernbert" else dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    )
    config = AutoConfig.for_model(kind, **{"vocab_size": VOCABULARY, **special, **dropout, **options})
    torch.manual_seed(seed)
    model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:  # a table of rotary positions
                continue
            drawn = torch.randn_like(parameter)
            if parameter.dim() == 2:
                parameter.copy_(drawn * parameter.shape[-1] ** -0.5)
            else:
                parameter.copy_(0.2 * drawn + (not name.endswith("bias")))  # gains are near one
            if kind == "roformer" and "token_type" in name:
                parameter[0] = 0.0  # else it is a part of the embedding alone, and not of the head
    return model.eval()


def tokens(rows: int, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(rows + length))


def logits_of(model: Any, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    return model(input_ids=inputs, attention_mask=torch.ones_like(inputs) if mask is None else mask.long()).logits


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).detach().abs().max())


@pytest.fixture(params=range(len(CONFIGURATIONS)), ids=NAMES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Decoder, Path]:
    """A model of the library, and ours that was read from its folder."""
    kind, options = CONFIGURATIONS[request.param]
    theirs = reference(kind, options, seed=request.param)
    theirs.save_pretrained(tmp_path / "theirs")
    return theirs, import_decoder(tmp_path / "theirs").model.eval(), tmp_path


def reopened(folder: Path) -> Any:
    return opened_exactly(folder, "AutoModelForMaskedLM")


def test_import_and_export_keep_the_logits(pair: tuple[Any, Decoder, Path]) -> None:
    theirs, model, folder = pair
    inputs = tokens(2)
    with torch.no_grad():
        expected = logits_of(theirs, inputs)
        assert expected.std() > 0.1
        assert difference(model.head(model(inputs)), expected) < TOLERANCE
        kind = theirs.config.model_type
        assert export_decoder(folder / "ours", model, IDS, kind).family == kind
        assert family_for(model.spec)[0].name == ("bert" if kind in _LIKE_BERT else kind)
        assert difference(logits_of(reopened(folder / "ours"), inputs), expected) < TOLERANCE
        again = import_decoder(folder / "ours").model.eval()
        assert again.spec == model.spec
        assert difference(again.head(again(inputs)), expected) < TOLERANCE


def test_packed_and_padded_documents_equal_documents_alone(pair: tuple[Any, Decoder, Path]) -> None:
    theirs, model, _ = pair
    lengths = [11, 4, 15]
    row = tokens(1, sum(lengths))
    document_ids = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None].int()
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    with torch.no_grad():
        packed = model.head(model(F.pad(row, (0, 2)), F.pad(document_ids, (0, 2), value=-1), F.pad(positions, (0, 2))))
        for alone, document in zip(packed[0].split([*lengths, 2]), row[0].split(lengths), strict=False):
            assert difference(alone, logits_of(theirs, document[None])[0]) < TOLERANCE


def test_loss_and_gradients_are_equal(pair: tuple[Any, Decoder, Path]) -> None:
    theirs, model, folder = pair
    inputs = tokens(2)
    targets = torch.where(torch.arange(LENGTH) % 3 == 0, inputs, -100)
    expected = F.cross_entropy(logits_of(theirs, inputs).flatten(0, 1), targets.flatten())
    expected.backward()
    loss = loss_at_targets(model, Batch(inputs, targets, weight=float((targets >= 0).sum())), 0.0)
    (loss.sum / loss.weight).backward()
    assert abs(float(loss.sum.detach() / loss.weight) - float(expected.detach())) < TOLERANCE
    # The gradients are compared in the family's names: as weights of a model that is exported.
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        parameter.data = parameter.grad
    with torch.no_grad():
        export_decoder(folder / "gradients", model, IDS, preferred=theirs.config.model_type)
    from safetensors.torch import load_file

    found = load_file(folder / "gradients" / "model.safetensors")
    compared = 0
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None and "token_type" not in name:  # ours has no types: they belong to the positions
            compared += 1
            assert difference(found[_FIRST_NAMES.get(name, name)], parameter.grad) < TOLERANCE, name
    assert compared > 5


def test_an_option_that_no_family_has_is_named() -> None:
    with pytest.raises(InputError, match="qk_norm = True"):
        family_for(replace(as_encoder(DecoderSpec()), qk_norm=True))
    with pytest.raises(InputError, match="positions = 'alibi'"):
        family_for(replace(as_encoder(DecoderSpec()), positions="alibi"))


def test_a_roformer_that_tells_kinds_of_text_apart_in_its_embedding_alone_is_left_to_transformers(
    tmp_path: Path,
) -> None:
    theirs = reference("roformer", _BERT, 0)
    with torch.no_grad():
        theirs.roformer.embeddings.token_type_embeddings.weight[0] = 1.0
    theirs.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="kind of text"):
        import_decoder(tmp_path)


def test_groups_of_an_albert_that_follow_each_other_are_left_to_transformers(tmp_path: Path) -> None:
    reference("albert", {**_ALBERT, "num_hidden_groups": 3}, 0).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="num_hidden_groups = 3"):
        import_decoder(tmp_path)


@pytest.mark.parametrize("name", ["bert-small", "modernbert-small", "lavra-1m"])
def test_presets_are_exported_as_their_family(name: str) -> None:
    spec = PRESETS[name]
    spec = spec if spec.architecture == "encoder" else as_encoder(spec)
    assert family_for(spec)[0].name == ("bert" if name.startswith("bert") else "modernbert")


def test_the_sizes_are_those_of_the_models_they_are_called_after() -> None:
    from lavra.models.native.building import parameters_of

    padding = 64 - 30522 % 64  # rows of the embedding and of the bias of the head
    # BERT-base has 109,514,298 parameters with its head for masked tokens, and its two token types are one of ours.
    assert parameters_of(PRESETS["bert-base"]) - padding * 769 == 109_514_298 - 2 * 768
    assert parameters_of(PRESETS["modernbert-base"]) == 149_655_232
    from transformers import AlbertConfig, AlbertForMaskedLM

    with torch.device("meta"):
        albert = AlbertForMaskedLM(AlbertConfig(hidden_size=768, num_attention_heads=12, intermediate_size=3072))
    sizes = sum(parameter.numel() for parameter in albert.parameters())
    assert parameters_of(PRESETS["albert-base"]) - 16 * 129 == sizes - 2 * 128


def test_the_certificate_of_an_albert_holds(tmp_path: Path) -> None:
    shape = {"vocabulary": VOCABULARY, "context": 32, "depth": 3, "width": 32, "heads": 2, "embedding_width": 16}
    model = lively(replace(PRESETS["albert-base"], **shape)).eval()
    assert export_decoder(tmp_path, model, IDS).family == "albert"
    certificate = certify(model, tmp_path, [tokens(1)[0].tolist()])
    assert certificate.holds, str(certificate)
    assert certificate.architecture == "AlbertForMaskedLM"


def test_the_certificate_of_an_encoder_holds(tmp_path: Path) -> None:
    model = lively(as_encoder(DecoderSpec(vocabulary=VOCABULARY, context=32, depth=2, width=32, heads=2))).eval()
    export_decoder(tmp_path, model, IDS)
    certificate = certify(model, tmp_path, [tokens(1)[0].tolist()])
    assert certificate.holds, str(certificate)
    assert certificate.architecture == "ModernBertForMaskedLM"
    with torch.no_grad():
        model.blocks[0].mlp.up.weight.mul_(1.1)  # pyright: ignore[reportAttributeAccessIssue]
    assert not certify(model, tmp_path, [tokens(1)[0].tolist()]).holds


def test_a_fresh_encoder_predicts_every_token_alike() -> None:
    model = build_decoder(as_encoder(DecoderSpec(vocabulary=VOCABULARY, context=32, depth=2, width=32, heads=2)))
    assert difference(model.head(model(tokens(1))), torch.zeros(())) == 0.0
