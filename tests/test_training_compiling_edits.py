"""Compiled blocks with edits in them compute what they compute without, and are not compiled for each block anew."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from edited_models import OURS, loss_of
from lavra.config.transforms import AdapterConfig, AdapterKind, TransformConfig
from lavra.models.transforms.apply import apply_transforms, learned_weights
from lavra.training.acceleration.compiling import compile_blocks
from tiny_training import lively


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["none", "lora", "ia3", "prefix"])
@pytest.mark.parametrize("again", [False, True])
def test_compiled_blocks_with_edits_give_the_same_loss_and_gradients(
    kind: AdapterKind, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the folder of the cache is set there
    config = TransformConfig(adapter=AdapterConfig(kind=kind, rank=4), gradient_checkpointing=again)
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model = lively(replace(OURS, depth=4)).train()
        apply_transforms(model, config)
        if compiled:
            compile_blocks(model)
        loss = loss_of(model)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in learned_weights_of(model))])
    # Two: the first block's input may need no gradient where the embedding is frozen.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    torch._dynamo.utils.counters.clear()
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)


def learned_weights_of(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    names = set(learned_weights(model))
    return [parameter for name, parameter in model.named_parameters() if name in names]
