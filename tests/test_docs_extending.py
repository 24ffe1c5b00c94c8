"""The examples of the documentation's section on extending: each adds something without a change in the package.

The pages show the parts between the marks, word for word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

import lavra
from byte_level import lively_decoder
from check_contexts import corpus, decoder_check_context, shrunk
from lavra.checks.base import CheckContext, CheckResult
from lavra.checks.losses import check_first_loss
from lavra.checks.suite import run_checks
from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError, Interrupted
from lavra.core.seeds import Streams
from lavra.data.packing import Window
from lavra.data.token_store.store import TokenStore
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.generation.generate import generate
from lavra.models.families.exporting import export_decoder
from lavra.models.families.family import Names
from lavra.models.families.importing import import_decoder
from lavra.models.families.llama import LLAMA
from lavra.models.families.registry import FAMILIES
from lavra.models.heads import HEADS, Head, attach_head, head_from_dict
from lavra.models.pooling import documents_of, pool
from lavra.models.protocols import Batch, Model
from lavra.models.spec import DecoderSpec
from lavra.objectives.base import Loss, WithEmbeddings, target_features
from lavra.objectives.causal import Causal
from lavra.objectives.classify import Classify, LabelledText
from lavra.objectives.contrastive import ANCHOR, POSITIVE, Contrastive
from lavra.text.templates import read_templates
from lavra.training.callbacks import Callbacks, Request
from lavra.training.loop import Intervals, Loop, Units
from lavra.training.step import Step
from lavra.training.trainer import Trainer
from lavra.training.updates import Clip, Outcome, Update
from lavra.training.updates.base import Inner
from lavra.training.validation import likelihood_metrics
from little_tokenizers import byte_level
from test_training_comparing import pair_trainer
from tiny_training import CONTEXT, SPEC, Capture, all_tensors, assert_same_bits, distance, lively, run, tiny_trainer

# Training: an update.


# --8<-- [start:update]
class CentralizeGradients(Update):
    """Take the mean of each row off the gradient of every matrix (gradient centralization, arXiv 2004.01461).

    Args:
        strength: share of the mean that is taken off; 0 changes nothing.
    """

    name = "centralize"

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Change the gradients, then let the rest of the chain and the optimiser do the step."""
        largest = 0.0
        for gradient in step.master_weights.gradients():
            if gradient.dim() > 1:
                mean = gradient.mean(dim=-1, keepdim=True)
                gradient -= self.strength * mean
                largest = max(largest, float(mean.abs().max()))
        outcome = inner()
        outcome.metrics["largest_row_mean"] = largest
        return outcome


def add_update(trainer: Trainer) -> None:
    """The order of the list is the order of nesting: gradients are centralized before their norm is clipped."""
    trainer.updates = [CentralizeGradients(), Clip(1.0)]


# --8<-- [end:update]


def test_an_update_changes_gradients_and_reports_a_figure():
    trainer, capture = tiny_trainer(steps=2), Capture()
    add_update(trainer)
    trainer.updates.append(capture)
    report = run(trainer)[-1]
    assert report.metrics["largest_row_mean"] > 0.0
    for gradient in capture.gradients[-1].values():
        if gradient.dim() > 1:
            assert float(gradient.mean(dim=-1).abs().max()) < 1e-7


def test_an_update_at_its_neutral_value_is_the_run_without_it():
    plain = tiny_trainer(steps=3)
    neutral = tiny_trainer(steps=3, updates=lambda trainer: [CentralizeGradients(0.0)])
    run(plain), run(neutral)
    assert_same_bits(all_tensors(neutral), all_tensors(plain))


# Training: an observer.


# --8<-- [start:callback]
class StopWhenGoodEnough:
    """Ask for a validation every few steps, and end the run as soon as the text is told in few enough bits."""

    def __init__(self, bits_per_byte: float, every: int = 100) -> None:
        self.bits_per_byte, self.every = bits_per_byte, every

    def on(self, event: str, info: Mapping[str, Any]) -> Request | None:
        """Events and what they bring are listed at `lavra.training.callbacks.Callback`."""
        if event == "step" and info["bits_per_byte"] < self.bits_per_byte:
            return Request(stop=True, reason=f"{info['bits_per_byte']:.2f} bits per byte are good enough")
        if event == "step" and info["step"] % self.every == 0:
            return Request(evaluate=True)
        return None


# --8<-- [end:callback]


def test_an_observer_ends_the_run():
    trainer = tiny_trainer(steps=6)
    callbacks = Callbacks([StopWhenGoodEnough(bits_per_byte=1e9)])
    loop = Loop(trainer, None, None, Intervals(6, 6, 6), Units(likelihood_metrics(3.5, 0.6), 1.0), None, callbacks)
    with pytest.raises(Interrupted, match="after step 1 of 6"):
        loop.train()
    trainer = tiny_trainer(steps=2)
    callbacks = Callbacks([StopWhenGoodEnough(bits_per_byte=0.0)])
    Loop(trainer, None, None, Intervals(2, 2, 2), Units(likelihood_metrics(3.5, 0.6), 1.0), None, callbacks).train()
    assert trainer.step == 2


# Training: an objective.


# --8<-- [start:objective]
@dataclass(frozen=True)
class ZLoss:
    """Next-token prediction that also keeps the logits small: z² with z = log Σ exp(logits) (PaLM, arXiv 2204.02311).

    Attributes:
        inner: makes the batches.
        weight: of z² beside the cross-entropy; 0 is the plain objective.
    """

    inner: Causal
    weight: float = 1e-4

    def encode(self, rows: Sequence[Window], streams: Streams, progress: float) -> Batch:
        """A batch is what the causal objective makes; all randomness would have to come from `streams`."""
        return self.inner.encode(rows, streams, progress)

    def loss(self, model: Model, batch: Batch) -> Loss:
        """Return a sum and its weight, never a mean, so that micro-batches add up to one big batch."""
        features, targets = target_features(model.features(batch), batch)
        logits = model.head(features).float()
        z = torch.logsumexp(logits, dim=-1)
        return Loss(F.cross_entropy(logits, targets, reduction="sum") + self.weight * z.square().sum(), batch.weight)


# --8<-- [end:objective]


def _log_partition(trainer: Trainer) -> float:
    batch = trainer.batches.micro_batches(0)[0]
    with torch.no_grad():
        features, _ = target_features(trainer.model.features(batch), batch)
        return float(torch.logsumexp(trainer.model.head(features).float(), dim=-1).square().mean())


def test_an_objective_learns_what_it_says():
    spec = replace(SPEC, vocabulary=400)

    def trained(weight: float) -> Trainer:
        trainer = tiny_trainer(model=lively(spec), objective=ZLoss(Causal(CONTEXT), weight), steps=6)
        run(trainer)
        return trainer

    assert _log_partition(trained(1.0)) < _log_partition(trained(0.0))


def test_an_objective_at_its_neutral_value_is_the_plain_one():
    plain, neutral = (tiny_trainer(objective=one, steps=1) for one in (Causal(CONTEXT), ZLoss(Causal(CONTEXT), 0.0)))
    assert run(neutral)[0].loss == pytest.approx(run(plain)[0].loss, rel=1e-6)


# --8<-- [start:embeddings]
@dataclass(frozen=True)
class NoisyEmbeddings:
    """Another objective, learned from embeddings with uniform noise (NEFTune, arXiv 2310.05914).

    Attributes:
        inner: the objective that is learned.
        alpha: size of the noise: each entry is at most alpha / sqrt(length x width); 0 is the inner objective.
    """

    inner: Causal
    alpha: float = 5.0

    def encode(self, rows: Sequence[Window], streams: Streams, progress: float) -> Batch:
        """A batch is what the inner objective makes."""
        return self.inner.encode(rows, streams, progress)

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the loss of the inner objective; what is only measured is measured without noise."""
        if learning and self.alpha:
            rows = model.embed(batch.inputs)
            noise = torch.rand_like(rows) * 2 - 1  # seeded by the step, like dropout
            model = WithEmbeddings(model, rows + noise * self.alpha / (rows.shape[1] * rows.shape[2]) ** 0.5)
        return self.inner.loss(model, batch, learning=learning)


# --8<-- [end:embeddings]


def test_noise_on_embeddings_is_for_learning_and_none_is_the_plain_run():
    plain, neutral, noisy = (
        tiny_trainer(objective=one, steps=2)
        for one in (Causal(CONTEXT), NoisyEmbeddings(Causal(CONTEXT), 0.0), NoisyEmbeddings(Causal(CONTEXT)))
    )
    run(plain), run(neutral), run(noisy)
    assert_same_bits(all_tensors(neutral), all_tensors(plain))
    assert any(not torch.equal(one, all_tensors(plain)[name]) for name, one in all_tensors(noisy).items())
    (batch,) = plain.batches.micro_batches(0)
    measured = [one.loss(plain.model, batch, learning=False).sum for one in (plain.objective, noisy.objective)]
    assert torch.equal(*measured)


# Training: an objective that compares examples.


# --8<-- [start:comparing]
@dataclass(frozen=True)
class HardestNegative(Contrastive):
    """A positive is nearer to its anchor by a margin than the nearest other one (VSE++, arXiv 1707.05612).

    Attributes:
        margin: by how much nearer it has to be.
    """

    symmetric: bool = False
    margin: float = 0.2

    def compare(self, embeddings: torch.Tensor, info: dict[str, torch.Tensor], *, learning: bool = True) -> Loss:
        """All embeddings of the step are here, those of other micro-batches and processes too."""
        anchors, positives = (embeddings[info["roles"] == role] for role in (ANCHOR, POSITIVE))
        similarity = anchors @ positives.t()
        own = similarity.diagonal()
        others = similarity - 2 * torch.diag(torch.full_like(own, torch.inf))
        losses = (self.margin + others.amax(1) - own).clamp(min=0)
        return Loss(losses.sum(), float(len(own)))


# --8<-- [end:comparing]


def test_an_objective_that_compares_is_one_big_batch():
    captures = [Capture(), Capture()]
    for capture, micro_batch_size in zip(captures, (2, 8), strict=True):
        run(
            pair_trainer(
                objective=HardestNegative(CONTEXT, margin=1.0),
                micro_batch_size=micro_batch_size,
                updates=lambda _, capture=capture: [capture],
            ),
            1,
        )
    assert captures[0].losses == pytest.approx(captures[1].losses, rel=1e-5)
    assert distance(captures[0].gradients[0], captures[1].gradients[0]) < 1e-5
    assert captures[0].losses[0] > 0


# Models: a head.


# --8<-- [start:head]
class MeanAndMaxHead(Head):
    """Classes of a document from the mean and the maximum of its tokens (ULMFiT, arXiv 1801.06146)."""

    kind = "mean_and_max"

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(width, classes=classes)  # what `to_dict` writes down
        self.output = nn.Linear(2 * width, classes)

    def forward(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return (documents, classes); pooling knows what is padding and where documents are packed."""
        documents = documents_of(batch)
        pooled = [pool(features, documents, one) for one in ("mean", "max")]
        return self.output(torch.cat(pooled, dim=-1))


def register_head() -> None:
    """From now on a saved model with such a head can be opened."""
    HEADS[MeanAndMaxHead.kind] = MeanAndMaxHead


# --8<-- [end:head]


def test_a_head_learns_like_a_part_of_its_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(HEADS, MeanAndMaxHead.kind, Head)  # so that the table is as it was after the test
    register_head()
    model = lively(SPEC)
    head = head_from_dict({"kind": "mean_and_max", "width": SPEC.width, "classes": 2})
    attach_head(model, head)
    texts = [LabelledText(number, np.array([number, 7, 9 - number]), number % 2) for number in range(4)]
    objective = Classify(CONTEXT, size=2)
    packed = objective.encode([texts], None, 0.0)  # pyright: ignore[reportArgumentType]
    alone = objective.encode([[text] for text in texts], None, 0.0)  # pyright: ignore[reportArgumentType]
    losses = [objective.loss(model, batch) for batch in (packed, alone)]
    assert losses[0].sum.item() == pytest.approx(losses[1].sum.item(), rel=1e-5)
    losses[0].sum.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())


# Models: a family.

# --8<-- [start:family]
SPROUT = replace(
    LLAMA,
    name="sprout",  # the `model_type` of its config.json
    title="Sprout",
    architecture="SproutForCausalLM",
    prefix="decoder.",
    head="vocabulary_head",
    names=tuple(
        Names("embedding", ("tokens",), line.layout)
        if line.ours == "embedding"
        else Names("output", ("vocabulary_head",), line.layout)
        if line.ours == "output"
        else line
        for line in LLAMA.names
    ),
)
"""Llama's arithmetic, in files where the embedding, the head and the prefix have other names."""


def register() -> None:
    """From now on folders of this type are read, and written where they are asked for."""
    FAMILIES[SPROUT.name] = SPROUT


# --8<-- [end:family]


def test_a_family_is_read_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from safetensors import safe_open

    model = lively(
        DecoderSpec(
            vocabulary=101,
            context=32,
            depth=2,
            width=32,
            heads=4,
            activation="swiglu",
            norm_weight=True,
            qk_norm=False,
            embedding_norm=False,
            mlp_width=40,
        )
    )
    monkeypatch.setitem(FAMILIES, SPROUT.name, LLAMA)  # so that the table is as it was after the test
    register()
    export_decoder(tmp_path, model, {"bos_token_id": 0, "eos_token_id": 0}, "sprout")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {"decoder.tokens.weight", "vocabulary_head.weight"} <= set(file.keys())
    again = import_decoder(tmp_path)
    inputs = torch.arange(24)[None]
    assert again.family == "sprout"
    with torch.no_grad():
        torch.testing.assert_close(again.model.head(again.model(inputs)), model.head(model(inputs)))


# Models: an edit.


# --8<-- [start:transform]
@dataclass(frozen=True)
class TrainOnlyBiases:
    """Let biases learn and nothing else (BitFit, arXiv 2106.10199)."""

    def apply(self, model: nn.Module) -> None:
        """Freeze all that is no bias; a model without biases is refused, never left as it was in silence."""
        biases = [name for name, _ in model.named_parameters() if name.endswith("bias")]
        if not biases:
            raise InputError("this model has no biases to train", "choose a family that has them, such as GPT-2's")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in biases)

    def fold(self, model: nn.Module) -> None:
        """What was learned lies in the model's own weights already."""
        model.requires_grad_(True)


# --8<-- [end:transform]


def test_an_edit_decides_what_learns():
    with pytest.raises(InputError, match="no biases"):
        TrainOnlyBiases().apply(lively(SPEC))
    model = lively(replace(SPEC, mlp_bias=True, attention_bias=True))
    TrainOnlyBiases().apply(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    run(tiny_trainer(model=model, steps=1))
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved
    assert all(name.endswith("bias") for name in moved)


# Data: a reader.


# --8<-- [start:reader]
def read_subtitles(folder: Path) -> Iterator[dict[str, str]]:
    """Yield a row for each film: what is said, without numbers and times."""
    for path in sorted(folder.glob("*.srt")):
        blocks = path.read_text(encoding="utf8").strip().split("\n\n")
        spoken = [" ".join(block.splitlines()[2:]) for block in blocks]
        yield {"text": "\n".join(spoken), "film": path.stem}


# --8<-- [end:reader]


def test_rows_of_a_reader_are_prepared_like_a_file(tmp_path: Path):
    films = tmp_path / "films"
    films.mkdir()
    for number in range(30):
        lines = "\n\n".join(
            f"{line}\n00:00:{line:02d},000 --> 00:00:{line + 1:02d},000\nDisse a {number * line}ª frase do filme."
            for line in range(1, 20)
        )
        (films / f"film{number:02d}.srt").write_text(lines, encoding="utf8")
    lavra.prepare(read_subtitles(films), tmp_path / "store", vocabulary=400)
    stores = [TokenStore.open(tmp_path / "store" / split) for split in ("train", "validation")]
    assert sum(store.manifest.documents for store in stores) == 30


# Checks: a check.


# --8<-- [start:check]
def check_one_token_is_not_most(check_context: CheckContext) -> list[CheckResult]:
    """Look for text that is mostly one token, such as lines of dashes or the padding of another program."""
    targets = check_context.encoded.targets
    ids, counts = targets[targets >= 0].unique(return_counts=True)
    share = float(counts.max() / counts.sum())
    common = check_context.decode(int(ids[counts.argmax()]))
    return [
        CheckResult(
            name="one token",
            verdict="ok" if share < 0.5 else "warn",
            measured=f"{share:.0%} of the tokens are {common!r}",
            expected="less than half of the tokens are the same one",
            remedy="" if share < 0.5 else "look at the text: lavra runs show RUN names the documents",
        )
    ]


# --8<-- [end:check]


def test_a_check_stands_among_the_others(tmp_path: Path):
    check_context = decoder_check_context(shrunk("lavra-9m"), corpus("laws", tmp_path))
    checks = [(check_first_loss, 1.0), (check_one_token_is_not_most, 0.0)]
    report = run_checks(check_context, checks)
    assert report["one token"].verdict == "ok"
    check_context.encoded.targets.fill_(7)
    assert run_checks(check_context, checks)["one token"].verdict == "warn"


# Generation: a constraint.


# --8<-- [start:constraint]
class NoDigits:
    """A text without figures. A constraint is a pure function of the new tokens, so any strategy can ask it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        texts = [tokenizer.decode([token]) for token in range(tokenizer.vocabulary_size)]
        self.plain = np.array([not any(character.isdigit() for character in text) for text in texts])

    def allowed(self, prefix: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return which tokens may follow the new tokens so far; the end of document is one of them."""
        return self.plain

    def whole(self, prefix: tuple[int, ...]) -> bool:
        """Say whether the text may end here."""
        return True


# --8<-- [end:constraint]


@pytest.mark.parametrize("strategy", [{"temperature": 2.0, "samples": 4}, {"beams": 3}], ids=str)
def test_a_constraint_holds_for_every_strategy(strategy: dict[str, Any]):
    tokenizer = byte_level()
    options = GenerateOptions(max_new_tokens=40, **strategy)
    model = lively_decoder(1, context=64, vocabulary=tokenizer.vocabulary_size)
    texts = generate(model, tokenizer, ["ano "], options, NoDigits(tokenizer))
    assert texts
    assert not any(character.isdigit() for one in texts for character in one.text)


# Generation: phrasings of a task.

# --8<-- [start:templates]
PHRASINGS = """
[[template]]
name = "resenha"
text = '''
{% for example in examples %}
Resenha: {{ example.text }}
Nota: {{ example.label }}

{% endfor %}
Resenha: {{ text }}
Nota:'''
"""
# --8<-- [end:templates]


def test_phrasings_are_a_file(tmp_path: Path):
    path = tmp_path / "resenhas.toml"
    path.write_text(PHRASINGS, encoding="utf8")
    (template,) = read_templates(str(path))
    example = {"text": "Adorei.", "label": "boa"}
    prompt = template.fill({"text": "Um tédio.", "labels": ["boa", "ruim"], "examples": [example]})
    assert prompt.strip() == "Resenha: Adorei.\nNota: boa\n\nResenha: Um tédio.\nNota:"


# The pages themselves.


def test_the_pages_show_these_examples():
    """A mark that a formatter pulls apart would be printed in place of the example."""
    here = Path(__file__)
    pages = "".join(page.read_text(encoding="utf8") for page in (here.parents[1] / "docs/extending").glob("*.md"))
    shown = re.findall(r'^--8<-- "tests/test_docs_extending.py:(\w+)"$', pages, re.MULTILINE)
    assert sorted(shown) == sorted(
        re.findall(r"^# --8<-- \[start:(\w+)\]$", here.read_text(encoding="utf8"), re.MULTILINE)
    )
