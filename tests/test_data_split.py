"""The split: by content, the same whatever is added, with a limit, and with something to hold out of any corpus."""

import random
from collections.abc import Iterable
from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.data.split import Split, SplitCounter
from lavra.data.tokenizers.report import CorpusSample


def decided(texts: Iterable[str], share: float = 0.05, limit: int = 10_000_000) -> Split:
    counter = SplitCounter(share, limit)
    for text in texts:
        counter.add(text.encode())
    return counter.decide()


def validation_set(texts: list[str], share: float = 0.05, limit: int = 10_000_000) -> set[str]:
    split = decided(texts, share, limit)
    return {text for text in texts if split.divide(text)[1]}


def corpus(documents: int, seed: int = 0, words: int = 60) -> list[str]:
    source = random.Random(seed)
    return [" ".join(str(source.randrange(10**6)) for _ in range(words)) for _ in range(documents)]


def size(texts: Iterable[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def test_about_the_wanted_share_is_held_out() -> None:
    texts = corpus(5000)
    for share in (0.02, 0.05, 0.2):
        assert size(validation_set(texts, share)) / size(texts) == pytest.approx(share, rel=0.2)


def test_adding_documents_moves_none_and_their_order_does_not_matter() -> None:
    before, more = corpus(400), corpus(600, seed=1)
    first = validation_set(before)
    together = more + before
    random.Random(2).shuffle(together)
    assert validation_set(together) & set(before) == first
    assert len(first) > 5


def test_equal_texts_fall_on_one_side_whatever_white_space_is_around_them() -> None:
    texts = corpus(300)
    split = decided(texts)
    for text in texts:
        sides = {bool(split.divide(variant)[1]) for variant in (text, text + "\n", "  " + text)}
        assert len(sides) == 1


def test_beyond_the_limit_documents_only_leave_validation() -> None:
    texts = corpus(4000)
    unlimited = validation_set(texts)
    previous = unlimited
    for divisor in (1.5, 3, 7, 20):
        limit = int(size(unlimited) / divisor)
        limited = validation_set(texts, limit=limit)
        assert limited <= previous
        assert limit / 3 < size(limited) <= limit
        previous = limited
    limit = size(validation_set(texts[:1000]))
    assert validation_set(texts, limit=limit) & set(texts[:1000]) <= validation_set(texts[:1000], limit=limit)


@given(st.lists(st.integers(40, 4000), min_size=2, max_size=40), st.integers(0, 1000))
def test_something_is_held_out_and_most_is_trained_on(lengths: list[int], seed: int) -> None:
    texts = [" ".join(words) for words in (corpus(1, seed + n, length)[0].split() for n, length in enumerate(lengths))]
    split = decided(texts)
    parts = [split.divide(text) for text in texts]
    trained, validation = size(head for head, _ in parts), size(tail for _, tail in parts)
    assert all(head + tail == text for text, (head, tail) in zip(texts, parts, strict=True))
    assert validation >= 0.005 * (trained + validation)
    assert trained >= 0.5 * (trained + validation)


def test_one_large_document_gives_its_end_cut_at_a_paragraph() -> None:
    text = "\n\n".join(topics[name] for name in sorted(topics))
    head, tail = decided([text]).divide(text)
    assert head + tail == text
    assert head.endswith("\n\n")
    assert 0.025 <= len(tail) / len(text) <= 0.1


def test_a_document_that_is_half_the_corpus_is_not_held_out_whole() -> None:
    giant = " ".join(corpus(300, seed=5))
    texts = [giant, *corpus(200)]
    for seed in range(60):
        marked = [f"{seed} {giant}", *texts[1:]]
        head, tail = decided(marked).divide(marked[0])
        assert len(tail) < 0.2 * len(giant)
        assert len(head) > 0.8 * len(giant)


def test_documents_larger_than_the_limit_give_an_end_below_it() -> None:
    texts = [" ".join(corpus(50, seed=n)) for n in range(10)]
    split = decided(texts, limit=8000)
    tails = [split.divide(text)[1] for text in texts]
    assert 0 < size(tails) <= 1.5 * 8000


def test_a_text_too_short_to_cut_is_trained_on() -> None:
    assert decided(["olá"]).divide("olá") == ("olá", "")


def test_an_impossible_share_is_refused() -> None:
    for share in (0, 0.6, -1):
        with pytest.raises(InputError, match="validation share"):
            SplitCounter(share, 1000)


def test_a_sample_is_bounded_spread_and_the_same_every_time() -> None:
    texts = corpus(2000)
    samples = []
    for _ in range(2):
        sample = CorpusSample(limit=size(texts) // 4, seed=3)
        for text in texts:
            sample.add(text)
        samples.append(list(sample))
    assert samples[0] == samples[1]
    assert size(texts) / 10 < size(samples[0]) <= size(texts) / 4
    places = [texts.index(text) for text in samples[0]]
    assert places == sorted(places)
    assert min(places) < 100
    assert max(places) > 1900


def test_a_giant_text_is_sampled_in_pieces_from_all_over() -> None:
    text = " ".join(corpus(3000))
    sample = CorpusSample(limit=len(text) // 3)
    sample.add(text)
    pieces = list(sample)
    assert len(pieces) > 5
    assert size(pieces) <= len(text) // 3
    assert all(piece in text for piece in pieces)
