"""The worker of bench/training.py: one side's training loop, as its own program has it, on the same windows.

Settings: `side`, `shape` (a name), `context`, `rows` of a step, `device`, `store` (a folder), `nanogpt` (a folder).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _shapes import dataset_of, shape_of
from _turns import Turns, memory, serve

Settings = dict[str, Any]
FOREVER = 1_000_000


def lavra(settings: Settings, turns: Turns, *, optimizer: str = "adamw", isolate: bool = False) -> None:
    """What `lavra train` builds: its plan's precision and micro-batch, compiled blocks, its whole chain of updates."""
    load_compiler()

    config, machine = lavra_request(settings, optimizer, isolate)
    spec = shape_of(settings["shape"], settings["context"])
    data = dataset_of(Path(settings["store"]), spec.vocabulary)
    memory.begin()
    job = lavra_job(config, machine, spec, data)
    job.build()
    trainer = job.trainer
    while True:
        if not turns.step_done(trainer.run_step().targets):
            break
    trainer.batches.close()


def lavra_request(settings: Settings, optimizer: str, isolate: bool) -> tuple[Any, Any]:
    """Return the request for a long run, and the machine; the peak is only for plans of a given time."""
    import torch

    from lavra.config.training import MachineConfig, OptimizationConfig, TextConfig, TrainConfig
    from lavra.training.acceleration.compiling import can_compile
    from lavra.training.devices import use_threads
    from lavra.training.precision import choose_precision
    from lavra.workflows.training.autoconfig import Machine

    device = torch.device(settings["device"])
    tokens = settings["rows"] * settings["context"]
    config = TrainConfig(
        steps=FOREVER,
        text=TextConfig(isolate=isolate),
        optimization=OptimizationConfig(name=optimizer, batch_tokens=tokens),  # pyright: ignore[reportArgumentType]
        machine=MachineConfig(
            device=settings["device"],
            precision=settings.get("precision", "auto"),
            compile="yes" if can_compile(device) and settings.get("compile", True) else "no",
        ),
    )
    precision = choose_precision(config.machine.precision, device)
    return config, Machine(device, precision, 1e12, use_threads(None))


def lavra_job(config: Any, machine: Any, spec: Any, data: Any) -> Any:
    """Return the training job as `lavra train` makes it, before anything is built."""
    from lavra.tasks.table import find_task
    from lavra.training.batches import DistributedInfo
    from lavra.workflows.training.autoconfig import autoconfig, learner_of
    from lavra.workflows.training.job import TrainingJob

    task, alone = find_task("language-modelling"), DistributedInfo()
    plan = autoconfig(config, machine, learner_of(config, spec, data, task, "causal"), data, alone)
    return TrainingJob(config, data.folder, None, machine.device, alone, data, task, plan)


def trainer(settings: Settings, turns: Turns, *, bf16: bool = False, compiled: bool = False) -> None:
    """Hugging Face's `Trainer` with its defaults but for what is not training: no logs, no checkpoints."""
    if compiled:
        load_compiler()
    import numpy as np
    from transformers import GPT2LMHeadModel, OPTForCausalLM, Trainer, default_data_collator

    spec, context = shape_of(settings["shape"], settings["context"]), settings["context"]
    tokens = np.fromfile(Path(settings["store"]) / "tokens.bin", dtype="<u2").astype(np.int64)
    windows = tokens[: len(tokens) // context * context].reshape(-1, context)
    rows = [{"input_ids": window, "labels": window} for window in windows]
    arguments = training_arguments(settings, bf16=bf16, torch_compile=compiled)
    kind = OPTForCausalLM if spec.activation == "relu" else GPT2LMHeadModel
    memory.begin()
    model = kind(hub_config(spec))
    Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,  # pyright: ignore[reportArgumentType]
        data_collator=default_data_collator,
        callbacks=[in_turn(turns, lambda: settings["rows"] * context)],
    ).train()


def training_arguments(settings: Settings, **flags: Any) -> Any:
    """Return arguments that log and save nothing."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(Path(settings["store"]).parent / "trainer"),
        per_device_train_batch_size=settings["rows"],
        max_steps=FOREVER,
        learning_rate=1e-3,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=settings["device"] == "cpu",
        **flags,
    )


def in_turn(turns: Turns, tokens: Callable[[], float]) -> Any:
    """Return the callback that holds a `Trainer` between its turns; `tokens` tells what the last step learned from."""
    from transformers import TrainerCallback

    class InTurn(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not turns.step_done(tokens()):
                control.should_training_stop = True

    return InTurn()


def hub_config(spec: Any) -> Any:
    """Return the `transformers` configuration of a shape, without dropout, which no other side has."""
    from transformers import GPT2Config, OPTConfig

    if spec.activation == "relu":
        return OPTConfig(
            vocab_size=spec.vocabulary,
            max_position_embeddings=spec.context,
            hidden_size=spec.width,
            num_hidden_layers=spec.depth,
            num_attention_heads=spec.heads,
            ffn_dim=spec.hidden_width,
            word_embed_proj_dim=spec.width,
            dropout=0.0,
            attention_dropout=0.0,
        )
    return GPT2Config(
        vocab_size=spec.vocabulary,
        n_positions=spec.context,
        n_embd=spec.width,
        n_layer=spec.depth,
        n_head=spec.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


def nanogpt(settings: Settings, turns: Turns) -> None:
    """nanoGPT's model, batches and compiled step, as its `train.py` has them: bf16 on a GPU, fp32 on a processor."""
    load_compiler()
    sys.path.insert(0, settings["nanogpt"])
    import numpy as np
    import torch
    from model import GPT, GPTConfig  # pyright: ignore[reportMissingImports] - nanoGPT's own file

    spec, context, rows, device = (
        shape_of(settings["shape"], settings["context"]),
        settings["context"],
        settings["rows"],
        settings["device"],
    )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    autocast = torch.amp.autocast(device, torch.bfloat16) if device == "cuda" else contextlib.nullcontext()

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        data = np.memmap(Path(settings["store"]) / "tokens.bin", dtype=np.uint16, mode="r")
        starts = torch.randint(len(data) - context, (rows,)).tolist()
        x = torch.stack([torch.from_numpy(data[i : i + context].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + context].astype(np.int64)) for i in starts])
        if device == "cuda":
            return x.pin_memory().to(device, non_blocking=True), y.pin_memory().to(device, non_blocking=True)
        return x, y

    memory.begin()
    model: Any = GPT(
        GPTConfig(
            block_size=context,
            vocab_size=spec.padded_vocabulary,
            n_layer=spec.depth,
            n_head=spec.heads,
            n_embd=spec.width,
            dropout=0.0,
            bias=True,
        )
    ).to(device)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), device)
    parameters = list(model.parameters())
    model = torch.compile(model)
    x, y = batch()
    while True:
        with autocast:
            _, loss = model(x, y)
        x, y = batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not turns.step_done(rows * context):
            break


def load_compiler() -> None:
    """Load the compiler's own code, so that it counts as a library and not as memory of training."""

    from lavra.training.acceleration.compiling import keep_compiler_cache

    keep_compiler_cache()


SIDES: dict[str, Callable[[Settings, Turns], None]] = {
    "lavra": lavra,
    "lavra as by default": lambda settings, turns: lavra(settings, turns, optimizer="muon", isolate=True),
    "Trainer fp32": trainer,
    "Trainer bf16": lambda settings, turns: trainer(settings, turns, bf16=True),
    "Trainer bf16 compiled": lambda settings, turns: trainer(settings, turns, bf16=True, compiled=True),
    "nanoGPT compiled": nanogpt,
}
"""`lavra` does what the peers do: AdamW, every window one text. By default it uses Muon and isolates documents."""


def run(settings: Settings, turns: Turns) -> None:
    """Run the side that the settings name."""
    SIDES[settings["side"]](settings, turns)


if __name__ == "__main__":
    serve(run)
