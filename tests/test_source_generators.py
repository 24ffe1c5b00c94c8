"""A rule of the source: whoever makes a generator, or draws with one, names the device that it is on."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import lavra
from lavra.core.seeds import torch_stream

SOURCES = sorted(Path(lavra.__file__).parent.rglob("*.py"))
MODEL_OWN = {"models/heads.py", "models/native/initialization.py", "models/replaced_tokens.py"}
"""Where weights are drawn in their place, by `nn.init`: they are made on the generator's device just before."""


def faults_of(source: str, *, own_weights: bool = False) -> Iterator[str]:
    """Yield what breaks the rule, with its line.

    `torch.Generator` is given a device. A call that takes `generator=` is given `device=` as well; one that draws into
    a tensor in place (`normal_`) has that tensor made in front of it, with `device=`. `nn.init` draws only into
    `own_weights`.
    """
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        keywords = {keyword.arg for keyword in node.keywords}
        name, owner = node.func.attr, node.func.value
        if name == "Generator" and ast.unparse(owner) == "torch" and not node.args and "device" not in keywords:
            yield f"line {node.lineno}: a generator without a device"
        if "generator" not in keywords or name == "__init__":
            continue
        if ast.unparse(owner) in ("nn.init", "torch.nn.init"):
            if not own_weights:
                yield f"line {node.lineno}: {name} draws into a tensor of an unknown device"
        elif name.endswith("_"):
            made = owner if isinstance(owner, ast.Call) else None
            if made is None or "device" not in {keyword.arg for keyword in made.keywords}:
                yield f"line {node.lineno}: {name} draws into a tensor whose device is not named beside it"
        elif "device" not in keywords:
            yield f"line {node.lineno}: {name} draws with a generator and does not name its device"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(Path(lavra.__file__).parent)))
def test_generators_and_draws_name_their_device(path: Path) -> None:
    own = path.relative_to(Path(lavra.__file__).parent).as_posix() in MODEL_OWN
    assert list(faults_of(path.read_text(encoding="utf8"), own_weights=own)) == []


def test_a_stream_is_told_its_device() -> None:
    assert inspect.signature(torch_stream).parameters["device"].default is inspect.Parameter.empty


@pytest.mark.parametrize(
    "line",
    [
        "torch.Generator().manual_seed(1)",
        "torch.randn(3, generator=generator)",
        "torch.randint(3, (2,), generator=generator).to(device)",
        "torch.empty_like(weight).normal_(std=0.02, generator=generator)",
        "torch.empty(shape).normal_(generator=generator)",
        "weight.uniform_(generator=generator)",
        "torch.multinomial(shares, 3, generator=generator)",
        "nn.init.normal_(parameter, generator=generator)",
    ],
)
def test_the_rule_sees(line: str) -> None:
    assert len(list(faults_of(line))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "torch.Generator(device=device).manual_seed(1)",
        "torch.Generator('cpu')",
        "np.random.Generator(bits)",
        "torch.randn(3, generator=generator, device='cpu')",
        "torch.empty(shape, device='cpu').normal_(std=0.02, generator=generator)",
    ],
)
def test_the_rule_lets_pass(line: str) -> None:
    assert list(faults_of(line)) == []
