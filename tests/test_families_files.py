"""The files of the field's models: shards, pickles, damage, and what is said about each."""

from __future__ import annotations

import json
import os
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from families import CONFIGURATIONS, VOCABULARY, logits_of, reference
from lavra.core.errors import CorruptFile, InputError
from lavra.core.network import why_unreachable
from lavra.models.families.files import hub_folder, hub_name
from lavra.models.families.importing import import_decoder

INPUTS = torch.arange(2, 22)[None]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def original() -> Any:
    return reference(*CONFIGURATIONS[0])


@pytest.fixture
def folder(original: Any, tmp_path: Path) -> Path:
    original.save_pretrained(tmp_path)
    return tmp_path


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(folder: Path, remove: str = "", **values: torch.Tensor) -> None:
    weights = {**load_file(folder / WEIGHTS), **values}
    weights.pop(remove, None)
    save_file(weights, folder / WEIGHTS)


def assert_read(original: Any, folder: Path) -> None:
    model = import_decoder(folder).model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model.head(model(INPUTS)), logits_of(original, INPUTS), atol=1e-5, rtol=0)


def test_shards_are_read_as_one(original: Any, tmp_path: Path) -> None:
    original.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_read(original, tmp_path)
    one = sorted(tmp_path.glob("*.safetensors"))[1]
    one.unlink()
    with pytest.raises(InputError, match=f"{one.name} is missing"):
        import_decoder(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_bin_files_are_read(original: Any, folder: Path, zipped: bool, sharded: bool) -> None:
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    groups = [names[:5], names[5:]] if sharded else [names]
    places = {}
    for number, group in enumerate(groups):
        file = f"pytorch_model-{number}.bin" if sharded else "pytorch_model.bin"
        places.update(dict.fromkeys(group, file))
        torch.save({name: weights[name] for name in group}, folder / file, _use_new_zipfile_serialization=zipped)
    if sharded:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert_read(original, folder)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/lavra-ran-code-of-a-model",)


def test_a_pickle_with_code_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    for content in (pickle.dumps({"x": _Code()}, protocol=2), None):
        if content is None:
            torch.save({"x": _Code()}, folder / "pytorch_model.bin")
        else:
            (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(
            (InputError, CorruptFile), match=r"pytorch_model.bin (is a pickle that holds more|cannot be)"
        ):
            import_decoder(folder)
    assert not Path("/tmp/lavra-ran-code-of-a-model").exists()


@pytest.mark.parametrize("kept", [0, 5, 200, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_truncated_weights_are_named(folder: Path, kept: float, kind: str) -> None:
    path = folder / WEIGHTS
    if kind == "bin":
        torch.save(load_file(path), folder / "pytorch_model.bin")
        path.unlink()
        path = folder / "pytorch_model.bin"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises((CorruptFile, InputError), match=path.name):
        import_decoder(folder)


def test_missing_and_spare_tensors_are_named(folder: Path) -> None:
    change_weights(folder, remove="transformer.h.1.ln_1.bias")
    with pytest.raises(InputError, match=r"lacks 1 tensors of a GPT-2 of this shape: h\.1\.ln_1\.bias"):
        import_decoder(folder)
    change_weights(folder, **{"transformer.h.1.ln_1.bias": torch.zeros(24), "base_model.lora_A": torch.zeros(2, 2)})
    with pytest.raises(InputError, match=r"has 1 tensors that no GPT-2 of this shape has: base_model\.lora_A"):
        import_decoder(folder)


def test_wrong_shapes_are_named(folder: Path) -> None:
    change_weights(folder, **{"transformer.wpe.weight": torch.zeros(10, 24)})
    with pytest.raises(CorruptFile, match=r"wpe\.weight \(10, 24\) cannot be position_embedding\.weight \(48, 24\)"):
        import_decoder(folder)
    change_config(folder, n_positions=10, vocab_size=VOCABULARY + 1)
    with pytest.raises(CorruptFile, match=r"wte\.weight \(131, 24\) cannot be embedding\.weight \(192, 24\)"):
        import_decoder(folder)


def test_configurations_that_cannot_be_read_are_refused(folder: Path, tmp_path: Path) -> None:
    config = (folder / "config.json").read_text()
    for change, message in (
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True, which lavra's decoder"),
        ({"activation_function": "silu"}, "activation_function = 'silu'"),
        ({"n_embd": None}, "does not say n_embd"),
        ({"model_type": "mamba"}, "is a model of type 'mamba'"),
        ({"model_type": "own", "auto_map": {"AutoModel": "x.Y"}}, "needs code of its own, which is never run"),
        ({"quantization_config": {"bits": 4}}, "are quantised"),
    ):
        change_config(folder, **change)
        with pytest.raises(InputError, match=message):
            import_decoder(folder)
        (folder / "config.json").write_text(config)
    (folder / "config.json").write_text(config[:40])
    with pytest.raises(CorruptFile, match=r"config\.json is damaged"):
        import_decoder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json is missing"):
        import_decoder(folder)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "rope_type = 'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "factor = None"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "post_layernorm = True"),
        ("nanochat", {"final_logit_softcapping": 15.0}, "final_logit_softcapping = 15.0"),
    ],
)
def test_options_of_other_families_are_refused(kind: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    options = next(options for name, options in CONFIGURATIONS if name == kind)
    reference(kind, options).save_pretrained(tmp_path)
    change_config(tmp_path, **change)
    with pytest.raises(InputError, match=message):
        import_decoder(tmp_path)


def test_no_weights_and_no_head(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(InputError, match=r"lacks 1 tensors .*: lm_head\.weight"):
        import_decoder(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match="holds no weights"):
        import_decoder(folder)


def test_a_tie_that_the_file_breaks_is_not_made(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    head = torch.randn(VOCABULARY, 24, generator=torch.Generator().manual_seed(3))
    change_weights(folder, **{"lm_head.weight": head})
    imported = import_decoder(folder)
    assert not imported.model.spec.tied
    assert "two different matrices" in imported.notes[0]
    assert_read(AutoModelForCausalLM.from_pretrained(folder), folder)


def test_a_file_with_the_head_instead_of_the_embedding_is_read(original: Any, folder: Path) -> None:
    embedding = load_file(folder / WEIGHTS)["transformer.wte.weight"]
    change_weights(folder, remove="transformer.wte.weight", **{"lm_head.weight": embedding})
    assert_read(original, folder)


def test_files_without_prefix_and_with_old_buffers_are_read(original: Any, folder: Path) -> None:
    weights = {name.removeprefix("transformer."): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    weights["h.0.attn.bias"] = torch.ones(48, 48).tril()[None, None]
    weights["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(weights, folder / WEIGHTS)
    assert_read(original, folder)


def test_a_sliding_window_of_all_blocks_is_kept(tmp_path: Path) -> None:
    kind, options = next(entry for entry in CONFIGURATIONS if entry[0] == "mistral")
    reference(kind, options).save_pretrained(tmp_path)
    imported = import_decoder(tmp_path)
    assert (imported.model.spec.context, imported.model.spec.window) == (64, 39)
    assert not imported.notes


def test_a_sliding_window_of_some_blocks_shortens_the_context(tmp_path: Path) -> None:
    kind, options = next(entry for entry in CONFIGURATIONS if entry[0] == "qwen2")
    reference(kind, {**options, "use_sliding_window": True, "sliding_window": 40}).save_pretrained(tmp_path)
    imported = import_decoder(tmp_path)
    assert imported.model.context == 40
    assert "windows of 40 tokens, not of 64" in imported.notes[0]


def test_the_older_keys_of_rotary_positions_mean_the_same(tmp_path: Path) -> None:
    kind, options = next(entry for entry in CONFIGURATIONS if "rope_parameters" in entry[1])
    model = reference(kind, options)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    config |= {"rope_theta": parameters.pop("rope_theta"), "rope_scaling": parameters}
    path.write_text(json.dumps(config))
    assert_read(model, tmp_path)


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert hub_name("gpt2") == "openai-community/gpt2"
    assert hub_name("hf:opt-125m") == "facebook/opt-125m"
    assert hub_name("owner/model-1.5") == "owner/model-1.5"
    assert hub_name("runs/mistyped") is None  # a folder that is here: a path
    assert hub_name("hf:runs/model") == "runs/model"
    for path in ("run", "a/b/c", "/tmp/x", "./x", "hf:x", ""):
        assert hub_name(path) is None


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_one_sentence_is_said_at_once(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not offline:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port that discards, where nobody listens

        def retrying(*_: Any, **__: Any) -> None:
            raise AssertionError("the library tries again and again")

        monkeypatch.setattr("huggingface_hub.list_repo_files", retrying)
    reason = "HF_HUB_OFFLINE is set" if offline else "Connection refused"
    sentence = rf"no folder nobody/nothing, and the Hugging Face hub cannot be reached \({reason}\)"
    with pytest.raises(InputError, match=sentence):
        hub_folder("nobody/nothing")


def test_a_proxy_is_asked_in_the_place_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert why_unreachable("https://nowhere.invalid") is None
        monkeypatch.setenv("no_proxy", "nowhere.invalid")
        assert why_unreachable("https://nowhere.invalid") is not None


def test_a_model_that_was_downloaded_is_used_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "models--some--model/snapshots/abc"
    folder.mkdir(parents=True)
    (tmp_path / "models--some--model/refs").mkdir()
    (tmp_path / "models--some--model/refs/main").write_text("abc")
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert hub_folder("some/model", weights=False) == folder
    with pytest.raises(InputError, match="of some/model only the small files were downloaded"):
        hub_folder("some/model")
    (folder / "model.safetensors").touch()
    assert hub_folder("some/model") == folder


def test_the_modules_of_a_sentence_encoder_come_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []
    modules = [{"path": "", "type": "Transformer"}, {"path": "1_Pooling", "type": "Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))

    def download(name: str, *, allow_patterns: list[str], ignore_patterns: Any = None) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("lavra.models.families.files.why_no_hub", lambda: None)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: ["model.safetensors"])
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert hub_folder("some/encoder") == tmp_path
    assert asked[1:] == [["1_Pooling/*.json", "1_Pooling/*.safetensors"]]
