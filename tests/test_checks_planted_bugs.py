"""Each planted bug is caught by the check that is meant for it, and nothing is found where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import check_contexts as check_contexts
from check_contexts import decoder_check_context, shrunk, stand_in_check_context
from lavra.checks import speed
from lavra.checks.base import CheckContext, Storage
from lavra.checks.documents import check_documents, check_padding
from lavra.checks.gradients import check_accumulation, check_gradients, check_optimizer
from lavra.checks.influence import check_influence
from lavra.checks.labels import check_labels
from lavra.checks.learning import check_overfit
from lavra.checks.losses import check_evaluation, check_first_loss, check_precision
from lavra.checks.saving import check_saving
from lavra.checks.stores import check_copies, check_near_duplicates, check_tokenizer
from lavra.checks.suite import FULL, QUICK, Report, run_checks
from lavra.data.token_store.prepare import Prepared
from lavra.data.token_store.store import TokenStore
from lavra.data.token_store.writer import StoreWriter
from lavra.models.native.attention_masks import Mask
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.base import Loss
from lavra.objectives.causal import Causal
from lavra.training.step import Step

CORPORA = ("tales", "laws", "topics")

_TRACED = speed._graphs

pytestmark = pytest.mark.usefixtures("without_compiler")


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Prepared]:
    made: dict[str, Prepared] = {}

    def get(name: str) -> Prepared:
        if name not in made:
            made[name] = check_contexts.corpus(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture(scope="session")
def tales(corpora: Callable[[str], Prepared]) -> Prepared:
    return corpora("tales")


def verdicts(check_context: CheckContext, check: Callable[[CheckContext], Any]) -> dict[str, str]:
    report = run_checks(check_context, [(check, 0.0)])
    return {result.name: result.verdict for result in report.results}


def complaints(report: Report) -> list[str]:
    """What is not well; the speed of a busy machine may be anything."""
    return [f"{one.name}: {one.measured}" for one in report.results if one.verdict != "ok" and one.name != "speed"]


# No false alarm


@pytest.mark.parametrize(
    ("style", "corpus"), [(style, CORPORA[i % 3]) for i, style in enumerate(check_contexts.STYLES)]
)
def test_clean_presets_pass_the_whole_battery(style, corpus, corpora):
    report = run_checks(decoder_check_context(shrunk(style), corpora(corpus)), FULL)
    assert complaints(report) == []
    assert report.verdict != "fail"
    assert len(report.results) == 24


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("style", check_contexts.STYLES)
def test_clean_presets_pass_the_short_form_on_every_corpus(style, corpus, corpora):
    assert complaints(run_checks(decoder_check_context(shrunk(style), corpora(corpus)), QUICK)) == []


@pytest.mark.heavy
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("style", check_contexts.STYLES)
def test_clean_presets_pass_the_whole_battery_on_every_corpus(style, corpus, precision, corpora):
    assert (
        complaints(run_checks(decoder_check_context(shrunk(style), corpora(corpus), precision=precision), FULL)) == []
    )


def test_a_block_is_one_graph_without_breaks(tales):
    assert _TRACED(decoder_check_context(shrunk("lavra-9m"), tales)) == (0, 1)


@pytest.mark.parametrize("kind", ["encoder", "encoder-decoder"])
def test_clean_stand_ins_pass_the_whole_battery(kind):
    if kind == "encoder":
        check_context = stand_in_check_context(check_contexts.Encoder(), check_contexts.MaskedLM(), causal=False)
    else:
        check_context = stand_in_check_context(check_contexts.EncoderDecoder(), check_contexts.Copy(), causal=True)
    report = run_checks(check_context, FULL)
    assert complaints(report) == []
    assert report["both_directions" if kind == "encoder" else "causal_leak"].verdict == "ok"


# 1: labels shifted twice


@dataclass(frozen=True)
class ShiftedTwice(Causal):
    def encode(self, rows, streams, progress):
        batch = super().encode(rows, streams, progress)
        targets = torch.roll(batch.targets, -1, 1)
        targets[:, -1] = IGNORED
        return replace(batch, targets=targets, weight=float((targets != IGNORED).sum()))


@dataclass(frozen=True)
class ShiftedInTheLoss(Causal):
    def loss(self, model, batch, *, learning=True):
        logits = model.head(model.features(batch))[:, :-1]
        wanted = batch.targets[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum")
        return Loss(loss, batch.weight)


def with_objective(check_context: CheckContext, cls: type[Causal]) -> CheckContext:
    plain = check_context.objective
    assert isinstance(plain, Causal)
    return replace(check_context, objective=cls(plain.context, plain.isolate))


@pytest.mark.parametrize("cls", [ShiftedTwice, ShiftedInTheLoss])
def test_labels_shifted_twice(cls, tales):
    check_context = with_objective(decoder_check_context(shrunk("gpt2-124m"), tales), cls)
    assert verdicts(check_context, check_labels) == {"labels": "fail"}
    (result,) = check_labels(check_context)
    assert "the token after the next" in result.measured or "is predicted from position" in result.measured


# 2: a mask that lets one future token through


@pytest.mark.parametrize("style", ["gpt2-124m", "lavra-9m"])
def test_one_future_token(style, tales, monkeypatch):
    def leaky(document_ids: Any, length: int, bias: Any, bounds: Any, **_: Any) -> Mask:
        if document_ids is None:
            return Mask(bias=bias)
        index = torch.arange(length)
        allowed = (index[:, None] + 1 >= index[None, :]) & (document_ids[:, :, None] == document_ids[:, None, :])
        return Mask(allowed=allowed[:, None], bias=bias)

    monkeypatch.setattr("lavra.models.native.decoder.causal_mask", leaky)
    check_context = decoder_check_context(shrunk(style), tales)
    assert verdicts(check_context, check_influence) == {"causal_leak": "fail"}
    (result,) = check_influence(check_context)
    assert "depends on input" in result.measured


def test_an_encoder_with_a_causal_mask():
    class Blinkered(check_contexts.Encoder):
        def seen(self, allowed):
            return allowed.tril()

    check_context = stand_in_check_context(Blinkered(), check_contexts.MaskedLM(), causal=False)
    assert verdicts(check_context, check_influence) == {"both_directions": "fail"}


# 3: the end of a document ignored, because it is also the padding


@dataclass(frozen=True)
class EndIgnored(Causal):
    def encode(self, rows, streams, progress):
        batch = super().encode(rows, streams, progress)
        targets = batch.targets.masked_fill(batch.targets == 0, IGNORED)  # 0 is the id that ends a document
        return replace(batch, targets=targets, weight=float((targets != IGNORED).sum()))


def test_end_of_document_ignored(tales):
    check_context = with_objective(decoder_check_context(shrunk("opt-125m"), tales), EndIgnored)
    assert tales.tokenizer.end_of_document == 0
    assert verdicts(check_context, check_labels) == {"labels": "fail"}
    assert "is never a target" in check_labels(check_context)[0].measured


# 4: means of micro-batches averaged


def test_means_of_micro_batches_averaged_by_the_step(tales, monkeypatch):
    def averaging(self: Step) -> None:
        self.master_weights.clear()
        self.weight = sum(batch.weight for batch in self.micro_batches)
        total = 0.0
        for batch in self.micro_batches:
            loss = self.trainer.objective.loss(self.model, batch)
            mean = loss.sum / loss.weight / len(self.micro_batches)
            mean.backward()
            self.master_weights.accumulate()
            total += float(mean.detach())
        self.loss = total

    monkeypatch.setattr(Step, "_compute", averaging)
    assert verdicts(decoder_check_context(shrunk("gpt2-124m"), tales), check_accumulation) == {"accumulation": "fail"}


@dataclass(frozen=True)
class MeanLoss(Causal):
    def loss(self, model, batch, *, learning=True):
        loss = super().loss(model, batch)
        return Loss(loss.sum / loss.weight, 1.0)


def test_means_of_micro_batches_averaged_by_the_objective(tales):
    check_context = with_objective(decoder_check_context(shrunk("gpt2-124m"), tales), MeanLoss)
    assert verdicts(check_context, check_accumulation) == {"accumulation": "fail"}


# 5: head untied at load


def test_head_untied_at_load(tales):
    check_context = decoder_check_context(shrunk("gpt2-124m"), tales)
    storage = check_context.storage
    assert storage is not None

    def load(folder: Path) -> Decoder:
        model = storage.load(folder)
        assert isinstance(model, Decoder)
        model.output.weight = torch.nn.Parameter(model.embedding.weight.detach().clone())
        return model

    untied = replace(check_context, storage=Storage(storage.save, load))
    assert verdicts(untied, check_saving) == {"save_and_load": "fail", "export": "ok"}
    assert verdicts(check_context, check_saving) == {"save_and_load": "ok", "export": "ok"}


def test_an_export_that_changes_the_model(tales):
    check_context = decoder_check_context(shrunk("gpt2-124m"), tales)
    export = check_context.export
    assert export is not None

    def load(folder: Path) -> Decoder:
        model = export.load(folder)
        assert isinstance(model, Decoder)
        with torch.no_grad():
            model.blocks[1].mlp.up.weight.copy_(model.blocks[1].mlp.up.weight.flip(0))
        return model

    changed = replace(check_context, export=Storage(export.save, load))
    assert verdicts(changed, check_saving) == {"save_and_load": "ok", "export": "fail"}


def test_head_that_is_not_tied_from_the_beginning(tales):
    check_context = decoder_check_context(shrunk("gpt2-124m", tied=False), tales)
    found = verdicts(replace(check_context, tied=True), check_gradients)
    assert found["tied_weights"] == "fail"


# 6: positions not reset between documents; documents that see each other


@dataclass(frozen=True)
class CountingOn(Causal):
    def encode(self, rows, streams, progress):
        batch = super().encode(rows, streams, progress)
        return replace(batch, positions=torch.arange(batch.inputs.shape[1]).repeat(len(rows), 1))


@pytest.mark.parametrize("style", ["gpt2-124m", "lavra-9m"])
def test_positions_not_reset(style, tales):
    check_context = with_objective(decoder_check_context(shrunk(style), tales), CountingOn)
    assert verdicts(check_context, check_documents) == {"document_leak": "fail"}


def test_documents_that_see_each_other(tales, monkeypatch):
    monkeypatch.setattr(
        "lavra.models.native.decoder.causal_mask", lambda document_ids, length, bias, bounds, **_: Mask(bias=bias)
    )
    assert verdicts(decoder_check_context(shrunk("lavra-9m"), tales), check_documents) == {"document_leak": "fail"}


# 7: a frozen layer forgotten


def test_a_frozen_layer_forgotten(tales, monkeypatch):
    def build(spec: Any, seed: int) -> Decoder:
        from lavra.models.native.building import build_decoder

        model = build_decoder(spec, seed)
        model.blocks[0].requires_grad_(False)
        return model

    monkeypatch.setattr("lavra.workflows.models.saved_base.build_decoder", build)
    check_context = decoder_check_context(shrunk("tinyllama-1.1b"), tales)
    assert verdicts(check_context, check_gradients)["gradient_flow"] == "fail"
    assert "blocks.0" in check_gradients(check_context)[0].measured
    meant = frozenset(name for name, one in check_context.model.named_parameters() if not one.requires_grad)
    assert verdicts(replace(check_context, frozen=meant), check_gradients)["gradient_flow"] == "ok"


def test_a_layer_that_nothing_uses(tales, monkeypatch):
    check_context = decoder_check_context(shrunk("gpt2-124m"), tales)
    monkeypatch.setattr(check_context.module.blocks[1], "forward", lambda x, *_: x)
    result = check_gradients(check_context)[0]
    assert result.verdict == "fail"
    assert "blocks.1" in result.measured


# 8: learning rate zero


def test_learning_rate_zero(tales):
    check_context = decoder_check_context(shrunk("gpt2-124m"), tales, rate=0.0)
    assert verdicts(check_context, check_optimizer) == {"optimizer": "fail"}
    check_context.trainer.optimizers.lrs[0][0] = 0.0
    found = verdicts(check_context, check_overfit)
    assert found == {"overfit": "fail", "update": "fail"}


# 9: validation documents copied into train


def with_train(data: Prepared, texts: list[str], folder: Path) -> Prepared:
    with StoreWriter(folder / "train", data.tokenizer) as writer:
        for text, ids in zip(texts, data.tokenizer.encode_many(texts), strict=True):
            writer.add("text", text, ids)
    return Prepared(data.folder, TokenStore.open(folder / "train"), data.validation)


def test_held_out_documents_copied_into_the_training_text(tales, tmp_path):
    texts = [*tales.train.texts(), *list(tales.validation.texts())[:3]]
    check_context = decoder_check_context(shrunk("gpt2-124m"), with_train(tales, texts, tmp_path))
    assert verdicts(check_context, check_copies) == {"validation_copies": "fail"}
    assert verdicts(check_context, check_near_duplicates) == {"validation_near_duplicates": "fail"}
    assert check_copies(check_context)[0].measured.startswith("3 of ")


def test_only_what_may_be_a_copy_is_read(tales, tmp_path, monkeypatch):
    texts = [*tales.train.texts(), next(text for text in tales.validation.texts() if len(text) > 200)]
    data = with_train(tales, texts, tmp_path)
    read = []
    document = data.train.document
    monkeypatch.setattr(data.train, "document", lambda number: read.append(number) or document(number))
    check_context = decoder_check_context(shrunk("gpt2-124m"), data)
    assert check_copies(check_context)[0].measured.startswith("1 of ")
    assert len(texts) - 1 in read
    assert len(read) < 5


def test_held_out_documents_copied_with_small_changes(tales, tmp_path):
    changed = [text.replace(",", " ,").upper() for text in tales.validation.texts()]
    check_context = decoder_check_context(
        shrunk("gpt2-124m"), with_train(tales, [*tales.train.texts(), *changed], tmp_path)
    )
    assert verdicts(check_context, check_copies) == {"validation_copies": "ok"}
    assert verdicts(check_context, check_near_duplicates) == {"validation_near_duplicates": "fail"}
    told = check_near_duplicates(replace(check_context, loaded=True))[0].measured
    assert "all of them are near duplicates" in told


@pytest.mark.parametrize(("copies", "verdict"), [(1, "warn"), (2, "fail")])
def test_one_near_duplicate_in_a_small_validation_text_is_no_proof(tales, tmp_path, copies, verdict):
    texts = list(tales.validation.texts())
    changed = [text.replace(",", " ,").upper() for text in texts if len(text) > 200][:copies]
    numbers = range(max(copies, 3))
    with StoreWriter(tmp_path / "validation", tales.tokenizer, keep_texts=True) as writer:
        for text in [text for text in texts if len(text) > 200][: len(numbers)]:
            writer.add("text", text, tales.tokenizer.encode_many([text])[0])
    data = with_train(tales, [*tales.train.texts(), *changed], tmp_path)
    few = Prepared(data.folder, data.train, TokenStore.open(tmp_path / "validation"))
    check_context = decoder_check_context(shrunk("gpt2-124m"), few)
    (result,) = check_near_duplicates(check_context)
    assert result.measured.startswith(f"{copies} of 3 validation documents")
    assert result.verdict == verdict


# 10: tokenizer of another model


@dataclass(frozen=True)
class OtherIds(Causal):
    def encode(self, rows, streams, progress):
        batch = super().encode(rows, streams, progress)
        order = torch.from_numpy(np.random.default_rng(0).permutation(384))
        return replace(batch, inputs=order[batch.inputs], targets=order[batch.targets])


def test_text_in_the_ids_of_another_tokenizer(tales):
    check_context = decoder_check_context(shrunk("gpt2-124m"), tales, loaded=True)
    for _ in range(40):
        check_context.trainer.run_step()
    assert verdicts(check_context, check_first_loss) == {"first_loss": "ok"}
    assert verdicts(with_objective(check_context, OtherIds), check_first_loss) == {"first_loss": "fail"}


def test_a_tokenizer_larger_than_the_model(tales, corpora):
    job = check_contexts.assembled(shrunk("gpt2-124m"), tales)
    job.model.spec = replace(job.model.spec, vocabulary=256)
    check_context = check_contexts.check_context(job)
    report = run_checks(check_context, QUICK)
    assert {result.name for result in report.failed} == {"ids", "tokenizer"}


def test_a_store_made_with_another_tokenizer(tales, corpora):
    mixed = Prepared(tales.folder, tales.train, corpora("laws").validation)
    check_context = decoder_check_context(shrunk("gpt2-124m"), mixed)
    assert verdicts(check_context, check_tokenizer) == {"tokenizer": "fail"}


# 11: attention mask dropped in an encoder


def test_attention_mask_dropped_in_an_encoder():
    class Maskless(check_contexts.Encoder):
        def seen(self, allowed):
            return torch.ones_like(allowed)

    check_context = stand_in_check_context(Maskless(), check_contexts.MaskedLM(), causal=False)
    assert verdicts(check_context, check_padding) == {"padding": "fail"}
    assert verdicts(check_context, check_documents) == {"document_leak": "fail"}


# 12: dropout left on in evaluation


def test_dropout_left_on_in_evaluation(tales, monkeypatch):
    check_context = decoder_check_context(shrunk("gpt2-124m"), tales)
    embed = Decoder._embed
    monkeypatch.setattr(Decoder, "_embed", lambda self, ids, places: F.dropout(embed(self, ids, places), 0.1))
    assert verdicts(check_context, check_evaluation) == {"evaluation": "fail"}


def test_dropout_in_training_alone_is_well(tales):
    report = run_checks(decoder_check_context(shrunk("gpt2-124m", dropout=0.2), tales), QUICK)
    assert complaints(report) == []


# 13: fp16 overflow


def test_fp16_overflow(tales):
    check_context = decoder_check_context(shrunk("gpt2-124m"), tales, precision="fp16")
    assert verdicts(check_context, check_precision) == {"precision": "ok"}
    master_weights = check_context.trainer.master_weights
    with torch.no_grad():
        master_weights.weights["blocks.0.mlp.up.weight"].mul_(3e4)
        master_weights.weights["blocks.0.mlp.down.weight"].mul_(1e2)
        master_weights.copy_to_model()
    assert verdicts(check_context, check_precision) == {"precision": "fail"}


# 14: optimiser not seeing the head


def test_optimiser_that_does_not_hold_the_head(tales, monkeypatch):
    monkeypatch.setattr("lavra.checks.learning._STEPS", 8)
    check_context = decoder_check_context(shrunk("tinyllama-1.1b"), tales)
    head = check_context.trainer.master_weights.weights["output.weight"]
    for optimizer in check_context.trainer.optimizers.optimizers:
        for group in optimizer.param_groups:
            group["params"] = [weight for weight in group["params"] if weight is not head]
    assert verdicts(check_context, check_optimizer) == {"optimizer": "fail"}
    assert verdicts(check_context, check_overfit)["update"] == "fail"
    assert "output.weight" in check_optimizer(check_context)[0].measured


# 15: loss averaged over padding


class WeighedWithPadding(check_contexts.MaskedLM):
    def loss(self, model: Any, batch: Batch, *, learning: bool = True) -> Loss:
        return Loss(super().loss(model, batch).sum, float(batch.targets.numel()))


class PaddingLearned(check_contexts.Copy):
    def encode(self, rows: Any, streams: Any, progress: float) -> Batch:
        batch = super().encode(rows, streams, progress)
        targets = batch.targets.masked_fill(batch.targets == IGNORED, 0)
        return replace(batch, targets=targets, weight=float(targets.numel()))


def test_loss_averaged_over_padding():
    encoder = stand_in_check_context(check_contexts.Encoder(), WeighedWithPadding(), causal=False)
    assert verdicts(encoder, check_padding) == {"padding": "fail"}
    writer = stand_in_check_context(check_contexts.EncoderDecoder(), PaddingLearned(), causal=True)
    assert verdicts(writer, check_padding) == {"padding": "fail"}
