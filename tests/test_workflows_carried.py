"""What belongs to a model beside its weights, through training, another vocabulary, a second training, an export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lavra
from lavra.models.families.companions import lost_companions
from lavra.workflows.export.export import export
from lavra.workflows.models.open import open_model
from little_tokenizers import byte_level, chat_tokenizer

pytestmark = pytest.mark.usefixtures("reference_in_this_process")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SETTINGS = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "eos_token_id": [601, 0], "pad_token_id": 0}
QUICK: dict[str, Any] = {
    "steps": 1,
    "model": {"context": 32},
    "optimization": {"batch_tokens": 64},
    "machine": {"micro_batch_size": 2, "threads": 1, "precision": "fp32", "compile": "no"},
    "check": False,
    "samples": 0,
}
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "vocab_size": 608,
    "bos_token_id": 0,
    "eos_token_id": 601,
    "pad_token_id": 0,
}
CHAT = [{"role": "user", "content": "Quem?"}, {"role": "assistant", "content": "Ele."}]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    turns = [[{**CHAT[0], "content": f"Quem é o {number}?"}, CHAT[1]] for number in range(90)]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    return str(path)


@pytest.fixture(scope="module", params=["Llama", "Granite"])
def chat_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model that becomes ours, and one that stays that of `transformers`."""
    import transformers

    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    cls = getattr(transformers, f"{request.param}ForCausalLM")
    cls(cls.config_class(**SHAPE)).save_pretrained(folder)
    chat_tokenizer().save(folder)
    config = folder / "tokenizer_config.json"
    roles = {"bos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "model_max_length": 64}
    config.write_text(json.dumps({**json.loads(config.read_text()), **roles}))
    (folder / "generation_config.json").write_text(json.dumps(SETTINGS))
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def train(chats: str, out: Path, **options: Any) -> Path:
    return lavra.train([chats], out=str(out), **{**QUICK, **options}).path


def test_what_training_does_not_change_is_in_the_run_the_export_and_the_next_run(chat_model, chats, tmp_path):
    run = train(chats, tmp_path / "run", base=str(chat_model))
    made = export(str(run), tmp_path / "out")
    for folder in (run / "base", run / "model", made.folder):
        assert (folder / "chat_template.jinja").read_text() == CHATML
        settings = json.loads((folder / "generation_config.json").read_text())
        assert settings.items() >= SETTINGS.items()
        tokens = json.loads((folder / "tokenizer_config.json").read_text())
        assert (tokens["bos_token"], tokens["pad_token"], tokens["eos_token"]) == (
            "<|endoftext|>",
            "<|endoftext|>",
            "<|im_end|>",
        )
    config = json.loads((made.folder / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (0, 601, 0)
    assert made.certificate.lost == ()
    again = train(chats, tmp_path / "again", base=str(run))
    assert (again / "model/chat_template.jinja").read_text() == CHATML


@pytest.mark.parametrize("chat_model", ["Granite"], indirect=True)
@pytest.mark.parametrize(
    ("text", "transforms"),
    [
        ({"extend": 8}, {}),
        ({"vocabulary": 300}, {}),
        ({"tokenizer": "TOKENIZER"}, {}),
        ({"extend": 8}, {"adapter": {"kind": "lora", "rank": 2}}),
    ],
    ids=["extended", "trained", "given", "extended with an adapter"],
)
def test_a_model_with_another_vocabulary_is_saved_evaluated_and_exported(chat_model, chats, text, transforms, tmp_path):
    byte_level().save(tmp_path / "tokenizer")
    given = {key: str(tmp_path / "tokenizer") if key == "tokenizer" else value for key, value in text.items()}
    run = train(chats, tmp_path / "run", base=str(chat_model), text=given, transforms=transforms)
    made = export(str(run), tmp_path / "out")
    opened, exported = open_model(str(run), "cpu"), open_model(str(made.folder), "cpu")
    assert opened.tokenizer.fingerprint == exported.tokenizer.fingerprint
    settings = json.loads((made.folder / "generation_config.json").read_text())
    end = opened.tokenizer.end_of_document
    ends = settings["eos_token_id"]
    assert end in (ends if isinstance(ends, list) else [ends])
    assert settings["temperature"] == 0.6
    keeps = "tokenizer" not in text  # a tokenizer that is given lacks the marks of the template
    assert ((made.folder / "chat_template.jinja").read_text() == CHATML) is keeps


def test_chats_from_nothing_have_a_template_and_a_pad_token_in_transformers(chats, tmp_path):
    from transformers import AutoTokenizer

    shape = {"depth": 1, "width": 32, "heads": 2, "context": 64}
    run = train(chats, tmp_path / "run", model=shape, optimization={"batch_tokens": 128})
    made = export(str(run), tmp_path / "out")
    opened: Any = AutoTokenizer.from_pretrained(made.folder)
    assert opened.apply_chat_template(CHAT, tokenize=False) == (
        "<|im_start|>user\nQuem?<|endoftext|>\n<|im_start|>assistant\nEle.<|endoftext|>\n"
    )
    shorter, longer = opened(["a", "b c d"], padding=True)["attention_mask"]
    assert len(longer) > 2
    assert shorter == [1, 1] + [0] * (len(longer) - 2)  # the token that texts begin with, and one
    config = json.loads((made.folder / "config.json").read_text())
    assert config["pad_token_id"] is None  # transformers would not train the embedding of such a token
    again = train(chats, tmp_path / "again", base=str(run))
    assert (again / "model/chat_template.jinja").read_text() == (run / "model/chat_template.jinja").read_text()


def test_a_certificate_lists_what_was_lost(chat_model, tmp_path):
    chat_tokenizer().save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({**SETTINGS, "temperature": 1.0}))
    (tmp_path / "config.json").write_text((chat_model / "config.json").read_text().replace("601", "600"))
    assert lost_companions(tmp_path, chat_model) == (
        "chat template",
        "pad_token",
        "generation_config temperature",
        "config eos_token_id",
    )
    assert lost_companions(chat_model, chat_model) == ()
