"""Denoising: every pattern times every layout gives back the text, and hides as much as its paper says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.config.denoising import UL2, UL2R, Denoiser, DenoisingConfig
from lavra.core.errors import InputError
from lavra.models.protocols import IGNORED
from lavra.objectives.denoise.layouts import (
    encoder_and_decoder,
    left_to_right,
    masked_next,
    one_sequence,
    prefix_and_rest,
    restored,
    restored_in_place,
    restored_masked_next,
    restored_prefix,
    with_sentinels,
    without_sentinels,
)
from lavra.objectives.denoise.objective import growth, longest_sequence
from lavra.objectives.denoise.patterns import Middle, Pattern, Spans, Suffix, Tokens, pattern_of
from lavra.objectives.room import largest_text

SENTINELS = tuple(range(1099, 999, -1))  # those of T5 fall
MASK, END, FIRST = 2000, 2001, 2002

PATTERNS: dict[str, Pattern] = {
    "spans": Spans(0.15, 3.0),
    "long spans": Spans(0.5, 64.0),
    "many spans": Spans(0.5, 1.0),
    "suffix": Suffix(0.25),
    "any suffix": Suffix(0.5),
    "middle": Middle(),
    "tokens": Tokens(0.15),
    "all tokens": Tokens(1.0),
}

texts = st.lists(st.integers(0, 999), max_size=200).map(lambda ids: np.array(ids, np.int64))
streams = st.integers(0, 2**32).map(np.random.default_rng)


@pytest.mark.parametrize("name", PATTERNS)
@given(tokens=texts, stream=streams)
def test_sentinels_give_back_the_text(name: str, tokens: np.ndarray, stream: np.random.Generator):
    pattern = PATTERNS[name]
    hidden = pattern.hidden(len(tokens), stream)
    assert hidden.shape == tokens.shape
    assert hidden.any() or not len(tokens)
    most, spans = pattern.most(len(tokens))
    assert hidden.sum() <= most
    assert (np.diff(hidden.astype(int), prepend=0) == 1).sum() <= spans
    corrupted, answer = with_sentinels(tokens, hidden, SENTINELS)
    assert without_sentinels(corrupted, answer, SENTINELS).tolist() == tokens.tolist()
    assert len(corrupted) + len(answer) == len(tokens) + 2 * np.isin(corrupted, SENTINELS).sum()
    laid = one_sequence(FIRST, corrupted, answer, END)
    assert restored(laid, SENTINELS).tolist() == tokens.tolist()
    assert laid.targets[laid.targets != IGNORED].tolist() == [*answer.tolist(), END]
    assert laid.prefix == 1 + len(corrupted)
    both = encoder_and_decoder(np.concatenate([[7], corrupted, [END]]), answer, END)
    assert restored(both, SENTINELS, (1, 1)).tolist() == tokens.tolist()


@pytest.mark.parametrize("name", ["suffix", "any suffix"])
@given(tokens=texts.filter(len), stream=streams)
def test_a_prefix_and_the_rest_give_back_the_text(name: str, tokens: np.ndarray, stream: np.random.Generator):
    laid = prefix_and_rest(FIRST, tokens, PATTERNS[name].hidden(len(tokens), stream))
    assert restored_prefix(laid).tolist() == tokens.tolist()
    assert len(laid) == len(tokens)
    assert (laid.targets[: laid.prefix - 1] == IGNORED).all()
    assert (laid.targets[laid.prefix - 1 :] == tokens[laid.prefix - 1 :]).all()


@pytest.mark.parametrize("name", PATTERNS)
@given(tokens=texts.filter(len), stream=streams)
def test_masks_in_place_give_back_the_text(name: str, tokens: np.ndarray, stream: np.random.Generator):
    hidden = PATTERNS[name].hidden(len(tokens), stream)
    laid = masked_next(FIRST, tokens, hidden, MASK)
    assert restored_masked_next(laid).tolist() == tokens.tolist()
    assert (laid.inputs[1:] == MASK).tolist() == hidden[:-1].tolist()
    own = np.where(hidden, MASK, tokens), np.where(hidden, tokens, IGNORED)
    assert restored_in_place(*own).tolist() == tokens.tolist()


@given(tokens=texts.filter(len))
def test_left_to_right_predicts_every_token(tokens: np.ndarray):
    laid = left_to_right(FIRST, tokens)
    assert laid.targets.tolist() == tokens.tolist()
    assert laid.inputs.tolist() == [FIRST, *tokens[:-1].tolist()]


def test_sentinels_stand_in_their_order():
    """The example of the paper of T5 (figure 2): thank you <X> me to your party <Y> week."""
    text = np.arange(10)
    hidden = np.isin(text, [2, 3, 8])
    corrupted, answer = with_sentinels(text, hidden, SENTINELS)
    assert corrupted.tolist() == [0, 1, 1099, 4, 5, 6, 7, 1098, 9]
    assert answer.tolist() == [1099, 2, 3, 1098, 8]
    with pytest.raises(ValueError, match="2 hidden spans have only 1 sentinels"):
        with_sentinels(text, hidden, [1])


@pytest.mark.parametrize(
    ("rate", "mean"), [(0.15, 3.0), (0.15, 8.0), (0.5, 3.0), (0.5, 8.0), (0.15, 64.0), (0.5, 64.0)]
)
def test_spans_hide_what_the_paper_says(rate: float, mean: float):
    """The counts follow from the length; their positions and lengths are drawn, each division equally likely."""
    length, pattern = 2048, Spans(rate, mean, limit=1000)
    hidden, spans = pattern.most(length)
    assert hidden == round(rate * length)
    assert abs(hidden / spans - mean) < 0.15 * mean
    masks = np.array([pattern.hidden(length, np.random.default_rng(seed)) for seed in range(200)])
    assert (masks.sum(1) == hidden).all()
    assert ((np.diff(masks.astype(int), prepend=0, axis=1) == 1).sum(1) == spans).all()
    inner = masks[:, length // 4 : 3 * length // 4].mean()  # ends differ: a text begins visible and ends hidden
    assert abs(inner - rate) < 0.15 * rate + 0.03
    assert len({mask.tobytes() for mask in masks}) == len(masks) or spans == 1


def test_spans_follow_the_rule_of_t5_at_the_edges():
    stream = np.random.default_rng(0)
    assert Spans(0.15, 3.0).hidden(0, stream).tolist() == []
    assert Spans(0.15, 3.0).hidden(1, stream).tolist() == [True]
    assert Spans(0.15, 3.0).hidden(2, stream).tolist() == [False, True]
    assert Spans(0.9, 3.0).hidden(3, stream).tolist() == [False, True, True]
    assert Spans(0.5, 1.0, limit=5).most(100) == (50, 5)
    mask = Spans(0.3, 2.0).hidden(40, stream)
    assert not mask[0]
    assert mask[-1]


RATES = [(Suffix(0.25), 0.25), (Suffix(0.5), 0.5), (Tokens(0.15), 0.15), (Middle(), 1 / 3)]


@pytest.mark.parametrize(("pattern", "rate"), RATES)
def test_rates_are_those_that_were_asked_for(pattern: Pattern, rate: float):
    shares = [pattern.hidden(100, np.random.default_rng(seed)).mean() for seed in range(2000)]
    error = float(np.std(shares)) / len(shares) ** 0.5
    assert abs(np.mean(shares) - rate) < 3 * error + 0.006  # at least one position is hidden


@given(length=st.integers(1, 300), stream=streams, at=st.sampled_from([*UL2, *UL2R]))
def test_no_text_becomes_longer_than_it_may(length: int, stream: np.random.Generator, at: str):
    denoiser = Denoiser.parse(at)
    hidden = pattern_of(denoiser, len(SENTINELS)).hidden(length, stream)
    corrupted, answer = with_sentinels(np.arange(length), hidden, SENTINELS)
    if denoiser.mean is not None:
        laid = one_sequence(FIRST, corrupted, answer, END)
        assert len(laid) <= longest_sequence([denoiser], length, limit=len(SENTINELS))
        grown = len(laid) / length
        assert grown <= growth([denoiser], length, limit=len(SENTINELS)) + 1e-9
    around = longest_sequence([denoiser], length, limit=len(SENTINELS), around=3)
    assert max(len(corrupted) + 3, len(answer) + 1) <= around


def test_the_room_of_a_model_decides_how_much_text_a_row_holds():
    mixture = DenoisingConfig().mixture("ul2")

    def longest(length: int) -> int:
        return longest_sequence(mixture, length, limit=100)

    assert largest_text(longest, 256, None) == 256
    text = largest_text(longest, 256, 256)
    assert text % 8 == 0
    assert longest(text) <= 256 < longest(text + 8)
    assert largest_text(longest, 100, 512) == 100


def test_mixtures_are_data():
    assert [one.mode for one in DenoisingConfig().mixture("ul2")] == ["R", "R", "S", "X", "X", "X", "X"]
    shares: dict[str, float] = {}
    for one in DenoisingConfig().mixture("ul2r"):
        shares[one.mode] = shares.get(one.mode, 0.0) + one.weight / 8
    assert shares == {"R": 0.25, "S": 0.5, "X": 0.25}
    assert DenoisingConfig(noise_density=0.3, mean_span=5).mixture("span-corruption") == (Denoiser(0.3, 5),)
    own = DenoisingConfig(denoisers=("R=0.1/4*3", "0.2")).mixture("ul2")
    assert own == (Denoiser(0.1, 4.0, "R", 3.0), Denoiser(0.2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_density": 0.0}, "a noise density of 0"),
        ({"mean_span": 0.5}, "hidden spans of 0.5 tokens"),
        ({"denoisers": ("Q=0.1",)}, "'Q=0.1' is no denoiser"),
        ({"denoisers": ("R=0.1/3*0",)}, "a weight of 0"),
        ({"denoisers": ("R=.",)}, "is no denoiser"),
        ({"fim_rate": 1.5}, "--objective.fim-rate is 1.5"),
        ({"masked_share": -1}, "--objective.masked-share is -1"),
    ],
)
def test_impossible_noise_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        DenoisingConfig(**options)
