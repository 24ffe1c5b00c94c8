"""T5: the same logits, loss and gradients as `transformers`, after import, after export, and after both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.certificate import certify
from lavra.models.families.exporting import export_decoder
from lavra.models.families.importing import import_decoder
from lavra.models.families.registry import family_for
from lavra.models.native.encoder_decoder import EncoderDecoder
from lavra.models.presets import PRESETS, as_encoder_decoder
from lavra.models.protocols import Batch
from lavra.models.spec import DecoderSpec
from lavra.objectives.base import loss_at_targets
from tiny_training import lively

VOCABULARY = 131
IDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1}
TOLERANCE = 1e-5

_T5: dict[str, Any] = {"d_model": 32, "d_kv": 12, "d_ff": 40, "num_layers": 2, "num_heads": 3, "dropout_rate": 0.0}
CONFIGURATIONS: list[dict[str, Any]] = [
    _T5,
    {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 3},
    {**_T5, "feed_forward_proj": "gated-silu", "relative_attention_num_buckets": 8, "layer_norm_epsilon": 1e-4},
    {**_T5, "relative_attention_max_distance": 40, "num_decoder_layers": 1, "tie_word_embeddings": False},
]


def reference(options: dict[str, Any], seed: int) -> Any:
    """Return a T5 of that configuration with all parameters at random; a head that is not tied is one of its own."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, **options)
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration._from_config(config, attn_implementation="eager")
    if options.get("tie_word_embeddings") is False:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Products are not scaled, so that queries begin smaller, as in T5 itself.
            drawn = torch.randn_like(parameter) * (options["d_kv"] ** -0.5 if name.endswith(".q.weight") else 1.0)
            parameter.copy_(drawn * parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 1 + 0.2 * drawn)
    return model.eval()


def tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(rows + length))


def logits_of(model: Any, sources: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return model(input_ids=sources, decoder_input_ids=inputs, use_cache=False).logits


def ours(model: EncoderDecoder, sources: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return model.head(model.features(Batch(inputs, inputs, model_inputs={"encoder_inputs": sources})))


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.fixture(params=range(len(CONFIGURATIONS)))
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, EncoderDecoder, Path]:
    """A model of the library, and ours that was read from its folder."""
    theirs = reference(CONFIGURATIONS[request.param], seed=request.param)
    theirs.save_pretrained(tmp_path / "theirs")
    model = import_decoder(tmp_path / "theirs").model.eval()
    assert isinstance(model, EncoderDecoder)
    return theirs, model, tmp_path


def test_import_and_export_keep_the_logits(pair: tuple[Any, EncoderDecoder, Path]) -> None:
    theirs, model, folder = pair
    sources, inputs = tokens(2, 50), tokens(2, 30)
    with torch.no_grad():
        expected = logits_of(theirs, sources, inputs)
        assert expected.std() > 0.05
        assert difference(ours(model, sources, inputs), expected) < TOLERANCE
        assert export_decoder(folder / "ours", model, IDS).family == "t5"
        again = import_decoder(folder / "ours").model.eval()
        assert again.spec == model.spec
        assert isinstance(again, EncoderDecoder)
        assert difference(ours(again, sources, inputs), expected) < TOLERANCE
    certificate = certify(model, folder / "ours", [inputs[0].tolist()], sources=[sources[0].tolist()])
    assert certificate.holds, str(certificate)


def test_loss_and_gradients_are_equal(pair: tuple[Any, EncoderDecoder, Path]) -> None:
    theirs, model, folder = pair
    sources, targets = tokens(2, 20), tokens(2, 12)
    inputs = torch.stack([torch.tensor(model.decoder_inputs(row.tolist())) for row in targets])
    expected = F.cross_entropy(logits_of(theirs, sources, inputs).flatten(0, 1), targets.flatten())
    expected.backward()
    batch = Batch(inputs, targets, weight=float(targets.numel()), model_inputs={"encoder_inputs": sources})
    loss = loss_at_targets(model, batch, 0.0)
    (loss.sum / loss.weight).backward()
    assert abs(float(loss.sum.detach() / loss.weight) - float(expected.detach())) < TOLERANCE
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        parameter.data = parameter.grad
    export_decoder(folder / "gradients", model, IDS)
    from safetensors.torch import load_file

    found = load_file(folder / "gradients" / "model.safetensors")
    compared = 0
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            compared += 1
            assert difference(found[name], parameter.grad) < TOLERANCE, name
    assert compared > 20


def test_what_a_t5_cannot_express_is_named() -> None:
    spec = as_encoder_decoder(DecoderSpec())
    assert family_for(spec)[0].name == "t5"
    assert family_for(PRESETS["t5-mini"])[0].name == "t5"
    with pytest.raises(InputError, match="positions = 'rope'"):
        family_for(replace(spec, positions="rope"))


def test_the_certificate_of_a_model_of_our_own_holds(tmp_path: Path) -> None:
    spec = as_encoder_decoder(DecoderSpec(vocabulary=VOCABULARY, context=64, depth=4, width=32, heads=2))
    model = lively(spec).eval()
    export_decoder(tmp_path, model, IDS)
    certificate = certify(model, tmp_path, [tokens(1, 12)[0].tolist()], sources=[tokens(1, 20)[0].tolist()])
    assert certificate.holds, str(certificate)


def test_the_sizes_are_those_of_the_models_they_are_called_after() -> None:
    from lavra.models.native.building import parameters_of

    assert parameters_of(PRESETS["t5-small"]) == 60_506_624
    assert parameters_of(PRESETS["t5-base"]) == 222_903_552
