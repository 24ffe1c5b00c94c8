"""Small corpora and shrunk models for tests of the checks, and stand-ins for encoders and encoder-decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lavra.checks.base import CheckContext, Storage
from lavra.config.training import ModelConfig, OptimizationConfig, TrainConfig
from lavra.core.seeds import Streams
from lavra.data.token_store.prepare import Prepared, prepare
from lavra.models.presets import PRESETS
from lavra.models.protocols import IGNORED, Batch
from lavra.models.spec import DecoderSpec
from lavra.objectives.base import Loss
from lavra.tasks.datasets import TextDataset
from lavra.tasks.table import find_task
from lavra.training.batches import BatchSource, DistributedInfo
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.trainer import Trainer
from lavra.workflows.training.autoconfig import Machine, autoconfig, learner_of
from lavra.workflows.training.checking import check_context
from lavra.workflows.training.job import TrainingJob

STYLES = ("gpt2-124m", "opt-125m", "pythia-70m", "tinyllama-1.1b", "llama3-8b", "lavra-9m")
"""One preset of each kind; the others differ from these in sizes alone."""

CPU = torch.device("cpu")

_WORDS = {
    "people": "o moleiro|a costureira|o professor|a avó|o barqueiro|a menina|o juiz|a vizinha|o padeiro|a pescadora",
    "deeds": "encontrou|perdeu|guardou|vendeu|esqueceu|pintou|consertou|escondeu|procurou|comprou",
    "things": "um relógio|a chave|o pão|uma carta|o barco|um livro|a janela|o chapéu|uma moeda|o violão",
    "places": "na aldeia|à beira do rio|no mercado|em casa|na praça|atrás da igreja|no sertão|junto ao mar",
    "times": "de manhã|ao anoitecer|no inverno|depois da festa|antes da chuva|num domingo|sem pressa",
    "duties": "assegurar|fiscalizar|garantir|promover|regular|organizar|proteger|manter",
    "goods": "a saúde|o ensino|a segurança|o trabalho|a cultura|o transporte|a moradia|o meio ambiente",
}


def _tales(rng: np.random.Generator) -> str:
    def one(kind: str) -> str:
        words = _WORDS[kind].split("|")
        return words[rng.integers(len(words))]

    sentences = [
        f"{one('times').capitalize()}, {one('people')} {one('deeds')} {one('things')} {one('places')}."
        for _ in range(rng.integers(3, 12))
    ]
    return " ".join(sentences)


def _laws(rng: np.random.Generator) -> str:
    def one(kind: str) -> str:
        words = _WORDS[kind].split("|")
        return words[rng.integers(len(words))]

    lines = [f"Art. {rng.integers(1, 400)}. Compete à União {one('duties')} {one('goods')}, nos termos da lei:"]
    lines += [
        f"{rng.integers(1, 99)} - {one('duties')} {one('goods')} e {one('goods')};" for _ in range(rng.integers(1, 9))
    ]
    return "\n".join(lines)


def _topics() -> list[str]:
    from pydoc_data.topics import topics

    return [text[:3000] for text in list(topics.values())[:60]]


def corpus(name: str, folder: Path) -> Prepared:
    """Prepare one of the corpora `tales` and `laws` (Portuguese, made) and `topics` (English, real)."""
    rng = np.random.default_rng(7)
    makers = {"tales": _tales, "laws": _laws}
    texts = _topics() if name == "topics" else [makers[name](rng) for _ in range(160)]
    return from_texts(texts, folder)


def from_texts(texts: Sequence[str], folder: Path) -> Prepared:
    """Prepare texts, one document each, with a tokenizer of 384 tokens."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    (folder / "text.jsonl").write_text(lines, encoding="utf8")
    return prepare([str(folder / "text.jsonl")], folder / "prepared", vocabulary_size=384, validation_share=0.1)


def shrunk(style: str, **fields: Any) -> DecoderSpec:
    """Return a preset's shape in small, with all that makes its style."""
    spec = PRESETS[style]
    kv_heads = 2 if spec.kv_heads else 0
    small = {
        "context": 64,
        "depth": 2,
        "width": 32,
        "heads": 4,
        "kv_heads": kv_heads,
        "mlp_width": 0,
        "vocabulary": 384,
    }
    return replace(spec, **{**small, **fields})


def assembled(
    spec: DecoderSpec,
    data: Prepared,
    *,
    precision: str = "fp32",
    rate: float = 1.0,
    device: torch.device = CPU,
    **optimization: Any,
) -> TrainingJob:
    """Return a training of a decoder, as `lavra train` assembles it."""
    options = OptimizationConfig(batch_tokens=256, **optimization)
    options = replace(
        options,
        learning_rate=rate * (options.learning_rate or 3e-3),
        muon_lr=rate * (options.muon_lr or 0.014),
    )
    config = TrainConfig(data=("text",), steps=50, model=ModelConfig(), optimization=options)
    dataset = TextDataset(data)
    task = find_task("language-modelling")
    learner = learner_of(config, spec, dataset, task, "causal")
    plan = autoconfig(config, Machine(device, "fp32", 1e10, 1), learner, dataset, DistributedInfo())
    plan = replace(plan, compile=False, precision=precision)  # pyright: ignore[reportArgumentType]
    job = TrainingJob(config, data.folder, None, device, DistributedInfo(), dataset, task, plan)
    job.build()
    return job


def decoder_check_context(
    spec: DecoderSpec,
    data: Prepared,
    *,
    precision: str = "fp32",
    rate: float = 1.0,
    loaded: bool = False,
    device: torch.device = CPU,
) -> CheckContext:
    """Return a decoder about to be trained, as a subject of checks."""
    return check_context(assembled(spec, data, precision=precision, rate=rate, device=device), loaded=loaded)


class ListSource:
    """Rows from a list, over and over."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.all = list(rows)

    def rows(self, start: int, count: int) -> list[Any]:
        return [self.all[number % len(self.all)] for number in range(start, start + count)]


VOCABULARY = 48
MASK = 1
END = 2


class Layer(nn.Module):
    """Attention and an MLP, with another text to attend to if there is one."""

    def __init__(self, width: int, crossed: bool = False) -> None:
        super().__init__()
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.cross = nn.MultiheadAttention(width, 2, batch_first=True) if crossed else None

    def forward(
        self, x: torch.Tensor, allowed: torch.Tensor, memory: torch.Tensor | None = None, real: Any = None
    ) -> torch.Tensor:
        query, key, value = (part[:, None] for part in self.qkv(self.norm(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed[:, None])
        x = x + self.out(mixed[:, 0])
        if self.cross is not None:
            x = x + self.cross(x, memory, memory, key_padding_mask=~real, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.norm_mlp(x))))


class StandIn(nn.Module):
    """A small model that answers the contract."""

    vocabulary, context = VOCABULARY, 32

    def __init__(self, crossed: bool = False, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, width)
        self.embed_positions = nn.Embedding(self.context, width)
        nn.init.normal_(self.embed.weight, std=0.1)
        nn.init.normal_(self.embed_positions.weight, std=0.1)
        self.layers = nn.ModuleList(Layer(width, crossed) for _ in range(2))
        self.final_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, VOCABULARY)
        nn.init.normal_(self.output.weight, std=0.02)

    def embedded(self, ids: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        place = torch.arange(ids.shape[1], device=ids.device)[None] if positions is None else positions
        return self.embed(ids) + self.embed_positions(place)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.output(features)

    def output_projection(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.output.weight, self.output.bias


class Encoder(StandIn):
    """Sees both sides, within a segment."""

    def features(self, batch: Batch) -> torch.Tensor:
        document_ids = torch.zeros_like(batch.inputs) if batch.document_ids is None else batch.document_ids
        allowed = document_ids[:, :, None] == document_ids[:, None, :]
        x = self.embedded(batch.inputs, batch.positions)
        for layer in self.layers:
            x = layer(x, self.seen(allowed))
        return self.final_norm(x)

    def seen(self, allowed: torch.Tensor) -> torch.Tensor:
        return allowed


class EncoderDecoder(StandIn):
    """Reads `extra["source"]` (real where `extra["source_real"]`), and writes causally."""

    def __init__(self) -> None:
        super().__init__(crossed=True)
        self.encoder = nn.ModuleList(Layer(32) for _ in range(1))

    def features(self, batch: Batch) -> torch.Tensor:
        source, real = batch.model_inputs["source"], batch.model_inputs["source_real"].bool()
        memory = self.embedded(source, None)
        for layer in self.encoder:
            memory = layer(memory, real[:, None, :] | torch.eye(source.shape[1], dtype=torch.bool))
        length = batch.inputs.shape[1]
        allowed = torch.ones(length, length, dtype=torch.bool).tril()[None]
        x = self.embedded(batch.inputs, batch.positions)
        for layer in self.layers:
            x = layer(x, allowed, memory, real)
        return self.final_norm(x)


class Predict:
    """Shared by the objectives of the stand-ins: the summed cross-entropy of the targets."""

    def loss(self, model: Any, batch: Batch, *, learning: bool = True) -> Loss:
        logits = model.head(model.features(batch))
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return Loss(loss, batch.weight)


class MaskedLM(Predict):
    """Fill in masked tokens; shorter texts are padded."""

    def encode(self, rows: Sequence[np.ndarray], streams: Streams, progress: float) -> Batch:
        length = max(len(row) for row in rows)
        inputs = np.zeros((len(rows), length), np.int64)
        targets = np.full_like(inputs, IGNORED)
        document_ids = np.full((len(rows), length), -1, np.int32)
        for number, row in enumerate(rows):
            rng = streams(number)
            chosen = rng.random(len(row)) < 0.25
            chosen[rng.integers(len(row))] = True
            inputs[number, : len(row)] = np.where(chosen, MASK, row)
            targets[number, : len(row)] = np.where(chosen, row, IGNORED)
            document_ids[number, : len(row)] = 0
        weight = float((targets != IGNORED).sum())
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(document_ids), weight=weight)


class Copy(Predict):
    """Write the source again, and end; shorter texts are padded."""

    def encode(self, rows: Sequence[np.ndarray], streams: Streams, progress: float) -> Batch:
        length = max(len(row) for row in rows)
        source = np.zeros((len(rows), length), np.int64)
        real = np.zeros((len(rows), length), np.int64)
        inputs = np.zeros((len(rows), length + 1), np.int64)
        targets = np.full_like(inputs, IGNORED)
        document_ids = np.full(inputs.shape, -1, np.int32)
        for number, row in enumerate(rows):
            source[number, : len(row)], real[number, : len(row)] = row, 1
            inputs[number, 0], inputs[number, 1 : len(row) + 1] = END, row
            targets[number, : len(row)], targets[number, len(row)] = row, END
            document_ids[number, : len(row) + 1] = 0
        return Batch(
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            torch.from_numpy(document_ids),
            weight=float((targets != IGNORED).sum()),
            model_inputs={"source": torch.from_numpy(source), "source_real": torch.from_numpy(real)},
        )


def stand_in_check_context(model: Any, objective: Any, *, causal: bool) -> CheckContext:
    """Return a stand-in about to be trained on texts of various lengths, as a subject of checks."""
    from safetensors.torch import load_file, save_file

    rng = np.random.default_rng(3)
    texts = [rng.integers(3, VOCABULARY, rng.integers(6, 16)) for _ in range(32)]
    batches = BatchSource(ListSource(texts), objective, global_batch_size=4, micro_batch_size=4, steps=20, seed=0)
    trainer = Trainer(
        model,
        objective,
        batches,
        optimizer=OptimizerOptions("adamw"),
        schedule=Schedule(),
        precision="fp32",
        device=CPU,
        steps=20,
    )

    def save(folder: Path) -> None:
        folder.mkdir()
        save_file(
            {name: weight.contiguous() for name, weight in model.state_dict().items()}, folder / "model.safetensors"
        )

    def load(folder: Path) -> Any:
        loaded = type(model)()
        loaded.load_state_dict(load_file(folder / "model.safetensors"))
        return loaded

    must_learn = (END,) if causal else ()
    storage = Storage(save, load)
    return CheckContext(
        trainer, objective, batches.source, rows=4, causal=causal, must_learn=must_learn, storage=storage
    )
