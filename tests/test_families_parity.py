"""The same logits, loss and gradients as `transformers`, after import, after export, and after both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from families import CONFIGURATIONS, NAMES, VOCABULARY, logits_of, opened_exactly, reference
from lavra.models.families.exporting import export_decoder
from lavra.models.families.importing import import_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.causal import Causal

IDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
TOLERANCE = 1e-5
LENGTH = 30


def tokens(rows: int, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(rows + length))


def ours(model: Decoder, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    if mask is None:
        return model.head(model(inputs))
    document_ids = torch.where(mask, 0, -1).int()
    return model.head(model(inputs, document_ids, (mask.long().cumsum(1) - 1).clamp(min=0)))


@pytest.fixture(params=range(len(CONFIGURATIONS)), ids=NAMES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Decoder, Path]:
    """A model of the library, and ours that was read from its folder."""
    kind, options = CONFIGURATIONS[request.param]
    theirs = reference(kind, options, seed=request.param)
    theirs.save_pretrained(tmp_path / "theirs")
    return theirs, import_decoder(tmp_path / "theirs").model.eval(), tmp_path


def reopened(folder: Path) -> Any:
    return opened_exactly(folder, "AutoModelForCausalLM")


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def test_import_and_export_keep_the_logits(pair: tuple[Any, Decoder, Path]) -> None:
    theirs, model, folder = pair
    inputs = tokens(2)
    with torch.no_grad():
        expected = logits_of(theirs, inputs)
        assert expected.std() > 0.1
        assert difference(ours(model, inputs), expected) < TOLERANCE
        export_decoder(folder / "ours", model, IDS)
        assert difference(logits_of(reopened(folder / "ours"), inputs), expected) < TOLERANCE
        again = import_decoder(folder / "ours").model.eval()
        assert difference(ours(again, inputs), expected) < TOLERANCE
    kind = theirs.config.model_type
    assert export_decoder(folder / "same family", model, IDS, preferred=kind).family == kind


def test_padding_on_either_side_changes_nothing(pair: tuple[Any, Decoder, Path]) -> None:
    theirs, model, _ = pair
    inputs = tokens(3)
    lengths = torch.tensor([LENGTH, 19, 7])
    for left in (False, True):
        index = torch.arange(LENGTH).expand(3, LENGTH)
        mask = index >= LENGTH - lengths[:, None] if left else index < lengths[:, None]
        with torch.no_grad():
            assert difference(ours(model, inputs, mask)[mask], logits_of(theirs, inputs, mask)[mask]) < TOLERANCE


def test_packed_documents_equal_documents_alone(pair: tuple[Any, Decoder, Path]) -> None:
    theirs, model, _ = pair
    lengths = [11, 4, 15]
    row = tokens(1, sum(lengths))
    document_ids = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None].int()
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    with torch.no_grad():
        packed = model.head(model(row, document_ids, positions))[0].split(lengths)
        for alone, document in zip(packed, row[0].split(lengths), strict=True):
            assert difference(alone, logits_of(theirs, document[None])[0]) < TOLERANCE


def test_loss_and_gradients_are_equal(pair: tuple[Any, Decoder, Path]) -> None:
    theirs, model, folder = pair
    inputs = tokens(2)
    targets = torch.cat((inputs[:, 1:], torch.full((2, 1), IGNORED)), 1)
    expected = F.cross_entropy(logits_of(theirs, inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    expected.backward()
    batch = Batch(inputs, targets, weight=float((targets != IGNORED).sum()))
    loss = Causal(LENGTH).loss(model, batch)
    (loss.sum / loss.weight).backward()
    assert abs(float(loss.sum.detach() / loss.weight) - float(expected.detach())) < TOLERANCE
    # The gradients are compared in the family's names: as weights of a model that is exported.
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.data = parameter.grad
    export_decoder(folder / "gradients", model, IDS, preferred=theirs.config.model_type)
    from safetensors.torch import load_file

    found = load_file(folder / "gradients" / "model.safetensors")
    compared, family = 0, theirs.config.model_type
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None and ".experts." not in name:
            compared += 1
            name = name.replace("lm_head", "embed_out") if theirs.config.model_type == "gpt_neox" else name
            name = name.replace(".mlp.gate.", ".block_sparse_moe.gate.") if family == "mixtral" else name
            stored = found[name] + 1.0 if family == "gemma2" and "norm" in name else found[name]  # gains less one
            assert difference(stored, parameter.grad) < TOLERANCE, name
    assert compared > 5
    for name, parameter in theirs.named_parameters():
        if ".experts." in name:  # all experts of a block are one tensor in memory, and several in a file
            assert parameter.grad is not None
            for one, other in _experts(name, parameter.grad, family):
                assert difference(found[one], other) < TOLERANCE, one


def _experts(name: str, gradient: torch.Tensor, family: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the names in a file of the parts of a tensor that holds all experts of a block, and the parts."""
    stem, _, kind = name.rpartition(".")
    gate, up, down = ("w1", "w3", "w2") if family == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    stem = stem.replace(".mlp.", ".block_sparse_moe.") if family == "mixtral" else stem
    for number, expert in enumerate(gradient):
        names = (gate, up) if "gate_up" in kind else (down,)
        for part, tensor in zip(names, expert.chunk(len(names)), strict=True):
            yield f"{stem}.{number}.{part}.weight", tensor


def test_ties_are_kept_and_flagged(pair: tuple[Any, Decoder, Path]) -> None:
    import json

    theirs, model, folder = pair
    tied = theirs.config.tie_word_embeddings
    assert model.spec.tied == tied
    assert (model.output.weight is model.embedding.weight) == tied
    export_decoder(folder / "ours", model, IDS)
    assert json.loads((folder / "ours" / "config.json").read_text())["tie_word_embeddings"] is tied
    again = reopened(folder / "ours")
    assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == tied


def test_reading_in_steps_gives_the_same_logits(pair: tuple[Any, Decoder, Path]) -> None:
    theirs, model, _ = pair
    inputs = tokens(2)
    real = torch.ones_like(inputs, dtype=torch.bool)
    real[1, :8] = False  # a shorter prompt, padded on the left
    cache = model.new_cache(2, LENGTH)
    with torch.no_grad():
        expected = logits_of(theirs, inputs, real)
        for start, end in ((0, 12), (12, 13), (13, LENGTH)):
            found = model.head(model.step(inputs[:, start:end], cache, real[:, start:end]))
            shown = real[:, start:end]
            assert difference(found[shown], expected[:, start:end][shown]) < TOLERANCE
