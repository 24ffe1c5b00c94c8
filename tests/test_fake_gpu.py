"""The fake GPU refuses what a GPU refuses and takes what it takes: the tests on it can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from fake_gpu import OnGPU, fake_gpu


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    with fake_gpu() as device:
        yield device


PLANTED: dict[str, Callable[[torch.Tensor], Any]] = {
    "a CPU generator": lambda x: torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(1)),
    "a CPU generator under a default device": lambda x: _under_default(x, torch.Generator()),
    "a GPU generator on the CPU": lambda x: torch.randn(3, generator=torch.Generator(x.device)),
    "a CPU mask": lambda x: x.masked_fill(torch.ones(2, 3, dtype=torch.bool), 0.0),
    "a CPU index to gather": lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.int64)),
    "a CPU index to an embedding": lambda x: torch.nn.functional.embedding(torch.tensor([1]), x),
    "CPU targets": lambda x: torch.nn.functional.cross_entropy(x, torch.tensor([0, 1])),
    "CPU positions": lambda x: x + torch.arange(3),
    "a CPU scalar in a stack": lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    "CPU values for places": lambda x: x.__setitem__(slice(0, 1), torch.ones(1, 3)) or x.add_(torch.ones(1, 3)),
    "GPU indices into a CPU tensor": lambda x: torch.zeros(3)[x.long().flatten()[:1] * 0],
    "an array of the GPU": lambda x: x.numpy(),
}


def _under_default(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    with x.device:
        return torch.randint(3, (2,), generator=generator)


@pytest.mark.parametrize("name", PLANTED)
def test_the_fake_gpu_refuses_what_a_gpu_refuses(name: str, gpu: torch.device) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        PLANTED[name](torch.ones(2, 3, device=gpu))


def test_the_fake_gpu_takes_what_a_gpu_takes(gpu: torch.device) -> None:
    x = torch.randn(2, 3, device=gpu, generator=torch.Generator(gpu).manual_seed(0)).requires_grad_()
    y = (x * torch.tensor(2.0))[torch.tensor([0])]
    y.sum().backward()
    assert isinstance(x.grad, OnGPU)
    assert x.grad.tolist() == [[2.0] * 3, [0.0] * 3]
    with gpu:
        assert torch.tensor([1]).device == torch.arange(3).device == gpu
    assert x.detach().cpu().device == torch.device("cpu")
    assert torch.arange(3).device == torch.device("cpu")


def test_tied_weights_stay_tied_and_parameters_the_same_objects(gpu: torch.device) -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    weight = model[0].weight
    model.to(gpu)
    assert model[0].weight is model[1].weight is weight
    assert isinstance(weight, OnGPU)
    assert isinstance(weight, nn.Parameter)
    assert not isinstance(model.cpu()[0].weight, OnGPU)


def test_a_planning_model_on_no_device_at_all_is_not_taken_for_one_on_the_gpu(gpu: torch.device) -> None:
    with torch.device("meta"):
        assert nn.Linear(2, 2).weight.is_meta
