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
from lavra.models.protocols import Batch
from lavra.models.spec import PRESETS, DecoderSpec, as_encoder
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
CONFIGURATIONS: list[tuple[str, dict[str, Any]]] = [
    ("bert", _BERT),
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
]
NAMES = [f"{kind}-{number}" for number, (kind, _) in enumerate(CONFIGURATIONS)]


def reference(kind: str, options: dict[str, Any], seed: int) -> Any:
    """Return a `transformers` model of that configuration with all parameters at random, gains and biases too."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id"))
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0) if kind == "bert" else {}
    config = AutoConfig.for_model(kind, **{"vocab_size": VOCABULARY, **special, **dropout, **options})
    torch.manual_seed(seed)
    model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn_like(parameter)
            if parameter.dim() == 2:
                parameter.copy_(drawn * parameter.shape[-1] ** -0.5)
            else:
                parameter.copy_(0.2 * drawn + (not name.endswith("bias")))  # gains are near one
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
        exported = export_decoder(folder / "ours", model, IDS)
        assert exported.family == theirs.config.model_type
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
    export_decoder(folder / "gradients", model, IDS, preferred=theirs.config.model_type)
    from safetensors.torch import load_file

    found = load_file(folder / "gradients" / "model.safetensors")
    compared = 0
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None and "token_type" not in name:  # ours has no types: they belong to the positions
            compared += 1
            assert difference(found[name], parameter.grad) < TOLERANCE, name
    assert compared > 5


def test_an_option_that_no_family_has_is_named() -> None:
    with pytest.raises(InputError, match="qk_norm = True"):
        family_for(replace(as_encoder(DecoderSpec()), qk_norm=True))
    with pytest.raises(InputError, match="positions = 'alibi'"):
        family_for(replace(as_encoder(DecoderSpec()), positions="alibi"))


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
