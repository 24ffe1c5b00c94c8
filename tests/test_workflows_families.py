"""Families of `transformers` by random weights: all train, finish, evaluate, export and write as they do there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch

import lavra
from family_walk import DECODERS, ENCODER_DECODERS, ENCODERS, FURTHER, OTHERS, RECURRENT, REFUSED, VOCABULARY, folder_of
from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.generation.generate import generate
from lavra.workflows.export.export import export
from lavra.workflows.models.open import open_model
from test_workflows_carried import QUICK

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("reference_in_this_process")]


@pytest.mark.parametrize("family", [*DECODERS, *RECURRENT, *OTHERS])
def test_a_family_writes_what_transformers_writes(family: str, tmp_path: Path):
    import transformers

    folder = folder_of(family, "decoder", tmp_path)
    opened = open_model(str(folder), "cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer, prompts = opened.tokenizer, ["A linguagem é", "um"]
    outside = list(range(tokenizer.vocabulary_size, VOCABULARY)) or None
    made = generate(opened.model, tokenizer, prompts, GenerateOptions(greedy=True, max_new_tokens=12))
    for prompt, one in zip(prompts, made, strict=True):
        ids = torch.tensor([[*tokenizer.text_bos, *tokenizer.encode(prompt)]])
        how = {"eos_token_id": list(tokenizer.end_ids), "suppress_tokens": outside, "max_new_tokens": 12}
        new = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **how)[0][
            ids.shape[1] :
        ].tolist()
        end = next((place for place, token in enumerate(new) if token in tokenizer.end_ids), len(new))
        assert one.tokens == tuple(new[:end])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    texts = [{"text": topics[name][:1500]} for name in sorted(topics)[:16]]
    pairs = [{"source": f"The capital of land {number}", "target": f"city {number * 7 % 90}"} for number in range(60)]
    for name, rows in (("text", texts), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: str(folder / f"{name}.jsonl") for name in ("text", "pairs")}


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *((family, "decoder") for family in (*DECODERS, *FURTHER)),
        *((family, "encoder") for family in ENCODERS),
        *((family, "encoder-decoder") for family in ENCODER_DECODERS),
    ],
)
def test_a_family_is_trained_finished_evaluated_and_exported(family: str, kind: str, data: dict[str, str], tmp_path):
    folder = folder_of(family, kind, tmp_path / "base")
    rows = data["pairs" if kind == "encoder-decoder" else "text"]
    run = lavra.train([rows], base=str(folder), out=str(tmp_path / "run"), **{**QUICK, "samples": 1})
    assert run.status == "finished"
    if kind == "decoder":
        assert run.evaluate().to_json()["bits_per_byte"]
    made = export(str(run.path), tmp_path / "out")
    assert made.certificate.holds


@pytest.mark.parametrize(("kind", "family"), [(kind, family) for kind in REFUSED for family in REFUSED[kind]])
def test_a_family_that_cannot_is_refused_with_the_reason(kind: str, family: str, tmp_path: Path):
    folder = folder_of(family, kind, tmp_path)
    with pytest.raises(InputError, match=REFUSED[kind][family]):
        open_model(str(folder), "cpu")


@pytest.mark.parametrize("family", RECURRENT)
def test_a_recurrent_family_is_resumed_to_the_same_bits_and_exported(family: str, data: dict[str, str], tmp_path):
    folder = folder_of(family, "decoder", tmp_path / "base")
    fields = {**QUICK, "steps": 4, "samples": 1, "checkpoint_every": 1, "keep_checkpoints": 9}
    run = lavra.train([data["text"]], base=str(folder), out=str(tmp_path / "run"), **fields)
    losses = [line["loss"] for line in run.metrics if line["split"] == "train"]
    figure, weights = run.evaluate().to_json()["bits_per_byte"], run.path / "model" / "model.safetensors"
    whole = weights.read_bytes()
    for later in sorted((run.path / "checkpoints").glob("step-*"))[2:]:  # as after a kill in the third step
        shutil.rmtree(later)
    for late in (run.path / "result.json", weights):
        late.unlink()
    resumed = lavra.resume(run.path)
    assert resumed.status == "finished"
    assert [line["loss"] for line in resumed.metrics if line["split"] == "train"] == losses
    assert weights.read_bytes() == whole
    assert resumed.evaluate().to_json()["bits_per_byte"] == figure
    assert export(str(run.path), tmp_path / "out").certificate.holds
