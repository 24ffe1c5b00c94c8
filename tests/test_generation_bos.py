"""What begins a text is read as the model's own tokenizer has it: equal to transformers, in use and in training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import processors

from byte_level import lively_decoder
from lavra.checks.labels import _shifted
from lavra.cli.main import main
from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.data.examples.encoding import ExampleEncoder
from lavra.data.examples.rows import ExampleRow
from lavra.data.packing import WindowSource, cut
from lavra.data.readers.rows import BadRows
from lavra.data.shuffle import WindowPlace
from lavra.data.token_store.prepare import prepare
from lavra.data.token_store.writer import StoreWriter
from lavra.data.tokenizers.prompt_ids import with_bos
from lavra.data.tokenizers.tokenizer import Tokenizer, put_before_texts
from lavra.evaluation.documents import documents_of_rows, documents_of_store
from lavra.evaluation.likelihood import likelihood
from lavra.generation.explaining import explain
from lavra.generation.generate import generate
from lavra.generation.prompts import encode_prompt
from lavra.generation.scoring import score
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import Batch
from lavra.objectives.causal import Causal
from lavra.tasks.datasets import TextDataset
from lavra.workflows.models.open import OpenModel, open_model
from little_tokenizers import TEXTS, byte_level

CONTEXT = 48
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "native <s>": ("Llama", SHAPE, True),
    "native plain": ("GPT2", GPT, False),
    "wrapped <s>": ("Gemma", {**SHAPE, "head_dim": 8}, True),
    "wrapped plain": ("GPTBigCode", GPT, False),
}
"""Class, configuration, and whether the tokenizer begins texts with `<s>`, which is not what ends them."""

PROMPTS = ["It is a", "The statement", "A palavra não é só"]
OPTIONS = [" so", " not so", " string", "x"]
DOCUMENTS = ["It is so.", "", "A palavra não é só de quem a escreve", "The end", TEXTS[0][:60]]


def tokenizer_of(begins: bool) -> Library:
    """A byte-level tokenizer; like Llama's, with `<s>` before a text and `</s>` after a document, or like GPT-2's."""
    inner = Library.from_str(json.dumps({**json.loads(byte_level().serialised), "post_processor": None}))
    if begins:
        inner.add_special_tokens(["<s>", "</s>"])
        put_before_texts(inner, "<s>")
    return inner


def ids_of(inner: Library, begins: bool) -> tuple[int, int]:
    names = ("<s>", "</s>") if begins else ("<|endoftext|>",) * 2
    bos, end = (inner.token_to_id(name) for name in names)
    assert bos is not None
    assert end is not None
    return bos, end


def write_folder(folder: Path, name: str) -> None:
    """Write a random model with its tokenizer, as transformers writes them."""
    import transformers

    kind, options, begins = MODELS[name]
    inner = tokenizer_of(begins)
    bos, end = ids_of(inner, begins)
    library: Any = transformers
    special = {"bos_token_id": bos, "eos_token_id": end, "pad_token_id": end}
    config = getattr(library, kind + "Config")(**options, **special, vocab_size=inner.get_vocab_size())
    ending = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    torch.manual_seed(3)
    model = getattr(library, kind + ending)(config).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.3)
            elif "bias" in key:
                weight.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    names = {"bos_token": inner.id_to_token(bos), "eos_token": inner.id_to_token(end)}
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names})
    )


class Pair:
    """A model as we open it, and as transformers does."""

    def __init__(self, folder: Path, name: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        write_folder(folder, name)
        self.folder, self.begins = folder, MODELS[name][2]
        self.ours: OpenModel = open_model(str(folder), "cpu")
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.padding_side = "left"
        assert isinstance(self.ours.model, Decoder if name.startswith("native") else HFModel)

    @property
    def first(self) -> int:
        """What is read before a document: lm-evaluation-harness takes the beginning, or else the end."""
        return self.tokenizer.bos_token_id if self.begins else self.tokenizer.eos_token_id

    @torch.no_grad()
    def log_probabilities(self, ids: list[int]) -> torch.Tensor:
        """Those of all ids but the first."""
        log = self.model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
        return log.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


@pytest.fixture(scope="module", params=list(MODELS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("model"), request.param)


def test_greedy_texts_are_those_of_transformers(pair: Pair) -> None:
    options = GenerateOptions(greedy=True, max_new_tokens=12)
    found = generate(pair.ours.model, pair.ours.tokenizer, PROMPTS, options)
    texts = {}
    for prompt, one in zip(PROMPTS, found, strict=True):
        read = pair.tokenizer(prompt, return_tensors="pt")
        made = pair.model.generate(**read, max_new_tokens=12, do_sample=False)[0, read.input_ids.shape[1] :].tolist()
        end = pair.tokenizer.eos_token_id
        assert list(one.tokens) == (made[: made.index(end)] if end in made else made)
        assert one.text == pair.tokenizer.decode(list(one.tokens)).rstrip("\ufffd")
        texts[prompt] = one.text
    other = generate(pair.ours.model, pair.ours.tokenizer, PROMPTS, replace(options, bos=not pair.begins))
    assert [one.text for one in other] != list(texts.values())


def test_scores_are_those_of_transformers(pair: Pair) -> None:
    found = score(pair.ours.model, pair.ours.tokenizer, PROMPTS, [OPTIONS] * len(PROMPTS))
    for prompt, scores in zip(PROMPTS, found, strict=True):
        for option, one in zip(OPTIONS, scores, strict=True):
            whole = pair.tokenizer(prompt + option).input_ids
            expected = pair.log_probabilities(whole)[-one.tokens :].sum()
            assert one.log_probability == pytest.approx(float(expected), rel=1e-4)
    (empty,) = score(pair.ours.model, pair.ours.tokenizer, [""], [["It is"]])[0]
    whole = [pair.first, *pair.tokenizer("It is", add_special_tokens=False).input_ids]
    assert empty.log_probability == pytest.approx(float(pair.log_probabilities(whole).sum()), rel=1e-4)


@pytest.mark.parametrize("window", [None, 8])
def test_the_likelihood_is_that_of_transformers(pair: Pair, window: int | None) -> None:
    """Documents beside each other in batches, whole and in windows of which each token sees as much as fits."""
    documents = documents_of_rows(DOCUMENTS, pair.ours.tokenizer)
    context = window or CONTEXT
    found = likelihood(pair.ours.model, documents, context=context, stride=1)
    expected = 0.0
    for text in DOCUMENTS:
        ids = [pair.first, *pair.tokenizer(text, add_special_tokens=False).input_ids, pair.tokenizer.eos_token_id]
        if window is None:
            expected -= float(pair.log_probabilities(ids).sum())
            continue
        for place in range(1, len(ids)):
            expected -= float(pair.log_probabilities(ids[max(0, place - context) : place + 1])[-1])
    assert found.total.nll == pytest.approx(expected, rel=1e-4)


def test_training_reads_documents_as_they_are_measured(pair: Pair, tmp_path: Path) -> None:
    """A packed batch has the loss of its documents one by one, each read as transformers gives its tokens."""
    tokenizer = pair.ours.tokenizer
    with StoreWriter(tmp_path / "store", tokenizer) as writer:
        for text, ids in zip(DOCUMENTS, tokenizer.encode_many(DOCUMENTS), strict=True):
            writer.add("a", text, ids)
    store = writer.opened()
    tokens = store.manifest.tokens
    window = cut(store, WindowPlace(0, 0, tokens))
    batch = Causal(tokens).encode([window], None, 0.0)  # pyright: ignore[reportArgumentType]
    assert set(batch.inputs[batch.positions == 0].tolist()) == {pair.first}
    apart = 0.0
    for text in DOCUMENTS:
        ids = [pair.first, *tokenizer.encode(text), tokenizer.end_of_document]
        apart -= float(pair.log_probabilities(ids).sum())
    fitting = np.split(np.arange(tokens), np.flatnonzero(window.positions == 0)[1:])
    rows = [Batch(batch.inputs[:, part], batch.targets[:, part], weight=float(len(part))) for part in fitting]
    with torch.no_grad():
        one_by_one = sum(float(Causal(tokens).loss(pair.ours.model, row).sum) for row in rows)
    assert one_by_one == pytest.approx(apart, rel=1e-4)
    short = [row for row in range(len(fitting)) if len(fitting[row]) <= CONTEXT // 2][:2]
    together = np.concatenate([fitting[row] for row in short])
    packed = Batch(
        batch.inputs[:, together],
        batch.targets[:, together],
        torch.from_numpy(np.repeat([0, 1], [len(fitting[row]) for row in short]).astype(np.int32))[None],
        torch.from_numpy(window.positions[together])[None],
        weight=float(len(together)),
    )
    with torch.no_grad():
        loss = float(Causal(tokens).loss(pair.ours.model, packed).sum)
        expected = sum(float(Causal(tokens).loss(pair.ours.model, rows[row]).sum) for row in short)
    assert loss == pytest.approx(expected, rel=1e-5)
    measured = [likelihood(pair.ours.model, documents_of_rows(DOCUMENTS, tokenizer)).total.nll]
    measured.append(likelihood(pair.ours.model, documents_of_store(store, tokenizer)).total.nll)
    assert measured[0] == measured[1] == pytest.approx(apart, rel=1e-4)


def test_documents_in_one_text_are_no_fault_of_the_labels(pair: Pair, tmp_path: Path) -> None:
    """Where documents are not told apart, the input after the end of one is what begins the next."""
    tokenizer = pair.ours.tokenizer
    with StoreWriter(tmp_path / "store", tokenizer) as writer:
        for text, ids in zip(DOCUMENTS, tokenizer.encode_many(DOCUMENTS), strict=True):
            writer.add("a", text, ids)
    store = writer.opened()
    tokens = store.manifest.tokens
    window = cut(store, WindowPlace(0, 0, tokens))
    context: Any = SimpleNamespace(causal=True, tokenizer=tokenizer)
    for isolate in (True, False):
        batch = Causal(tokens, isolate).encode([window], None, 0.0)  # pyright: ignore[reportArgumentType]
        assert _shifted(context, [batch]) is None
        again = replace(batch, targets=batch.targets.roll(-1, 1))
        assert "the token after the next" in str(_shifted(context, [again]))


def test_bos_and_no_bos_say_otherwise(pair: Pair) -> None:
    model, tokenizer = pair.ours.model, pair.ours.tokenizer
    ids = tokenizer.encode("It is")
    for bos, expected in ((True, [pair.first, *ids]), (False, ids), (None, pair.tokenizer("It is").input_ids)):
        assert encode_prompt(model, tokenizer, "It is", "refuse", bos).ids == expected  # pyright: ignore[reportArgumentType]
        (one,) = score(model, tokenizer, ["It is"], [[" so"]], bos=bos)[0]
        whole = [*expected, *tokenizer.encode(" so")]
        assert one.log_probability == pytest.approx(float(pair.log_probabilities(whole)[-one.tokens :].sum()), rel=1e-4)
        how = GenerateOptions(greedy=True, max_new_tokens=3, bos=bos)
        steps = explain(model, tokenizer, "It is", how)
        assert [step.chosen for step in steps] == list(generate(model, tokenizer, ["It is"], how)[0].tokens)
    with pytest.raises(InputError, match="the prompt is empty and --no-bos"):
        generate(model, tokenizer, [""], GenerateOptions(bos=False))


@pytest.mark.parametrize("pair", ["native <s>", "native plain"], indirect=True)
def test_the_commands_take_bos_and_no_bos(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("It is so.")
    folder, other = str(pair.folder), "--no-bos" if pair.begins else "--bos"

    def answer(*words: str) -> Any:
        capsys.readouterr()
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    for words in (
        ["generate", folder, "--prompt", "It is a", "--greedy", "--max-new-tokens", "6"],
        ["score", folder, "--prompt", "It is", "--options", " so"],
        ["explain", folder, "--prompt", "It is", "--steps", "2"],
    ):
        assert answer(*words) != answer(*words, other)
    words = ["evaluate", folder, "--data", str(tmp_path / "text.txt")]
    assert (answer(*words)["nll"] == answer(*words, "--no-bos")["nll"]) == (not pair.begins)


@pytest.mark.parametrize("begins", [True, False])
def test_an_example_is_learned_after_the_prompt_that_is_read(begins: bool) -> None:
    inner = tokenizer_of(begins)
    bos, end = ids_of(inner, begins)
    tokenizer = Tokenizer(inner, inner.id_to_token(end))
    rows = [ExampleRow("a", "a:1", "It is", " so"), ExampleRow("a", "a:2", "", "It")]
    first, second = ExampleEncoder(tokenizer, "decoder", BadRows()).encode(rows)
    assert first is not None
    assert second is not None
    read = with_bos(tokenizer, tokenizer.encode("It is"))
    assert read[0] == bos if begins else read == tokenizer.encode("It is")
    assert first.tokens.tolist() == [*read, *tokenizer.encode(" so"), end]
    assert first.learned.tolist() == [False] * len(read) + [True] * (len(first.tokens) - len(read))
    assert second.tokens.tolist() == [bos, *tokenizer.encode("It"), end]


def test_where_the_beginning_is_the_end_windows_are_read_as_before(tmp_path: Path) -> None:
    tokenizer = byte_level()
    assert tokenizer.document_bos == tokenizer.bos == tokenizer.end_of_document
    with StoreWriter(tmp_path / "store", tokenizer) as writer:
        for text, ids in zip(TEXTS[:6], tokenizer.encode_many(TEXTS[:6]), strict=True):
            writer.add("a", text, ids)
    for window in WindowSource(writer.opened(), 64, seed=0).rows(0, 40):
        assert (window.inputs == window.tokens[:-1]).all()


def test_what_is_counted_of_followers_is_counted_after_what_is_read(tmp_path: Path) -> None:
    inner = tokenizer_of(True)
    tokenizer = Tokenizer(inner, "</s>")
    (tmp_path / "text.txt").write_text("\n".join(TEXTS[0].split(". ")))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text[:200]}) + "\n" for text in TEXTS[:30]))
    prepare([str(rows)], tmp_path / "prepared", tokenizer=tokenizer, validation_share=0.2)
    from lavra.data.token_store.prepare import open_prepared

    data = TextDataset(open_prepared(tmp_path / "prepared"))
    assert data.tokenizer.document_bos == inner.token_to_id("<s>") != data.tokenizer.end_of_document
    bigrams, trigrams = data.bigrams(), data.trigrams(50)
    assert bigrams is not None
    assert trigrams is not None
    for contexts in (bigrams.contexts, trigrams.pairs):
        assert (contexts == data.tokenizer.document_bos).any()
        assert not (contexts == data.tokenizer.end_of_document).any()


def test_a_prompt_is_read_with_all_that_the_tokenizer_puts_before_a_text() -> None:
    """GLM's tokenizer puts two tokens there."""
    inner = tokenizer_of(True)
    inner.add_special_tokens(["[gMASK]"])
    names = ("[gMASK]", "<s>")
    marks = [(name, inner.token_to_id(name)) for name in names]
    inner.post_processor = processors.TemplateProcessing(single="[gMASK] <s> $A", special_tokens=marks)
    tokenizer = Tokenizer(inner, "</s>")
    read = encode_prompt(lively_decoder(), tokenizer, "It is", "refuse")
    assert read.ids == inner.encode("It is").ids
    assert (read.marks, read.before) == (2, tokenizer.encode("It is"))
    assert encode_prompt(lively_decoder(), tokenizer, "", "refuse").ids == read.ids[:2]
    assert tokenizer.document_bos == inner.token_to_id("<s>")
    (example,) = ExampleEncoder(tokenizer, "decoder", BadRows()).encode([ExampleRow("a", "a:1", "It is", " so")])
    assert example is not None
    assert example.tokens[:2].tolist() == read.ids[:2]


@pytest.mark.parametrize("add", [True, False])
def test_a_vocabulary_without_a_post_processor_is_told_by_its_configuration(add: bool, tmp_path: Path) -> None:
    """OPT is published as a vocabulary and its merges, and its configuration puts `</s>` before every text."""
    description = json.loads(tokenizer_of(True).to_str())
    vocabulary = {**description["model"]["vocab"], "<s>": 600, "</s>": 601}
    merges = [one if isinstance(one, str) else " ".join(one) for one in description["model"]["merges"]]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": add}))
    from transformers import AutoTokenizer

    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert with_bos(ours, ours.encode("It is")) == theirs("It is").input_ids
    assert ours.bos == (601 if add else None)
    ours.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").bos == ours.bos


def test_the_bits_per_byte_of_a_text_that_begins(tmp_path: Path) -> None:
    """The first token is predicted from `<s>`: of a text of one token that is all there is to see."""
    pair = Pair(tmp_path, "native <s>")
    ids = pair.ours.tokenizer.encode("I")
    found = likelihood(pair.ours.model, documents_of_rows(["I"], pair.ours.tokenizer)).total
    expected = -float(pair.log_probabilities([pair.first, *ids, pair.tokenizer.eos_token_id]).sum())
    assert found.bits_per_byte.value == pytest.approx(expected / math.log(2), rel=1e-5)
