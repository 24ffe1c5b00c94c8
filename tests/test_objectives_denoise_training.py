"""Training by denoising keeps every promise: ledger, isolation, accumulation, order, resume, and the checks hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

import hf_models as tiny
from denoising import CAUSAL, OBJECTIVES, decoder_for, objective_for, spec_for, tokenizer_for
from lavra.checks.batches import alone, spans
from lavra.config.choices import Positions
from lavra.config.denoising import DenoisingConfig
from lavra.core.errors import InputError
from lavra.core.seeds import row_streams
from lavra.data.packing import Window, WindowSource
from lavra.data.tokenizers.token_bytes import token_bytes
from lavra.models.families.registry import family_for
from lavra.models.native.attention import attend_plainly
from lavra.models.native.attention_masks import Mask, additive_mask
from lavra.models.native.building import build_decoder
from lavra.models.protocols import IGNORED, PREFIX, Batch
from lavra.objectives.denoise.layouts import Laid, restored
from lavra.objectives.denoise.marks import MODES, sentinels_of, with_marks
from lavra.objectives.denoise.objective import Denoise, denoise_for
from lavra.objectives.denoise.rows import batch_of_laid, parts_of
from lavra.training.checkpoints.checkpoints import CheckpointStore
from tiny_training import (
    CONTEXT,
    SPEC,
    Capture,
    all_tensors,
    assert_same_bits,
    distance,
    run,
    tiny_trainer,
    topics_store,
    topics_tokenizer,
)


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    """One epoch of the topics."""
    source = WindowSource(topics_store(), CONTEXT, seed=1)
    return source.rows(0, source.order.windows)


def encoded(name: str, windows: list[Window], seed: int = 0, **options: Any) -> Batch:
    return objective_for(name, **options).encode(windows, row_streams(seed, "test", first=0), 0.0)


def measured(model: Any, name: str, batches: list[Batch]) -> tuple[float, torch.Tensor]:
    """Return the summed loss of batches and its gradient as one vector."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        if batch.weight:
            loss = objective_for(name).loss(model, batch)
            loss.sum.backward()
            total += float(loss.sum.detach())
    return total, torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_token_is_seen_in_every_epoch(name: str, windows: list[Window]):
    """What is read and what is predicted hold each byte of the text as often as the text does, or more often."""
    spelled = token_bytes(tokenizer_for(name))
    batch = encoded(name, windows)
    assert batch.document_ids is not None
    seen = 0
    for row, window in enumerate(windows):
        for number, span in enumerate(spans(batch, row)):
            inputs, targets = batch.inputs[row, span], batch.targets[row, span]
            known = Counter(b"".join(spelled[token] or b"" for token in inputs[1:].tolist()))
            known += Counter(b"".join(spelled[token] or b"" for token in targets[targets != IGNORED].tolist()))
            part = window.tokens[1:][window.document_ids == number].tolist()
            assert Counter(b"".join(spelled[token] or b"" for token in part)) <= known
            seen += len(part)
    assert seen == topics_store().manifest.tokens


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("positions", get_args(Positions))
def test_a_packed_batch_is_the_sum_of_its_documents(name: str, positions: str, windows: list[Window]):
    model = decoder_for(name, positions=positions).eval()
    batch = encoded(name, windows)
    singles = [alone(batch, row, span) for row in range(len(windows)) for span in spans(batch, row)]
    assert len(singles) > len(windows)
    together, gradient = measured(model, name, [batch])
    apart, expected = measured(model, name, singles)
    assert together == pytest.approx(apart, rel=1e-5)
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_prediction_sees_the_prefix_and_what_came_before(name: str, windows: list[Window]):
    """A later input changes a prediction only where it belongs to the prefix of the same document."""
    model = decoder_for(name).eval().double()
    batch = encoded(name, windows[:6])
    assert (PREFIX in batch.model_inputs) is (name not in CAUSAL)
    prefix = batch.model_inputs.get(PREFIX, torch.zeros_like(batch.inputs, dtype=torch.bool))
    embeddings = model.embed(batch.inputs).detach().requires_grad_()
    features = model.features(batch, embeddings)
    ahead = 0
    for row in range(len(batch.inputs)):
        for span in spans(batch, row)[:2]:
            for place in range(span.start, span.stop, 5):
                [gradient] = torch.autograd.grad(features[row, place].sum(), embeddings, retain_graph=True)
                reached = gradient[row].norm(dim=-1) > 0
                inside = torch.zeros_like(reached)
                inside[span] = True
                later = torch.arange(len(reached)) > place
                assert not (reached & ~inside).any()
                assert not (reached & later & ~prefix[row]).any()
                assert not gradient[[other for other in range(len(batch.inputs)) if other != row]].any()
                ahead += int((reached & later).sum())
    assert (ahead > 0) is (name not in CAUSAL)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("micro_batch_size", [1, 4])
def test_micro_batches_add_up_to_the_batch(name: str, micro_batch_size: int):
    found = []
    for rows in (8, micro_batch_size):
        capture = Capture()
        trainer = tiny_trainer(
            model=decoder_for(name), objective=objective_for(name), global_batch_size=8, micro_batch_size=rows,
            updates=lambda _, capture=capture: [capture],
        )  # fmt: skip
        run(trainer, 1)
        found.append(capture)
    assert found[0].weights == found[1].weights
    assert found[1].losses[0] == pytest.approx(found[0].losses[0], rel=1e-5)
    assert distance(found[1].gradients[0], found[0].gradients[0]) < 1e-5


@pytest.mark.parametrize("name", OBJECTIVES)
def test_stopped_and_gone_on_is_never_stopped(name: str, tmp_path: Path):
    def trainer() -> Any:
        return tiny_trainer(model=decoder_for(name), objective=objective_for(name), steps=4)

    straight, stopped = trainer(), trainer()
    reports = run(straight)
    found = run(stopped, 2)
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(stopped.step, stopped.tensors(), stopped.state(), background=False)
    again, checkpoint = trainer(), CheckpointStore(tmp_path / "checkpoints").latest()
    assert checkpoint is not None
    again.restore(checkpoint.load, checkpoint.state)
    assert found + run(again) == reports
    assert_same_bits(all_tensors(again), all_tensors(straight))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_hidden_is_a_function_of_seed_and_row(name: str, windows: list[Window]):
    one, other = encoded(name, windows[:4]), encoded(name, windows[:4])
    assert torch.equal(one.inputs, other.inputs)
    drawn = encoded(name, windows[:4], seed=1)
    assert not (torch.equal(one.inputs, drawn.inputs) and torch.equal(one.targets, drawn.targets))
    last = objective_for(name).encode(windows[3:4], lambda place: row_streams(0, "test", first=3)(place), 0.0)
    length = last.inputs.shape[1]
    assert torch.equal(last.inputs[0], one.inputs[3, :length])
    assert (one.targets[3, length:] == IGNORED).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_window_that_is_one_text_is_laid_out_as_one(name: str, windows: list[Window]):
    batch = encoded(name, windows, isolate=False)
    assert batch.document_ids is None or int(batch.document_ids.max()) == 0
    assert batch.weight > 0


# The mask on each way to compute attention.


@pytest.mark.parametrize("length", [40, 300])
def test_the_plain_way_of_attention_skips_no_prefix(length: int):
    """Stripes of queries skip later keys only under a causal mask."""
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = torch.randn(3, 2, 4, length, 8, generator=generator).unbind()
    index = torch.arange(length)
    allowed = ((index[:, None] >= index) | (index < length // 2))[None, None].expand(2, 1, -1, -1)
    mask = Mask(allowed=allowed, causal=False)
    expected = torch.nn.functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=additive_mask(mask, queries, keys)
    )
    torch.testing.assert_close(attend_plainly(queries, keys, values, mask), expected, rtol=1e-4, atol=1e-5)


def test_a_prompt_is_read_in_both_directions_as_in_training(windows: list[Window]):
    """What generation computes for a prompt is what training computes for a prefix, padding on the left included."""
    model = decoder_for("prefix-lm").eval().double()
    ids = torch.tensor([windows[0].tokens[:9].tolist(), windows[1].tokens[:9].tolist()])
    batch = Batch(ids, torch.full_like(ids, IGNORED), model_inputs={PREFIX: torch.ones_like(ids, dtype=torch.bool)})
    with torch.no_grad():
        trained = model.features(batch)
        cache = model.new_cache(2, 16)
        torch.testing.assert_close(model.step(ids, cache), trained)
        following = model.step(ids[:, :1], cache)
        assert following.shape == (2, 1, SPEC.width)
        padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), ids[:1, :6]], 1)
        real = torch.arange(9)[None] >= 3
        together = model.step(torch.cat([padded, ids[1:]]), model.new_cache(2, 16), torch.cat([real, real | True]))
        short = Batch(ids[:1, :6], ids[:1, :6], model_inputs={PREFIX: torch.ones(1, 6, dtype=torch.bool)})
        torch.testing.assert_close(together[:1, 3:], model.features(short))
        torch.testing.assert_close(together[1:], trained[1:])
        causal = decoder_for("fim").eval()
        assert not torch.allclose(causal.step(ids, causal.new_cache(2, 16))[:, 0].double(), trained[:, 0])


@pytest.mark.parametrize("further", [{"window": 3, "global_every": 2}, {"window": 2}, {"positions": "alibi"}])
def test_a_prefix_is_read_within_the_window_on_both_sides(further: dict[str, Any], windows: list[Window]):
    shape = replace(SPEC, prefix_attention=True, initialization="gpt2", **further)
    model, window = build_decoder(shape).eval().double(), shape.window
    ids = torch.tensor([windows[0].tokens[:9].tolist()])
    whole = Batch(ids, ids, model_inputs={PREFIX: torch.ones_like(ids, dtype=torch.bool)})
    with torch.no_grad():
        trained = model.features(whole)
        torch.testing.assert_close(model.step(ids, model.new_cache(1, 16)), trained)
        other = model.features(replace(whole, inputs=ids.index_fill(1, torch.tensor(8), 1)))
    changed = (other != trained).any(-1)[0]
    reach = window * SPEC.depth if window and not shape.global_every else len(changed)
    assert changed.tolist() == [8 - place <= reach for place in range(9)]


def test_no_other_program_reads_a_prefix_in_both_directions():
    with pytest.raises(InputError, match="prefix_attention = True"):
        family_for(replace(SPEC, prefix_attention=True))


# Mixtures, mode tokens and rates.


def test_modes_come_as_often_as_the_mixture_says(windows: list[Window]):
    tokenizer = tokenizer_for("ul2r")
    modes = {name: tokenizer.inner.token_to_id(token) for name, token in MODES.items()}
    counts = dict.fromkeys(modes, 0)
    total = 0
    for seed in range(60):
        batch = encoded("ul2r", windows, seed)
        assert batch.positions is not None
        assert batch.document_ids is not None
        first = batch.inputs[(batch.positions == 0) & (batch.document_ids >= 0)]
        total += len(first)
        for name, number in modes.items():
            counts[name] += int((first == number).sum())
    assert sum(counts.values()) == total
    for name, share in (("R", 0.25), ("S", 0.5), ("X", 0.25)):
        assert abs(counts[name] / total - share) < 4 * (share * (1 - share) / total) ** 0.5


def test_a_model_of_sequences_begins_its_texts_with_their_mode():
    plain, tokenizer = topics_tokenizer(), tokenizer_for("ul2")
    assert tokenizer.document_bos == tokenizer.inner.token_to_id("[S2S]")
    assert tokenizer.end_of_document == plain.end_of_document
    assert len(sentinels_of(tokenizer)) == 100
    assert tokenizer_for("span-corruption").document_bos == plain.document_bos
    assert with_marks(tokenizer, "ul2", DenoisingConfig().mixture("ul2"), decoder=True) is tokenizer
    assert tokenizer.encode("the [S2S] word") == plain.encode("the [S2S] word")


@pytest.mark.parametrize("density", [0.15, 0.5])
def test_the_share_that_is_hidden_is_measured(density: float, windows: list[Window]):
    mixture = DenoisingConfig(noise_density=density).mixture("span-corruption")
    one = denoise_for(tokenizer_for("span-corruption"), mixture, CONTEXT)
    hidden = total = expected = 0
    for seed in range(3):
        for place, window in enumerate(windows):
            for part in parts_of(window, True, one.end):
                laid = one.lay_out(part, row_streams(seed, "rate", first=0)(place))
                answer = laid.targets[laid.targets != IGNORED]
                hidden += int((~np.isin(answer, one.sentinels)).sum()) - 1  # and the end
                total += len(part.tokens)
                length = len(part.tokens)
                expected += length if length < 2 else min(max(1, round(density * length)), length - 1)
    assert hidden == expected
    assert abs(hidden / total - density) < 0.05


def test_a_mixture_without_sentinels_is_refused():
    with pytest.raises(InputError, match="no sentinels"):
        Denoise(CONTEXT, DenoisingConfig().mixture("span-corruption"), (), 0)
    with pytest.raises(InputError, match=r"no token \[NLU\]"):
        denoise_for(tokenizer_for("span-corruption"), DenoisingConfig().mixture("ul2"), CONTEXT)


# Encoder-decoders.


@cache
def t5() -> Any:
    return tiny.hf_model("t5-gated", vocab_size=tokenizer_for("ul2", decoder=False).vocabulary_size)


def for_encoder(name: str) -> Denoise:
    mixture = DenoisingConfig().mixture(name)
    tokenizer = tokenizer_for(name, decoder=False)
    return denoise_for(tokenizer, mixture, CONTEXT, shift=t5().decoder_inputs)


@pytest.mark.parametrize("name", ["span-corruption", "ul2", "prefix-lm"])
def test_an_encoder_reads_holes_and_a_decoder_writes_what_was_there(name: str, windows: list[Window]):
    one = for_encoder(name)
    batch = one.encode(windows, row_streams(0, "test", first=0), 0.0)
    assert PREFIX not in batch.model_inputs
    assert batch.document_ids is not None
    for row, window in enumerate(windows[:8]):
        for number, part in enumerate(parts_of(window, True, one.end)):
            source = batch.model_inputs["encoder_inputs"][row][
                batch.model_inputs["encoder_document_ids"][row] == number
            ]
            inside = batch.document_ids[row] == number
            targets = batch.targets[row][inside]
            assert targets[-1] == source[-1] == one.end
            assert batch.inputs[row][inside].tolist() == t5().decoder_inputs(targets.tolist())
            answer, corrupted = targets[:-1].numpy(), source[:-1].numpy()
            if name == "ul2":
                assert corrupted[0] in one.modes.values()
                corrupted = corrupted[1:]
            laid = Laid(np.array([]), np.append(answer, one.end), source=corrupted)
            assert restored(laid, one.sentinels, (0, 0)).tolist() == part.tokens.tolist()


def test_documents_of_an_encoder_decoder_are_isolated(windows: list[Window]):
    model, one = t5(), for_encoder("ul2")
    batch = one.encode(windows[:5], row_streams(0, "test", first=0), 0.0)
    with torch.no_grad():
        together = float(one.loss(model, batch).sum)
        singles = [alone(batch, row, span) for row in range(5) for span in spans(batch, row)]
        apart = sum(float(one.loss(model, single).sum) for single in singles)
    assert len(singles) > 5
    assert together == pytest.approx(apart, rel=1e-5)


def test_rows_are_as_long_as_they_must_be(windows: list[Window]):
    assert encoded("prefix-lm", windows).inputs.shape[1] == CONTEXT
    wide = encoded("span-corruption", windows).inputs.shape[1]
    assert wide > CONTEXT
    assert wide % 8 == 0
    empty = Laid(np.array([1]), np.array([2]))
    assert batch_of_laid(windows[:1], [[empty]], CONTEXT, isolate=True).inputs.shape == (1, CONTEXT)
    assert spec_for("ul2").prefix_attention
