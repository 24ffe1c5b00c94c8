"""Surgery on positions: at its neutral value it changes nothing; what it makes is exported where a family has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from families import logits_of, opened_exactly
from lavra.config.choices import Extension
from lavra.core.errors import InputError
from lavra.models.families.exporting import export_decoder
from lavra.models.families.importing import import_decoder
from lavra.models.families.registry import family_for
from lavra.models.heads import SequenceHead, attach_head
from lavra.models.native.decoder import Decoder
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec
from lavra.models.transforms.positions import extended_table, operated, operated_spec
from tiny_training import lively

SMALL: dict[str, Any] = {"vocabulary": 100, "context": 32, "depth": 2, "width": 32, "heads": 4}
GPT2 = replace(PRESETS["gpt2-124m"], **SMALL)
BERT = replace(PRESETS["bert-base"], **SMALL)
ALBERT = replace(PRESETS["albert-base"], **SMALL, embedding_width=16)
LLAMA = replace(PRESETS["tinyllama-1.1b"], **SMALL, kv_heads=2, mlp_width=48)


def tokens(rows: int = 2, length: int = 20) -> torch.Tensor:
    return torch.randint(1, 100, (rows, length), generator=torch.Generator().manual_seed(rows))


def chances(model: Decoder, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.head(model.eval()(inputs)).log_softmax(-1)


def changed(model: Decoder, *asked: Any) -> Decoder:
    spec, words = operated_spec(model.spec, *asked)
    assert words
    return operated(model, spec, *asked[2:])


@pytest.mark.parametrize("spec", [GPT2, BERT, ALBERT], ids=["gpt2", "bert", "albert"])
def test_alibi_without_slopes_and_rotations_by_nothing_are_no_positions(spec: DecoderSpec) -> None:
    model = lively(spec)
    without = chances(changed(model, "none"), tokens())
    for positions in ("alibi", "rope"):
        other = changed(model, positions)
        assert not torch.allclose(chances(other, tokens()), without, atol=1e-3)
        if positions == "alibi":
            assert other.slopes is not None
            other.slopes.zero_()
        else:
            assert other.table is not None
            cosines, sines = other.table.chunk(2, -1)
            other.table.copy_(torch.cat((torch.ones_like(cosines), torch.zeros_like(sines)), -1))
        torch.testing.assert_close(chances(other, tokens()), without, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", [GPT2, BERT, ALBERT, replace(GPT2, tied=False)])
def test_positions_that_are_all_alike_are_none(spec: DecoderSpec) -> None:
    """What is common to all positions is kept in the embeddings, so that nothing is lost but their differences."""
    model = lively(spec)
    assert model.position_embedding is not None
    with torch.no_grad():
        model.position_embedding.weight.copy_(model.position_embedding.weight[:1].clone())
    torch.testing.assert_close(
        chances(changed(model, "none"), tokens()), chances(model, tokens()), atol=1e-5, rtol=1e-5
    )


def test_the_pretrained_model_stays_as_it_is() -> None:
    model = lively(GPT2)
    before = chances(model, tokens())
    for asked in (("alibi",), ("rope", 64), (None, 64, "interpolate")):
        changed(model, *asked)
        assert torch.equal(chances(model, tokens()), before)


@pytest.mark.parametrize("spec", [GPT2, LLAMA, replace(GPT2, positions="alibi")], ids=["learned", "rope", "alibi"])
@pytest.mark.parametrize("context", [None, 16, 32])
def test_what_asks_for_no_more_than_there_is_changes_nothing(spec: DecoderSpec, context: int | None) -> None:
    assert operated_spec(spec, None, context) == (spec, ())
    assert operated_spec(spec, spec.positions, context) == (spec, ())


@given(st.integers(1, 9), st.booleans())
def test_a_table_for_as_many_positions_is_the_same_to_the_bit(rows: int, stretched: bool) -> None:
    table = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
    assert torch.equal(extended_table(table, rows, stretched=stretched), table)


@given(st.integers(2, 9), st.integers(0, 20))
def test_a_stretched_table_goes_from_the_first_position_to_the_last(rows: int, more: int) -> None:
    table = torch.arange(float(rows))[:, None]
    found = extended_table(table, rows + more, stretched=True).flatten()
    torch.testing.assert_close(found, torch.linspace(0, rows - 1, rows + more), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", [GPT2, BERT], ids=["gpt2", "bert"])
def test_a_repeated_table_reads_short_texts_as_before(spec: DecoderSpec) -> None:
    model = lively(spec)
    longer = changed(model, None, 80)
    assert longer.context == 80
    assert torch.equal(chances(longer, tokens()), chances(model, tokens()))
    assert chances(longer, tokens(1, 80)).isfinite().all()
    stretched = changed(model, None, 80, "interpolate")
    assert not torch.allclose(chances(stretched, tokens()), chances(model, tokens()), atol=1e-3)


@pytest.mark.parametrize("way", ["llama3", "linear", "none"])
def test_rotary_positions_are_slowed_by_the_factor(way: Extension) -> None:
    model = lively(LLAMA)
    longer = changed(model, None, 128, way)
    assert model.table is not None
    assert longer.table is not None
    assert len(longer.table) == 128
    if way == "none":
        assert torch.equal(longer.table[:32], model.table)
    elif way == "linear":
        torch.testing.assert_close(longer.table[:128:4], model.table, atol=1e-5, rtol=1e-5)
    else:
        half = model.spec.rotary_width // 2
        torch.testing.assert_close(longer.table[:32, 0], model.table[:, 0])  # turns within the window: kept
        torch.testing.assert_close(longer.table[:128:4, half - 1], model.table[:, half - 1])  # does not: slowed
    assert chances(longer, tokens(1, 128)).isfinite().all()


def test_a_slowed_model_goes_on_in_its_own_way() -> None:
    for way in ("linear", "llama3"):
        once = operated_spec(LLAMA, None, 64, way)[0]
        twice, words = operated_spec(once, None, 128)
        assert twice == operated_spec(LLAMA, None, 128, way)[0]
        how = " as in Llama 3" if way == "llama3" else ""
        assert words == (f"a context of 128 tokens instead of 64, by rotary positions slowed by 2{how}",)
        with pytest.raises(InputError, match="slowed already"):
            operated_spec(once, None, 128, "linear" if way == "llama3" else "llama3")


def test_new_positions_need_no_extension_and_say_what_changes() -> None:
    spec, words = operated_spec(BERT, "rope", 64)
    assert (spec.positions, spec.context, spec.rope_scaling) == ("rope", 64, 1.0)
    assert words == (
        "rotary positions instead of learned positions, whose mean is added to the embeddings",
        "a context of 64 tokens instead of 32",
    )
    assert operated_spec(BERT, None, 64)[1] == ("a context of 64 tokens instead of 32, by repeating the learned ones",)


@pytest.mark.parametrize(
    ("spec", "asked", "named"),
    [
        (BERT, ("relative",), "relative"),
        (replace(BERT, positions="rope"), ("learned",), "learned"),
        (replace(PRESETS["t5-mini"], **SMALL), ("rope",), "an encoder-decoder keeps its relative positions"),
        (BERT, (None, 64, "linear"), "give tile or interpolate"),
        (BERT, (None, 64, "none"), "give tile or interpolate"),
        (LLAMA, (None, 64, "tile"), "give llama3 or linear or none"),
    ],
)
def test_what_cannot_be_is_refused(spec: DecoderSpec, asked: tuple[Any, ...], named: str) -> None:
    with pytest.raises(InputError) as caught:
        operated_spec(spec, *asked)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "asked", "family", "opens"),
    [
        (GPT2, ("rope",), "gpt_neox", "AutoModelForCausalLM"),
        (GPT2, (None, 64), "gpt2", "AutoModelForCausalLM"),
        (LLAMA, (None, 64), "llama", "AutoModelForCausalLM"),
        (BERT, ("rope",), "roformer", "AutoModelForMaskedLM"),
        (BERT, (None, 64, "interpolate"), "bert", "AutoModelForMaskedLM"),
        (ALBERT, ("rope",), "roformer", "AutoModelForMaskedLM"),
        (ALBERT, (None, 64), "albert", "AutoModelForMaskedLM"),
    ],
)
def test_what_a_family_has_is_exported_to_the_same_logits(
    spec: DecoderSpec, asked: tuple[Any, ...], family: str, opens: str, tmp_path: Path
) -> None:
    model = changed(lively(spec), *asked).eval()
    assert export_decoder(tmp_path, model, {"bos_token_id": 0, "eos_token_id": 0}).family == family
    inputs = tokens(2, 31)
    theirs = opened_exactly(tmp_path, opens)
    again = import_decoder(tmp_path).model.eval()
    with torch.no_grad():
        expected = model.head(model(inputs))
        found = theirs(input_ids=inputs).logits if opens.endswith("MaskedLM") else logits_of(theirs, inputs)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(again.head(again(inputs)), expected, atol=1e-5, rtol=1e-5)


def test_a_slowed_roformer_is_written_with_its_table(tmp_path: Path) -> None:
    model = changed(changed(lively(BERT), "rope"), None, 128).eval()
    assert export_decoder(tmp_path, model, {}).family == "roformer"
    inputs = tokens(1, 120)
    again = import_decoder(tmp_path).model.eval()
    assert again.spec.rope_scaling == 4.0
    with torch.no_grad():
        expected = model.head(model(inputs))
        found = opened_exactly(tmp_path, "AutoModelForMaskedLM")(input_ids=inputs).logits
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(again.head(again(inputs)), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", [GPT2, BERT], ids=["gpt2", "bert"])
def test_alibi_that_no_family_has_is_refused_by_name(spec: DecoderSpec) -> None:
    with pytest.raises(InputError, match=r"positions = 'alibi'(.|\n)*lavra's own format"):
        family_for(operated_spec(spec, "alibi")[0])


def test_the_head_of_a_task_is_left_out() -> None:
    model = lively(BERT)
    attach_head(model, SequenceHead(32, 2))
    names = dict(changed(model, "alibi").named_parameters())
    assert not any(name.startswith("task_head") for name in names)
    assert all(parameter.requires_grad for parameter in names.values())
