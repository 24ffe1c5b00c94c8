"""An encoder without a language-model head, as sentence models are, is trained by masked modelling with a new one."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch

import lavra
from lavra.core.errors import InputError
from lavra.models.hf.model import HFModel
from lavra.workflows.models.open import open_model
from little_tokenizers import bart_like
from test_workflows_carried import QUICK


def body_of(folder: Path, **fields: bool) -> Path:
    import transformers

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=608, max_position_embeddings=64, **shape, **fields)
    transformers.BertModel(config).save_pretrained(folder)
    bart_like().save(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "mask_token": "<mask>", "bos_token": "<s>"}))
    return folder


def test_its_new_head_is_tied_and_begins_with_what_the_body_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = body_of(tmp_path)
    model = open_model(str(folder), "cpu", new_head=True).model
    assert isinstance(model, HFModel)
    assert "has no language-model head: it gets a new one" in capsys.readouterr().err
    assert model.tied
    assert torch.equal(model.inner.cls.predictions.transform.dense.weight, torch.eye(32))
    again = open_model(str(folder), "cpu", new_head=True).model
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_it_is_refused_where_nothing_is_trained_and_where_the_head_is_not_tied(tmp_path: Path):
    with pytest.raises(InputError, match="has no weights for"):
        open_model(str(body_of(tmp_path / "body")), "cpu")
    with pytest.raises(InputError, match="has no weights for"):
        open_model(str(body_of(tmp_path / "untied", tie_word_embeddings=False)), "cpu", new_head=True)


def test_it_learns_by_masked_modelling_and_keeps_its_head(tmp_path: Path):
    rows = "".join(json.dumps({"text": topics[name]}) + "\n" for name in sorted(topics)[:8])
    (tmp_path / "text.jsonl").write_text(rows)
    run = lavra.train(
        [str(tmp_path / "text.jsonl")], base=str(body_of(tmp_path / "body")), out=str(tmp_path / "run"), **QUICK
    )
    assert run.status == "finished"
    assert isinstance(open_model(str(run.path), "cpu").model, HFModel)
