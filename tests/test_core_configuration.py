from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.config.quantities import Count, Duration, Size
from lavra.core.configuration import from_table, from_toml, to_json, to_toml
from lavra.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Source:
    name: str
    weight: float = 1.0
    share: float | None = None


@dataclasses.dataclass(frozen=True)
class Shape:
    depth: int = 4
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = 1.0
    bias: bool = False


@dataclasses.dataclass(frozen=True)
class Request:
    data: tuple[str, ...]
    title: str = "uma lavra"
    out: Path | None = None
    budget: Duration | None = None
    tokens: Count = 1000
    memory: Size = 2**30
    sources: tuple[Source, ...] = ()
    words: list[str] = dataclasses.field(default_factory=list)
    mixture: dict[str, float] = dataclasses.field(default_factory=dict)
    stop: int | str | None = None
    shape: Shape = dataclasses.field(default_factory=Shape)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
number = st.floats(allow_nan=False)
shapes = st.builds(
    Shape,
    depth=st.integers(-(2**63), 2**63 - 1),
    norm=st.sampled_from(["layernorm", "rmsnorm"]),
    betas=st.tuples(number, number),
    clip=st.none() | number,
    bias=st.booleans(),
)
requests = st.builds(
    Request,
    data=st.lists(text, max_size=3).map(tuple),
    title=text,
    out=st.none() | st.sampled_from([Path("runs/first"), Path("/tmp/uma pasta/çã")]),
    budget=st.none() | number,
    tokens=st.integers(0, 10**12),
    memory=st.integers(0, 2**40),
    sources=st.lists(st.builds(Source, name=text, weight=number, share=st.none() | number), max_size=3).map(tuple),
    words=st.lists(text, max_size=3),
    mixture=st.dictionaries(text, number, max_size=3),
    stop=st.none() | st.integers() | text,
    shape=shapes,
)


@given(requests)
def test_toml_reads_back_equal(request: Request):
    assert from_toml(Request, to_toml(request), "file") == request


@given(requests)
def test_json_reads_back_equal(request: Request):
    assert from_table(Request, json.loads(json.dumps(to_json(request))), "file") == request


def test_toml_is_plain_toml_with_tables_for_nested_configurations():
    written = to_toml(Request(data=("a",), shape=Shape(depth=8)))
    assert tomllib.loads(written)["shape"] == {
        "depth": 8,
        "norm": "rmsnorm",
        "betas": [0.9, 0.95],
        "clip": 1.0,
        "bias": False,
    }
    assert written.startswith('data = ["a"]\n')
    assert "out" not in written  # None is the default, and is left out


def test_none_is_written_where_the_default_is_not_none():
    written = to_toml(Shape(clip=None))
    assert 'clip = "none"' in written
    assert from_toml(Shape, written, "file") == Shape(clip=None)


def test_a_none_that_could_not_be_told_from_text_is_refused():
    @dataclasses.dataclass
    class Ambiguous:
        name: str | None = "x"

    with pytest.raises(TypeError, match="name: None cannot be told"):
        to_toml(Ambiguous(name=None))
    assert from_toml(Ambiguous, to_toml(Ambiguous(name="none")), "file") == Ambiguous(name="none")


def test_quantities_are_written_by_people_with_units():
    request = from_toml(Request, 'data = []\nbudget = "1h30m"\ntokens = "330M"\nmemory = "512MiB"\n', "file")
    assert (request.budget, request.tokens, request.memory) == (5400.0, 330_000_000, 512 * 2**20)


def test_whole_numbers_are_numbers():
    assert from_toml(Shape, "clip = 2\nbetas = [0, 1]", "file") == Shape(clip=2.0, betas=(0.0, 1.0))
    assert math.isinf(from_toml(Shape, "betas = [inf, 1]", "file").betas[0])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("data = []\n[shape]\ndpeth = 3", r"r\.toml: shape\.dpeth is no known key\n.*did you mean shape\.depth"),
        ("data = []\nzzzzzz = 3", r"zzzzzz is no known key\n.*the keys here are data, title"),
        ("title = 'x'", r"data is missing\n.*a list"),
        ("data = 'corpus'", r'data must be a list, not "corpus"'),
        ("data = [1]", r"data\.0 must be a string, not 1"),
        ("data = []\n[shape]\ndepth = 1.5", r"shape\.depth must be a whole number, not 1\.5"),
        ("data = []\n[shape]\ndepth = true", r"shape\.depth must be a whole number, not true"),
        ("data = []\n[shape]\nbias = 1", r"shape\.bias must be true or false, not 1"),
        ("data = []\n[shape]\nbetas = [0.9]", r"shape\.betas must be a list of 2 values"),
        (
            "data = []\n[shape]\nnorm = 'rmsnrm'",
            r"shape\.norm = 'rmsnrm' is not one of 'layernorm', 'rmsnorm'\n.*did you mean 'rmsnorm'",
        ),
        ("data = []\nshape = 3", r"shape must be a table, not 3"),
        ("data = []\nbudget = 'soon'", r"budget: 'soon' is not a duration: write it like"),
        ("data = []\nbudget = true", r"budget must be a number, not true"),
        ("data = []\nstop = 1.5", r"stop must be a whole number or a string, not 1\.5"),
        ("data = []\nsources = [{weight = 1}]", r"sources\.0\.name is missing"),
        ("data = []\nmixture = {a = 'x'}", r"mixture\.a must be a number"),
        ("data = 1 2", r"r\.toml is not valid TOML: .*line 1"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place_and_a_remedy(written: str, message: str):
    with pytest.raises(InputError, match=message) as caught:
        from_toml(Request, written, "r.toml")
    assert "r.toml" in caught.value.message
    assert caught.value.exit_code == 2


def test_an_absent_value_can_be_left_for_later():
    marker = object()
    assert from_toml(Request, "title = 'x'", "file", missing=marker).data is marker


def test_reading_configurations_loads_neither_torch_nor_the_option_parser():
    code = "import sys, lavra.core.configuration; print({'torch', 'numpy', 'tyro'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"
