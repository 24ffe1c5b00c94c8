"""Going on from a model, from end to end: decoders, encoder-decoders and encoders; text and examples; edits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import lavra
from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.hf.folders import open_hf_model
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.workflows.models.open import open_model

QUICK: dict[str, Any] = {
    "machine": {"micro_batch_size": 2, "threads": 1, "precision": "fp32", "compile": "no"},
    "optimization": {"batch_tokens": 256},
    "samples": 0,
}
VOCABULARY = 400


@pytest.fixture(scope="module")
def texts() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)[:24]]


@pytest.fixture(scope="module")
def text(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "topics.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"The capital of land {number} is", "completion": f" city {number * 7 % 90}"} for number in range(90)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> Tokenizer:
    return Tokenizer.train(texts, VOCABULARY)


@pytest.fixture(scope="module")
def gpt2(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gpt2")
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
        )
    ).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def base(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows a little of the text."""
    shape = {"depth": 2, "width": 32, "heads": 2, "context": 64, "norm": "layernorm", "tied": True}
    run = train(
        text,
        None,
        tmp_path_factory.mktemp("base") / "run",
        steps=40,
        model=shape,
        text={"vocabulary": VOCABULARY},
        optimization={"batch_tokens": 512},
        samples=0,
    )
    return run.path


@pytest.fixture(scope="module")
def t5(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("t5")
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    ids = {"pad_token_id": 1, "decoder_start_token_id": 1, "eos_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, **shape, **ids)).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def bert(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import BertWordPieceTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertForMaskedLM
    from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    inner = BertWordPieceTokenizer()
    inner.train_from_iterator(texts, vocab_size=VOCABULARY, show_progress=False)
    names = {
        name: f"[{name[:-6].upper()}]" for name in ("unk_token", "cls_token", "sep_token", "pad_token", "mask_token")
    }
    fast = PreTrainedTokenizerFast(tokenizer_object=inner._tokenizer, **names)
    ends = [("[CLS]", fast.cls_token_id), ("[SEP]", fast.sep_token_id)]
    fast.backend_tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast.save_pretrained(folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=len(fast), max_position_embeddings=64, **shape)).save_pretrained(folder)
    return folder


def train(data: Path, base: Path | None, out: Path, **fields: Any) -> lavra.Run:
    machine = {**QUICK["machine"], **fields.pop("machine", {})}
    given = {"check": False, "steps": 6, **QUICK, "machine": machine, **fields}
    if base is not None:
        given["base"] = str(base)
    return lavra.train(data, out=str(out), **given)


def steps(run: lavra.Run, split: str) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in run.metrics if line["split"] == split}


def test_a_decoder_of_the_field_goes_on_from_where_it_was(text: Path, gpt2: Path, tmp_path: Path) -> None:
    rate = {"learning_rate": 3e-3, "batch_tokens": 256}
    run = train(text, gpt2, tmp_path / "run", steps=30, optimization=rate)
    validation = steps(run, "validation")
    assert validation[30] < validation[0] - 0.3
    certificate = json.loads((run.path / "base" / "certificate.json").read_text())
    assert certificate["holds"]
    assert certificate["perplexity"] == pytest.approx(certificate["transformers_perplexity"], rel=1e-4)
    assert run.plan["optimizer"]["name"] == "adamw"
    assert run.plan["schedule"]["shape"] == "wsd"
    assert isinstance(open_model(str(run.path)).model, Decoder)


def test_a_run_needs_nothing_from_elsewhere_to_go_on(text: Path, base: Path, tmp_path: Path) -> None:
    whole = train(text, base, tmp_path / "whole", steps=8, checkpoint_every=4)
    moved = tmp_path / "base"
    shutil.copytree(base, moved)
    stopped = train(text, moved, tmp_path / "stopped", steps=8, checkpoint_every=4)
    shutil.rmtree(moved)
    _stop_at(stopped.path, step=8)
    resumed = lavra.resume(stopped.path)
    assert steps(resumed, "train") == steps(whole, "train")
    ours, theirs = (open_model(str(run.path)).model.state_dict() for run in (resumed, whole))
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


@pytest.mark.usefixtures("reference_in_this_process")
def test_an_encoder_decoder_learns_pairs(pairs: Path, t5: Path, tmp_path: Path) -> None:
    rate = {"learning_rate": 3e-3, "batch_tokens": 512}
    run = train(pairs, t5, tmp_path / "run", steps=30, samples=1, optimization=rate)
    validation = steps(run, "validation")
    assert run.plan["objective"] == "seq2seq"
    assert validation[30] < validation[0] - 0.3
    assert isinstance(open_model(str(run.path)).model, HFModel)
    line = run.result["data_usage"][0]
    assert line["total"] == line["epochs"] * (line["seen"] + line["left"]) + line["seen"]
    sample = json.loads((run.path / "samples.jsonl").read_text().splitlines()[0])
    assert sample["prompt"].startswith("The capital of land")
    assert "city" in sample["expected"]


@pytest.mark.usefixtures("reference_in_this_process")
def test_an_encoder_learns_hidden_words(text: Path, bert: Path, tmp_path: Path) -> None:
    run = train(text, bert, tmp_path / "run", steps=30, optimization={"learning_rate": 3e-3, "batch_tokens": 512})
    assert run.plan["objective"] == "mlm"
    assert steps(run, "validation")[30] < steps(run, "validation")[0] - 0.3
    assert open_hf_model(run.path / "model").kind == "encoder"
    with pytest.raises(InputError, match="cannot learn from examples"):
        train(text, bert, tmp_path / "other", text={"prompt": "text", "completion": "text"})


def test_answers_are_learned_from_nothing(pairs: Path, tmp_path: Path) -> None:
    shape = {"depth": 2, "width": 32, "heads": 2}
    run = train(pairs, None, tmp_path / "run", steps=60, model=shape, optimization={"batch_tokens": 512})
    assert run.plan["objective"] == "completion"
    assert steps(run, "validation")[60] < 0.7 * steps(run, "train")[1]
    generated = run.generate("The capital of land 12 is", greedy=True, max_new_tokens=8)
    assert "city" in generated[0].text


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_an_adapter_learns_alone_and_is_folded(kind: str, text: Path, base: Path, tmp_path: Path) -> None:
    transforms = {"adapter": {"kind": kind, "rank": 4}}
    run = train(
        text, base, tmp_path / "run", transforms=transforms, optimization={"learning_rate": 1e-2, "batch_tokens": 256}
    )
    assert run.result["folded"]["holds"]
    assert run.result["folded"]["largest_difference"] < 1e-4
    base = open_model(str(base)).model.state_dict()
    trained = open_model(str(run.path)).model.state_dict()
    assert set(base) == set(trained)
    moved = {name for name, weight in trained.items() if not torch.equal(weight, base[name])}
    assert moved
    assert all("blocks." in name for name in moved)


@pytest.mark.usefixtures("reference_in_this_process")
def test_an_adapter_of_a_wrapped_model_opens_with_peft(pairs: Path, t5: Path, tmp_path: Path) -> None:
    import peft

    transforms = {"adapter": {"kind": "lora", "rank": 4}}
    run = train(
        pairs, t5, tmp_path / "run", transforms=transforms, optimization={"learning_rate": 1e-2, "batch_tokens": 512}
    )
    merged = open_hf_model(run.path / "model")
    inner = open_hf_model(run.path / "base").inner
    adapted = peft.PeftModel.from_pretrained(inner, str(run.path / "adapter")).eval()
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        ours = merged.inner(input_ids=ids, decoder_input_ids=ids).logits
        theirs = adapted(input_ids=ids, decoder_input_ids=ids).logits
        before = open_hf_model(run.path / "base").inner(input_ids=ids, decoder_input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours, before, atol=1e-3)


@pytest.mark.usefixtures("without_compiler")
def test_checks_pass_before_an_adapter_is_trained(text: Path, base: Path, tmp_path: Path) -> None:
    transforms = {"adapter": {"kind": "lora", "rank": 4}}
    run = train(text, base, tmp_path / "run", transforms=transforms, check=True, steps=2)
    checks = json.loads((run.path / "checks.json").read_text())["checks"]
    assert not [check for check in checks if check["verdict"] == "fail"]
    report = lavra.check(run.path)
    assert {result.name: result.verdict for result in report.results}["save_and_load"] == "ok"
    assert not [result for result in report.results if result.verdict == "fail"]


def test_a_checkpoint_with_an_adapter_opens_folded(text: Path, base: Path, tmp_path: Path) -> None:
    transforms = {"adapter": {"kind": "lora", "rank": 4}}
    run = train(
        text, base, tmp_path / "run", transforms=transforms, optimization={"learning_rate": 1e-2, "batch_tokens": 256}
    )
    finished = open_model(str(run.path)).model.state_dict()
    checkpoint = open_model(str(run.path / "checkpoints" / "step-00000006")).model.state_dict()
    assert set(finished) == set(checkpoint)
    for name, weight in finished.items():
        torch.testing.assert_close(checkpoint[name], weight)


def test_freezing_keeps_what_is_named(text: Path, base: Path, tmp_path: Path) -> None:
    run = train(text, base, tmp_path / "run", transforms={"freeze": ["embedding", "blocks.0"]})
    base, trained = (open_model(str(place)).model.state_dict() for place in (base, run.path))
    for name, weight in trained.items():
        frozen = name.startswith(("embedding.", "blocks.0.", "output."))  # the head is the embedding
        assert torch.equal(weight, base[name]) == frozen, name


@pytest.mark.parametrize("method", ["mean", "focus"])
def test_a_vocabulary_grows_for_the_users_text(method: str, text: Path, base: Path, tmp_path: Path) -> None:
    run = train(text, base, tmp_path / "run", text={"extend": 100, "new_rows": method})
    opened = open_model(str(run.path))
    assert VOCABULARY < opened.tokenizer.vocabulary_size <= VOCABULARY + 100
    assert opened.model.vocabulary == opened.tokenizer.vocabulary_size
    plain = train(text, base, tmp_path / "plain", steps=1)
    assert _tokens(run) < _tokens(plain)


def test_an_adapter_trains_the_rows_of_new_tokens_too(text: Path, base: Path, tmp_path: Path) -> None:
    lora = {"adapter": {"kind": "lora"}}
    learned = {}
    for out, asked in (("same", {}), ("grown", {"extend": 100})):
        train(text, base, tmp_path / out, steps=1, text=asked, transforms=lora)
        checkpoint = CheckpointStore(tmp_path / out / "checkpoints").latest()
        assert checkpoint is not None
        learned[out] = checkpoint.load("master_weights")
    assert "embedding.weight" in learned["grown"]
    assert "embedding.weight" not in learned["same"]


def _tokens(run: lavra.Run) -> int:
    return json.loads((run.path / "data" / "report.json").read_text())["split"]["train"]["tokens"]


def test_what_cannot_be_is_said(text: Path, pairs: Path, base: Path, t5: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match="both say which shape the model has"):
        train(text, base, out, model={"depth": 3})
    with pytest.raises(InputError, match="512 positions"):
        train(pairs, t5, out, model={"context": 600}, force=True)
    with pytest.raises(InputError, match="does not fit"):
        train(text, base, out, objective={"name": "mlm"}, force=True)
    with pytest.raises(InputError, match=r"one of --text.prompt and --text.completion"):
        train(pairs, base, out, text={"prompt": "prompt"}, force=True)
    with pytest.raises(InputError, match="both say which vocabulary"):
        train(text, base, out, text={"extend": 10, "vocabulary": 500}, force=True)
    lavra.prepare(text, tmp_path / "prepared", vocabulary=300)
    with pytest.raises(InputError, match="another tokenizer"):
        train(tmp_path / "prepared", base, out, force=True)
    with pytest.raises(InputError, match="columns"):
        train(text, t5, out, force=True)


@pytest.mark.usefixtures("reference_in_this_process")
def test_dropout_is_off_unless_asked_for(pairs: Path, t5: Path, tmp_path: Path) -> None:
    from torch import nn

    def dropouts(folder: Path) -> set[float]:
        inner = open_hf_model(folder).inner
        own = {module.dropout for module in inner.modules() if isinstance(getattr(module, "dropout", None), float)}
        return own | {module.p for module in inner.modules() if isinstance(module, nn.Dropout)}

    assert dropouts(t5) == {0.1}
    small = {"optimization": {"batch_tokens": 512}}
    assert dropouts(train(pairs, t5, tmp_path / "off", steps=1, **small).path / "base") == {0.0}
    given = {"steps": 4, "checkpoint_every": 2, "model": {"dropout": 0.2}, **small}
    asked = train(pairs, t5, tmp_path / "on", **given)
    assert dropouts(asked.path / "base") == {0.2}
    _stop_at(asked.path, step=4)
    whole = steps(train(pairs, t5, tmp_path / "whole", **given), "train")
    assert steps(lavra.resume(asked.path), "train") == whole


def _stop_at(run: Path, step: int) -> None:
    """Make a finished run one that was killed before its last checkpoint."""
    shutil.rmtree(run / "checkpoints" / f"step-{step:08}")
    shutil.rmtree(run / "model")
    (run / "result.json").unlink()
