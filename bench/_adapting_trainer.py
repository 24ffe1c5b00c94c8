"""The peer of bench/adapting.py: Hugging Face `Trainer` on the same rows, as its examples (run_clm, run_mlm) use it.

`python bench/_adapting_trainer.py SETTINGS`, a JSON object: `model`, `kind`, `way`, `context`, `rows` of a step,
`train` (a file), `out` (a folder), `bf16`, `compiled`, `learning_rate`, `steps`. All else is the library's default. The
last line that it prints is a JSON object: `first_step_done` and `steps_done`, seconds since `began` (`time.time`) at
which the first and the last step had ended, and the number of `tokens` read, padding left out.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

MASKED_SHARE = 0.15


def main() -> None:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    settings = json.loads(sys.argv[1])
    tokenizer, model = opened(settings)
    rows, collator = rows_of(settings, tokenizer)
    times: list[float] = []
    read: list[int] = []

    def collate(batch: list[dict[str, Any]]) -> Any:
        made = collator(batch)
        read.append(int(made["attention_mask"].sum()) if "attention_mask" in made else made["input_ids"].numel())
        return made

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            times.append(time.time() - settings["began"])

    arguments = TrainingArguments(
        output_dir=str(Path(settings["out"]) / "trainer"),
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["rows"],
        learning_rate=settings["learning_rate"],
        bf16=settings["bf16"],
        torch_compile=settings["compiled"],
        use_cpu=not torch.cuda.is_available(),
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[Clock()]).train()
    if settings["save"]:
        save(model, tokenizer, settings)
    tokens = sum(read) / len(read) * len(times)  # batches are made one ahead of the steps
    print(json.dumps({"first_step_done": times[0], "steps_done": times[-1], "steps": len(times), "tokens": tokens}))


def opened(settings: dict[str, Any]) -> tuple[Any, Any]:
    """Return tokenizer and model, with an adapter or frozen embeddings where the case asks for them."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings["model"], local_files_only=True)
    kind = AutoModelForMaskedLM if settings["kind"] == "mlm" else AutoModelForCausalLM
    model: Any = kind.from_pretrained(settings["model"], local_files_only=True, dtype="float32")
    model.config.use_cache = False
    if settings["way"] == "frozen":
        for parameter in model.get_input_embeddings().parameters():
            parameter.requires_grad_(False)
    if settings["way"] == "lora":
        from peft import LoraConfig, get_peft_model

        # The rank, the weight and the layers that lavra takes.
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    return tokenizer, model


def save(model: Any, tokenizer: Any, settings: dict[str, Any]) -> None:
    """Write a folder of the whole model, in which an adapter is merged."""
    folder = Path(settings["out"]) / "model"
    if settings["way"] == "lora":
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rows_of(settings: dict[str, Any], tokenizer: Any) -> tuple[list[dict[str, Any]], Any]:
    """Return the rows to train on, and what makes batches of them."""
    from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq, default_data_collator

    with open(settings["train"], encoding="utf8") as file:
        rows = [json.loads(line) for line in file]
    if settings["kind"] == "chats":
        return chats_of(rows, tokenizer, settings["context"]), DataCollatorForSeq2Seq(tokenizer)
    windows = [{"input_ids": ids} for ids in windows_of(rows, tokenizer, settings["context"])]
    if settings["kind"] == "mlm":
        return windows, DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED_SHARE)
    return [{**window, "labels": window["input_ids"]} for window in windows], default_data_collator


def windows_of(rows: list[dict[str, Any]], tokenizer: Any, context: int) -> list[list[int]]:
    """Return all texts, one after another, in windows of the context."""
    ids: list[int] = []
    for encoded in tokenizer([row["text"] for row in rows], verbose=False)["input_ids"]:
        ids += encoded
        if encoded[-1] != tokenizer.sep_token_id and tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
    return [ids[start : start + context] for start in range(0, len(ids) - context + 1, context)]


def chats_of(rows: list[dict[str, Any]], tokenizer: Any, context: int) -> list[dict[str, Any]]:
    """Return the rendered chats, of which the answers are learned."""
    made = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        if len(ids) <= context:
            made.append({"input_ids": ids, "labels": [-100] * len(before) + ids[len(before) :]})
    return made


if __name__ == "__main__":
    main()
