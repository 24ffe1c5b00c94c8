"""Wrapped models from and to Hugging Face folders: the same logits, ties kept, and clear words where it cannot be."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_models as tiny
from lavra.core.errors import CorruptFile, InputError
from lavra.models.hf.folders import open_hf_model, save_hf_model, write_hf_model
from lavra.models.hf.kinds import automatic_class
from lavra.models.hf.model import HFModel

NAMES = list(tiny.FAMILIES)
WEIGHTS = "model.safetensors"


def logits(model: HFModel) -> torch.Tensor:
    with torch.no_grad():
        return model.head(model.features(tiny.packed(tiny.documents(model))))


def written(model: HFModel, folder: Path, **options: Any) -> Path:
    save_hf_model(folder, model, **options)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change: Any) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors), folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_holds_the_same_model_with_the_same_ties(name, tmp_path):
    model = tiny.shared_model(name)
    opened = open_hf_model(written(model, tmp_path / "model"))
    assert (opened.kind, opened.tied, opened.supports_packing) == (model.kind, model.tied, True)
    assert torch.equal(logits(opened), logits(model))
    head = opened.output_projection()[0]
    assert (head.data_ptr() == opened.inner.get_input_embeddings().weight.data_ptr()) is model.tied
    plain = automatic_class(model.kind).from_pretrained(tmp_path / "model").eval()
    document = tiny.documents(model)[0]
    assert torch.equal(tiny.plain_logits(HFModel(plain, model.kind), document), tiny.plain_logits(model, document))


@pytest.mark.parametrize("name", ["gpt2", "opt", "t5", "t5-gated", "bart", "bert", "roberta", "deberta-v2"])
def test_masters_are_written_in_the_place_of_the_models_own_weights(name, tmp_path):
    model = tiny.hf_model(name)
    master_weights = {key: weight.detach() + 0.01 for key, weight in model.named_parameters()}
    expected = tiny.hf_model(name)
    with torch.no_grad():
        for key, weight in expected.named_parameters():
            weight.copy_(master_weights[key])
    for weight in model.parameters():
        weight.data = weight.data.bfloat16()
    opened = open_hf_model(written(model, tmp_path / "model", weights=master_weights))
    assert torch.equal(logits(opened), logits(expected))
    assert opened.tied is model.tied
    assert json.loads((tmp_path / "model/config.json").read_text())["dtype"] == "float32"
    assert {weight.dtype for weight in load_file(tmp_path / "model" / WEIGHTS).values()} == {torch.float32}


def test_a_part_of_the_weights_may_be_given(tmp_path):
    model = tiny.hf_model("gpt2")
    name = "inner.transformer.wte.weight"
    given = {name: dict(model.named_parameters())[name].detach() * 2}
    opened = open_hf_model(written(model, tmp_path / "model", weights=given))
    assert torch.equal(dict(opened.named_parameters())[name], given[name])
    assert opened.tied


@pytest.mark.parametrize("wrong", [{"inner.nothing": torch.ones(1)}, {"inner.transformer.wte.weight": torch.ones(1)}])
def test_weights_of_another_model_are_refused_and_nothing_is_left(wrong, tmp_path):
    with pytest.raises(InputError, match="none of the model's"):
        save_hf_model(tmp_path / "model", tiny.shared_model("gpt2"), weights=wrong)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_forced(tmp_path):
    model = tiny.shared_model("gpt2")
    written(model, tmp_path / "model")
    with pytest.raises(InputError, match="exists already"):
        save_hf_model(tmp_path / "model", model)
    save_hf_model(tmp_path / "model", model, force=True)


def test_the_tokenizer_is_copied(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "vocab.txt", "other.bin"):
        (source / name).write_text("{}")
    (source / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "code.py"}, "model_max_length": 64}')
    folder = written(tiny.shared_model("bert"), tmp_path / "model", tokenizer_files_from=source)
    assert (folder / "vocab.txt").read_text() == "{}"
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"model_max_length": 64}
    assert not (folder / "other.bin").exists()


def test_writing_into_a_folder_that_is_being_built(tmp_path):
    write_hf_model(tmp_path, tiny.shared_model("bert"))
    assert open_hf_model(tmp_path).kind == "encoder"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"architectures": ["BertForPreTraining"]}, "encoder"), ({"architectures": None}, "encoder"),
     ({"architectures": ["BertForMaskedLM"]}, "encoder")],
)  # fmt: skip
def test_the_kind_is_that_of_the_class_that_wrote_it_else_of_its_family(changes, expected, tmp_path):
    folder = written(tiny.shared_model("bert"), tmp_path / "model")
    edit_config(folder, **changes)
    assert open_hf_model(folder).kind == expected


def test_the_kind_can_be_asked_for(tmp_path):
    folder = written(tiny.shared_model("bert"), tmp_path / "model")
    edit_config(folder, is_decoder=True)
    assert open_hf_model(folder, "decoder").kind == "decoder"


def test_an_untied_t5_says_so_for_readers_that_believe_its_configuration(tmp_path):
    folder = written(tiny.shared_model("t5-gated"), tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert {"lm_head.weight", "shared.weight"} <= load_file(folder / WEIGHTS).keys()
    tied = written(tiny.shared_model("t5"), tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tied / WEIGHTS)
    assert json.loads((tied / "config.json").read_text())["tie_word_embeddings"] is True


def test_debertas_head_is_read_from_the_names_of_microsofts_files(tmp_path):
    model = tiny.shared_model("deberta-v2")
    folder = written(model, tmp_path / "model")

    def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = {
            "cls.predictions.transform": "lm_predictions.lm_head",
            "cls.predictions.bias": "lm_predictions.lm_head.bias",
        }
        found = {}
        for name, tensor in tensors.items():
            for old, new in names.items():
                name = name.replace(old, new)
            found[name] = tensor
        return found

    edit_weights(folder, renamed)
    assert any(name.startswith("lm_predictions") for name in load_file(folder / WEIGHTS))
    for legacy in (True, False):
        edit_config(folder, legacy=legacy, architectures=None)
        assert torch.equal(logits(open_hf_model(folder)), logits(model))


def test_files_of_tensors_with_a_pickled_frame_are_read_as_tensors_only(tmp_path):
    model = tiny.shared_model("bert")
    folder = written(model, tmp_path / "model")
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert torch.equal(logits(open_hf_model(folder)), logits(model))


class Runs:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made-by-a-pickle",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = written(tiny.shared_model("bert"), tmp_path / "model")
    (folder / WEIGHTS).unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"bert": Runs()}, file)
    with pytest.raises(InputError):
        open_hf_model(folder)
    assert not (tmp_path / "made-by-a-pickle").exists()


def without_head(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("cls.")}


def test_a_model_without_its_head_is_refused_by_name(tmp_path):
    folder = written(tiny.shared_model("bert"), tmp_path / "model")
    edit_weights(folder, without_head)
    edit_config(folder, architectures=["BertForSequenceClassification"])
    with pytest.raises(InputError, match=r"has no weights for .* cls\.predictions") as caught:
        open_hf_model(folder)
    assert "language-model head" in str(caught.value)


@pytest.mark.parametrize("model_type", ["vit", "no-such-family", None])
def test_families_without_a_language_model_are_refused(model_type, tmp_path):
    folder = written(tiny.shared_model("bert"), tmp_path / "model")
    edit_config(folder, model_type=model_type, architectures=["Something"])
    with pytest.raises(InputError, match="no language model for the family"):
        open_hf_model(folder)


def test_remote_code_is_never_run(tmp_path):
    folder = written(tiny.shared_model("bert"), tmp_path / "model")
    (folder / "code.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    edit_config(folder, auto_map={"AutoModelForMaskedLM": "code.Model", "AutoConfig": "code.Config"})
    assert open_hf_model(folder).kind == "encoder"
    assert not Path("ran").exists()


def test_truncated_and_misfitting_weights_are_damage(tmp_path):
    folder = written(tiny.shared_model("bert"), tmp_path / "model")
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFile, match="cannot be read"):
        open_hf_model(folder)
    (folder / WEIGHTS).write_bytes(whole)
    edit_config(folder, hidden_size=64)
    with pytest.raises(CorruptFile, match="do not fit"):
        open_hf_model(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match="cannot open"):
        open_hf_model(folder)
    with pytest.raises(InputError, match="holds no model"):
        open_hf_model(tmp_path / "nothing")
