"""Rates after a beginning with pairs of tokens."""

from __future__ import annotations

from itertools import pairwise

from lavra.config.training import OptimizationConfig
from lavra.workflows.training.optimization import lrs_after_bigrams, optimizer_options, options_after_bigrams


def rates(tokens: float, vocabulary: int = 8192, **asked: float) -> tuple[float, float, float]:
    """Return the rates of head, embedding and matrices."""
    config = OptimizationConfig(**asked)  # pyright: ignore[reportArgumentType]
    found = options_after_bigrams(config, optimizer_options(config, False), tokens, vocabulary)
    assert found.embedding_lr is not None
    return found.learning_rate, found.embedding_lr, found.muon_lr


def test_short_runs_are_gentle_with_what_they_begin_with() -> None:
    whole = rates(1e7)
    assert whole == rates(1e8) == (3e-3, 0.05, optimizer_options(OptimizationConfig(), False).muon_lr)
    lengths = [rates(tokens) for tokens in (2e4, 1e5, 3e5, 1e6)]
    for shorter, longer in pairwise(lengths):
        assert all(one <= other for one, other in zip(shorter, longer, strict=True))
    assert all(least > 0 for least in rates(1.0))
    # As many tokens are a longer run for a smaller vocabulary, of which there are fewer pairs.
    assert rates(1e5, 400) == whole


def test_rates_that_were_asked_for_stay() -> None:
    asked = {"learning_rate": 0.1, "embedding_lr": 0.2, "muon_lr": 0.3}
    assert rates(1e4, **asked) == (0.1, 0.2, 0.3)


def test_a_run_that_knows_more_is_gentle_for_longer() -> None:
    assert lrs_after_bigrams(3e5, 8192, paired=True) < lrs_after_bigrams(3e5, 8192, paired=False) < 1.0
    assert lrs_after_bigrams(1e7, 8192, paired=True) == 1.0
