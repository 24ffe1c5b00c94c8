"""The workers of bench/_gpu_peers.py: Hugging Face's Trainer adapting a model, and two ways to continue prompts.

Settings: `side`, `model` (a Hugging Face folder), `device`; for the Trainer `text`, `context`, `rows` (micro-batches to
try, the first first) and `store` (a folder's file beside which it may write); for writing `prompts` (a file of JSON
Lines) and `tokens` of each.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _gpu_model import texts_of
from _training_sides import in_turn, training_arguments
from _turns import Turns, memory, serve

Settings = dict[str, Any]

TEXT_BYTES = 4_000_000
"""Of the text that the Trainer is given: enough for more steps than are timed."""


def adapt(settings: Settings, turns: Turns) -> None:
    """Adapt in bf16 with fused AdamW, with the first of the micro-batches that fits."""
    import torch

    windows = windows_of(settings)
    memory.begin()
    for rows in settings["rows"]:
        if adapted(settings, turns, windows, rows):
            return
        gc.collect()
        if settings["device"] == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        print(f"{rows} rows do not fit", file=sys.stderr)
    raise SystemExit(f"not even {settings['rows'][-1]} rows of {settings['context']} tokens fit")


def adapted(settings: Settings, turns: Turns, windows: list[Any], rows: int) -> bool:
    """Train in turns, until there are no more; returns False where memory did not suffice."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer, default_data_collator

    flags = {"bf16": True, "optim": "adamw_torch_fused", "dataloader_drop_last": True}
    arguments = training_arguments(settings | {"rows": rows}, **flags)
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    again = 1 + 20 * rows // len(windows)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=windows * again,  # pyright: ignore[reportArgumentType]
        data_collator=default_data_collator,
        callbacks=[in_turn(turns, lambda: rows * settings["context"])],
    )
    try:
        trainer.train()
    except torch.OutOfMemoryError:
        return False
    return True


def windows_of(settings: Settings) -> list[dict[str, Any]]:
    """Return the text as windows of one context, documents joined by the token that ends them."""
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    ids: list[int] = []
    for text in texts_of(settings["text"], TEXT_BYTES):
        ids += [*tokenizer(text[:100_000], verbose=False)["input_ids"], tokenizer.eos_token_id]
    context = settings["context"]
    if len(ids) < context:
        raise SystemExit(f"the text has {len(ids)} tokens, fewer than one window of {context}")
    windows = np.array(ids[: len(ids) // context * context], dtype=np.int64).reshape(-1, context)
    return [{"input_ids": window, "labels": window} for window in windows]


def prompts_of(settings: Settings) -> list[str]:
    """Return the prompts of the file."""
    return [json.loads(line)["prompt"] for line in Path(settings["prompts"]).read_text("utf-8").splitlines()]


def lavra(settings: Settings, turns: Turns) -> None:
    """What `lavra generate` opens by itself, continuing all prompts in every step."""
    from lavra.config.generation import GenerateOptions
    from lavra.generation.engines.engine import generate_with
    from lavra.workflows.generation.engines import open_engine

    prompts, tokens = prompts_of(settings), settings["tokens"]
    options = GenerateOptions(max_new_tokens=tokens, min_new_tokens=tokens)
    memory.begin()
    engine = open_engine(settings["model"], prompts, options, device=settings["device"])
    while True:
        made = generate_with(engine, prompts, options)
        if not turns.step_done(sum(len(one.tokens) for one in made)):
            break


def transformers(settings: Settings, turns: Turns) -> None:
    """`generate` of transformers: all prompts in one batch, drawn in the same way; bf16 on a GPU, else fp32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lavra.config.generation import GenerateOptions

    device, drawn = settings["device"], GenerateOptions()
    tokenizer = AutoTokenizer.from_pretrained(settings["model"], padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    memory.begin()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=dtype).to(device).eval()
    batch = tokenizer(prompts_of(settings), padding=True, return_tensors="pt").to(device)
    how: dict[str, Any] = {
        "do_sample": True,
        "temperature": drawn.temperature,
        "top_p": drawn.top_p,
        "top_k": drawn.top_k,
        "max_new_tokens": settings["tokens"],
        "min_new_tokens": settings["tokens"],
        "pad_token_id": tokenizer.pad_token_id,
    }
    before = batch["input_ids"].shape[1]
    while True:
        with torch.no_grad():
            made = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **how)
        if not turns.step_done(made.shape[0] * (made.shape[1] - before)):
            break


SIDES: dict[str, Callable[[Settings, Turns], None]] = {
    "Trainer": adapt,
    "lavra generate": lavra,
    "transformers generate": transformers,
}


def run(settings: Settings, turns: Turns) -> None:
    """Run the side that the settings name."""
    SIDES[settings["side"]](settings, turns)


if __name__ == "__main__":
    serve(run)
