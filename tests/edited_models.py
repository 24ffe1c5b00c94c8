"""Our decoder and wrapped models that edits are tried on, and a few steps of learning."""

from __future__ import annotations

from typing import Any

import torch

from hf_models import Document, alone, documents, hf_model
from lavra.models.native.building import build_decoder
from lavra.models.protocols import Batch
from lavra.models.spec import DecoderSpec
from lavra.objectives.cross_entropy import summed_cross_entropy

OURS = DecoderSpec(vocabulary=64, context=32, depth=2, width=32, heads=4, kv_heads=2, tied=True, initialization="gpt2")
NAMES = ("ours", "gpt2", "opt", "t5")


def base_model(name: str, **fields: Any) -> Any:
    """Return a fresh float32 model in evaluation mode; the same each time."""
    if name != "ours":
        return hf_model(name, **fields)
    model = build_decoder(OURS).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.08
    return model


def text_for(model: Any) -> Batch:
    """Return one document for the model to read and to learn."""
    return alone(a_document(model))


def a_document(model: Any) -> Document:
    if hasattr(model, "kind"):
        return documents(model)[0]
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 64, (9,), generator=generator), torch.randint(0, 64, (9,), generator=generator), None


def logits_of(model: Any) -> torch.Tensor:
    """Return the model's logits of its document."""
    return model.head(model.features(text_for(model)))


def loss_of(model: Any) -> torch.Tensor:
    batch = text_for(model)
    features = model.features(batch)
    weight, bias = model.output_projection()
    return summed_cross_entropy(features[0], weight, batch.targets[0], bias=bias, vocabulary=model.vocabulary) / max(
        1.0, batch.weight
    )


def learn(model: Any, steps: int = 3, rate: float = 0.01) -> list[float]:
    """Do a few steps of AdamW on whatever is trainable, and return the losses before each."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
