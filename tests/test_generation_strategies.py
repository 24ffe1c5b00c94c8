"""Diverse beams, contrastive search and constraints equal their definitions, and hold on to what they promise."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from byte_level import ByteTokenizer, lively_decoder
from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.generation import generate as module
from lavra.generation.constraints import OneOf, Words, continuing
from lavra.generation.decoding import ContrastiveDecoding
from lavra.generation.generate import generate, stream
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import Batch

TOKENIZER: Any = ByteTokenizer()
END = 256
PROMPTS = ["ab", "", "Era uma vez", "ab", "não"]


@cache
def small_tokenizer() -> Tokenizer:
    from pydoc_data.topics import topics

    return Tokenizer.train(list(topics.values())[:20], 600)


def features_of(model: Decoder, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        inputs = torch.tensor([ids])
        return model.features(Batch(inputs, inputs))[0]


@torch.no_grad()
def contrastive_from_scratch(model: Decoder, prompt: str, longest: int, alpha: float, k: int) -> list[int]:
    """Equation 5 of arXiv 2202.06417, with every candidate read anew."""
    ids, made = [END, *prompt.encode()], []
    begin = 0
    while len(made) < longest:
        if len(ids) - begin >= model.context:
            begin = len(ids) - model.context // 2
        before = features_of(model, ids[begin:])
        chance = model.head(before[-1])[:257].softmax(-1)
        merits = []
        for token in chance.topk(k).indices.tolist():
            state = features_of(model, [*ids[begin:], token])[-1]
            likeness = torch.nn.functional.cosine_similarity(before, state[None]).max()
            merits.append((float((1 - alpha) * chance[token] - alpha * likeness), token))
        token = max(merits)[1]
        if token == END:
            break
        ids.append(token)
        made.append(token)
    return made


@pytest.mark.parametrize(("alpha", "k"), [(0.6, 4), (0.2, 8), (1.0, 3)])
@pytest.mark.parametrize("positions", ["rope", "alibi"])
def test_contrastive_search_is_its_equation(alpha: float, k: int, positions: str) -> None:
    model = lively_decoder(4, context=64, positions=positions)
    options = GenerateOptions(max_new_tokens=15, contrastive=alpha, top_k=k)
    for found in generate(model, TOKENIZER, PROMPTS, options):
        assert list(found.tokens) == contrastive_from_scratch(model, found.prompt, 15, alpha, k)


def test_contrastive_search_beyond_the_context_and_beside_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_decoder(2, context=14)
    options = GenerateOptions(max_new_tokens=30, contrastive=0.5, top_k=4)
    found = [generate(model, TOKENIZER, [prompt], options)[0] for prompt in PROMPTS]
    assert [list(one.tokens) for one in found] == [
        contrastive_from_scratch(model, prompt, 30, 0.5, 4) for prompt in PROMPTS
    ]
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 8)
    wide = lively_decoder(2, context=64)
    alone = [generate(wide, TOKENIZER, [prompt], options)[0] for prompt in PROMPTS]
    assert generate(wide, TOKENIZER, PROMPTS, options) == alone


def test_contrastive_search_without_its_penalty_is_greedy() -> None:
    model = lively_decoder(3, context=64)
    greedy = generate(model, TOKENIZER, PROMPTS, GenerateOptions(greedy=True, max_new_tokens=20))
    assert generate(model, TOKENIZER, PROMPTS, GenerateOptions(contrastive=0.0, top_k=5, max_new_tokens=20)) == greedy
    options = GenerateOptions(contrastive=0.4, top_k=5, max_new_tokens=20)
    assert "".join(stream(model, TOKENIZER, "ab", options)) == generate(model, TOKENIZER, ["ab"], options)[0].text


def test_contrastive_search_refuses_a_context_without_room() -> None:
    with pytest.raises(InputError, match="two tokens"):
        ContrastiveDecoding(lively_decoder(context=1), TOKENIZER, [], GenerateOptions(contrastive=0.5, top_k=2))


@torch.no_grad()
def diverse_from_scratch(model: Decoder, prompt: str, longest: int, options: GenerateOptions) -> list[float]:
    """Algorithm 1 of arXiv 1610.02424's beams in groups, without a cache; the scores of what ended."""
    width = options.beams // options.beam_groups
    first = [END, *prompt.encode()]
    groups = [[(0.0, first)] for _ in range(options.beam_groups)]
    ended: list[list[float]] = [[] for _ in groups]
    for made in range(1, longest + 1):
        taken: list[int] = []
        for number, group in enumerate(groups):
            grown = []
            for score, ids in group:
                log = model.head(features_of(model, ids)[-1])[:257].log_softmax(-1)
                for token in range(257):
                    penalty = options.diversity_penalty * taken.count(token)
                    grown.append((score + float(log[token]) - penalty, [*ids, token]))
            grown = sorted(grown, key=lambda one: -one[0])[: 2 * width]
            last = made == longest
            ended[number] += [one[0] / made for one in grown[:width] if one[1][-1] == END or last]
            groups[number] = [] if last else [one for one in grown if one[1][-1] != END][:width]
            taken += [ids[-1] for _, ids in groups[number]]
            ended[number] = sorted(ended[number], reverse=True)[:width]
            full = len(ended[number]) == width
            if full and groups[number] and groups[number][0][0] / made <= ended[number][-1]:
                groups[number] = []
    return sorted((score for group in ended for score in group), reverse=True)


@pytest.mark.parametrize(("beams", "groups", "penalty"), [(4, 2, 0.5), (6, 3, 2.0), (3, 3, 1.0)])
def test_diverse_beams_are_their_definition(beams: int, groups: int, penalty: float) -> None:
    model = lively_decoder(6, context=64)
    options = GenerateOptions(
        max_new_tokens=6, beams=beams, beam_groups=groups, diversity_penalty=penalty, samples=beams
    )
    for prompt in PROMPTS[:3]:
        found = [one.score for one in generate(model, TOKENIZER, [prompt], options)]
        assert found == pytest.approx(diverse_from_scratch(model, prompt, 6, options), rel=1e-9)


def test_one_group_is_beam_search_and_more_groups_differ_more() -> None:
    model = lively_decoder(6, context=64)
    plain = GenerateOptions(max_new_tokens=10, beams=4, samples=4)
    one = GenerateOptions(max_new_tokens=10, beams=4, samples=4, beam_groups=1, diversity_penalty=9.0)
    many = GenerateOptions(max_new_tokens=10, beams=4, samples=4, beam_groups=4, diversity_penalty=9.0)
    found = generate(model, TOKENIZER, PROMPTS, plain)
    assert generate(model, TOKENIZER, PROMPTS, one) == found
    diverse = generate(model, TOKENIZER, ["ab"], many)
    assert len({text.tokens[:1] for text in diverse}) == 4


@torch.no_grad()
def test_one_beam_wide_and_the_likeliest_first() -> None:
    model = lively_decoder(6, context=64)
    found = generate(model, TOKENIZER, ["ab"], GenerateOptions(max_new_tokens=8, beams=4, samples=4))
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    assert [one.sample for one in found] == [0, 1, 2, 3]
    for one in found:
        ids = [END, *b"ab", *one.tokens, *([END] if one.reason == "end" else [])]
        log = model.head(features_of(model, ids))[:, :257].log_softmax(-1)
        made = range(3, len(ids))
        total = sum(float(log[place - 1, ids[place]]) for place in made)
        assert one.score == pytest.approx(total / len(made), rel=1e-9)


def test_beams_slide_with_the_context_and_respect_stop_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_decoder(5, context=12)
    long = generate(model, TOKENIZER, PROMPTS, GenerateOptions(max_new_tokens=30, beams=3, min_new_tokens=30))
    assert {len(one.tokens) for one in long} == {30}
    free = generate(model, TOKENIZER, ["ab"], GenerateOptions(max_new_tokens=20, min_new_tokens=20, beams=2))[0]
    stop = free.text[3:5]
    options = GenerateOptions(max_new_tokens=20, min_new_tokens=20, beams=2, samples=2, stop=(stop,))
    for one in generate(model, TOKENIZER, ["ab"], options):
        assert stop not in one.text
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
    again = generate(model, TOKENIZER, PROMPTS, GenerateOptions(max_new_tokens=30, beams=3, min_new_tokens=30))
    assert [one.tokens for one in again] == [one.tokens for one in long]


STRATEGIES: list[dict[str, Any]] = [
    {"temperature": 1.5, "samples": 6},
    {"greedy": True},
    {"beams": 4, "samples": 4},
    {"beams": 4, "beam_groups": 2, "samples": 2},
    {"contrastive": 0.5, "top_k": 4},
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_choices_are_never_left(strategy: dict[str, Any]) -> None:
    model = lively_decoder(1, context=64)
    choices = ("sim", "não", "talvez", "talvez não")
    options = GenerateOptions(choices=choices, max_new_tokens=20, **strategy)
    found = generate(model, TOKENIZER, PROMPTS, options)
    assert {one.text for one in found} <= set(choices)
    assert {one.reason for one in found} == {"end"}


@torch.no_grad()
def test_beams_over_choices_find_the_likeliest() -> None:
    model = lively_decoder(1, context=64)
    choices = ("sim", "não", "talvez", "nem")
    options = GenerateOptions(choices=choices, max_new_tokens=10, beams=8, samples=4, length_penalty=0.0)
    found = generate(model, TOKENIZER, ["ab"], options)
    expected = {}
    for choice in choices:
        ids = [END, *b"ab", *choice.encode(), END]
        log = model.head(features_of(model, ids))[:, :257].log_softmax(-1)
        allowed = [OneOf(TOKENIZER, choices, 20).allowed(tuple(ids[3:place])) for place in range(3, len(ids))]
        expected[choice] = sum(
            float(log[place - 1].masked_fill(~torch.from_numpy(mask), -torch.inf).log_softmax(-1)[ids[place]])
            for place, mask in zip(range(3, len(ids)), allowed, strict=True)
        )
    assert [one.text for one in found] == sorted(choices, key=lambda one: -expected[one])
    assert [one.score for one in found] == pytest.approx(sorted(expected.values(), reverse=True))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_words_are_always_there(strategy: dict[str, Any]) -> None:
    model = lively_decoder(2, context=64)
    options = GenerateOptions(words=("gato", "rei"), max_new_tokens=14, **strategy)
    for one in generate(model, TOKENIZER, PROMPTS, options):
        assert "gato" in one.text
        assert "rei" in one.text


def test_words_that_the_model_writes_itself_are_not_forced() -> None:
    constraint = Words(TOKENIZER, ["ab"], 8)
    assert not constraint.allowed(())[END]
    assert constraint.allowed(tuple(b"xxab"))[END]
    assert np.flatnonzero(constraint.allowed(tuple(b"xxxxx"))).tolist() == [ord(" ")]
    assert np.flatnonzero(constraint.allowed(tuple(b"xxxxx a"))).tolist() == [ord("b")]
    assert constraint.allowed(tuple(b"xxabx"))[ord("z")]


def test_strings_continue_a_text_also_where_the_tokenizer_puts_a_space_before_every_text() -> None:
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    vocabulary = {token: number for number, token in enumerate(["<end>", "\u2581", "\n", "x", "n", "y", "o"])}
    inner = Library(models.BPE(vocabulary, [], unk_token="<end>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    inner.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    tokenizer = Tokenizer(inner, "<end>")
    assert tokenizer.encode("no") == [1, 4, 6]
    assert continuing(tokenizer, "no") == [4, 6]
    assert continuing(tokenizer, " no") == [1, 4, 6]
    model = lively_decoder(2, context=64, vocabulary=tokenizer.vocabulary_size)
    options = GenerateOptions(regex="n{3} y[ox]", max_new_tokens=20, samples=8, temperature=2.0)
    for one in generate(model, tokenizer, ["no "], options):
        assert re.fullmatch("n{3} y[ox]", one.text)
    assert continuing(small_tokenizer(), " not") == small_tokenizer().encode(" not")


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_regular_expressions_are_matched(strategy: dict[str, Any]) -> None:
    tokenizer = small_tokenizer()
    model = lively_decoder(2, context=64, vocabulary=tokenizer.vocabulary_size)
    pattern = r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])( BC)?"
    options = GenerateOptions(regex=pattern, max_new_tokens=20, **strategy)
    for one in generate(model, tokenizer, ["The date is ", "x"], options):
        assert re.fullmatch(pattern, one.text)
        assert one.reason == "end"


def test_json_of_a_schema() -> None:
    tokenizer = small_tokenizer()
    model = lively_decoder(2, context=64, vocabulary=tokenizer.vocabulary_size)
    schema = {
        "type": "object",
        "properties": {"label": {"enum": ["good", "bad"]}, "sure": {"type": "boolean"}},
        "required": ["label", "sure"],
        "additionalProperties": False,
    }
    options = GenerateOptions(json_schema=json.dumps(schema), max_new_tokens=60, samples=4, temperature=0.8)
    for one in generate(model, tokenizer, ["{}"], options):
        if one.reason == "end":
            assert set(json.loads(one.text)) == {"label", "sure"}
    assert any(one.reason == "end" for one in generate(model, tokenizer, ["{}"], options))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regex": "(a"}, "unclosed group"),
        ({"regex": "a(?=b)"}, "look-around"),
        ({"regex": r"[^\s\S]"}, "matches no text"),
        ({"regex": "a{5000}"}, "cannot end: its shortest match has 5000 characters"),
        ({"json_schema": "{not json"}, "is not JSON"),
        ({"json_schema": '{"type": "integer", "minimum": 5, "maximum": 2}'}, "greater than maximum"),
        ({"words": ("a long phrase of many words",), "max_new_tokens": 3}, "--max-new-tokens is 3"),
    ],
)
def test_constraints_that_cannot_be_met_are_explained(fields: dict[str, Any], message: str) -> None:
    tokenizer = small_tokenizer()
    model = lively_decoder(0, context=64, vocabulary=tokenizer.vocabulary_size)
    with pytest.raises(InputError, match=message):
        generate(model, tokenizer, ["x"], GenerateOptions(**{"max_new_tokens": 20, **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beams": 0}, "--beams is 0"),
        ({"beams": 4, "beam_groups": 3}, "--beam-groups is 3"),
        ({"beams": 2, "samples": 3}, "--samples is 3 and --beams 2"),
        ({"contrastive": 0.5}, "set --top-k"),
        ({"contrastive": 1.5, "top_k": 3}, "--contrastive is 1.5"),
        ({"contrastive": 0.5, "top_k": 3, "beams": 2}, "two ways"),
        ({"regex": "a", "choices": ("b",)}, "--choices and --regex"),
        ({"choices": ("",)}, "--choices"),
    ],
)
def test_options_that_contradict_are_explained(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GenerateOptions(**fields)


def test_long_prompts_are_windowed_when_asked() -> None:
    model = lively_decoder(3, context=8)
    for options in (
        GenerateOptions(greedy=True, max_new_tokens=5, long_prompt="window"),
        GenerateOptions(beams=2, max_new_tokens=5, long_prompt="window"),
        GenerateOptions(contrastive=0.5, top_k=2, max_new_tokens=5, long_prompt="window"),
    ):
        long, short = generate(model, TOKENIZER, ["a long prompt", "x"], options)
        assert len(long.tokens) <= 5
        assert short.tokens == generate(model, TOKENIZER, ["x"], options)[0].tokens
    with pytest.raises(InputError, match="--long-prompt window"):
        generate(model, TOKENIZER, ["a long prompt"])


def test_streaming_beams_is_refused() -> None:
    with pytest.raises(InputError, match="only at the end"):
        next(stream(lively_decoder(), TOKENIZER, "a", GenerateOptions(beams=2)))


def test_twenty_thousand_draws_follow_the_filtered_distribution() -> None:
    model = lively_decoder(2, context=64)
    options = GenerateOptions(max_new_tokens=1, samples=20_000, temperature=1.5, top_k=40, top_p=0.9)
    counts = np.zeros(257)
    for one in generate(model, TOKENIZER, ["ab"], options):
        counts[one.tokens[0] if one.tokens else END] += 1
    chance = (model.head(features_of(model, [END, *b"ab"])[-1])[:257] / 1.5).softmax(-1).detach().numpy()
    order = np.argsort(-chance)[:40]
    share = chance[order] / chance[order].sum()
    kept = order[: int((np.cumsum(share) < 0.9).sum()) + 1]
    expected = chance[kept] / chance[kept].sum() * 20_000
    assert counts.sum() == counts[kept].sum() == 20_000
    statistic, freedom = float(((counts[kept] - expected) ** 2 / expected).sum()), len(kept) - 1
    assert freedom >= 5
    assert statistic < freedom + 3.1 * (2 * freedom) ** 0.5  # some one in a thousand


@pytest.mark.parametrize("positions", ["rope", "learned", "alibi"])
def test_joined_caches_go_on_as_if_read_together(positions: str) -> None:
    model = lively_decoder(2, context=32, positions=positions)
    rows = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [10, 11, 12], [13, 14, 15, 16]]

    @torch.no_grad()
    def read(some: list[list[int]], capacity: int) -> Any:
        longest = max(map(len, some))
        ids = torch.tensor([[-1] * (longest - len(row)) + row for row in some])
        cache = model.new_cache(len(some), capacity)
        model.step(ids.clamp(min=0), cache, ids >= 0)
        return cache

    left, right = read(rows[:2], 9), read(rows[2:], 4)
    left.select(torch.tensor([1]))  # the long row is gone, so its columns are padding for all that stay
    joined = left.join(right, 10)
    assert (joined.rows, joined.length, joined.capacity) == (3, 4, 10)
    together = read(rows[1:], 10)
    for token in (20, 21, 22):
        ids = torch.full((3, 1), token)
        with torch.no_grad():
            found, expected = model.step(ids, joined), model.step(ids, together)
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="cannot hold"):
        left.join(right, 3)
