"""The measure of bench/adapting.py, the same for every side: bits per byte of the held-out rows, with its interval.

`python bench/_adapting_score.py SETTINGS`, a JSON object: `model` (a run or a model folder), `kind`, `context`,
`held_out` (a file), `base` (the folder whose chat template renders chats). The last line that it prints is a JSON
object with `value`, `low` and `high`. Texts are measured by `lavra evaluate`. Of masked texts every seventh token is
predicted, all of these masked; of chats the answers.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

EVERY = 7


def main() -> None:
    settings = json.loads(sys.argv[1])
    measure = {"text": text, "mlm": masked, "chats": chats}[settings["kind"]]
    print(json.dumps(measure(settings)))


def text(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the bits per byte of texts."""
    import lavra

    found = lavra.evaluate(settings["model"], [settings["held_out"]], context=settings["context"])
    return found.to_json()["bits_per_byte"]


def masked(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the bits per byte of the masked tokens, a token being as long as the text's tokens are on average."""
    from lavra.objectives.mlm import mask_token_of

    opened = _opened(settings)
    inner, mask = opened.tokenizer.inner, mask_token_of(opened.tokenizer)
    nats, sizes = [], []
    for row in _rows(settings):
        ids = inner.encode(row["text"]).ids
        total, count = 0.0, 0
        for start in range(0, len(ids), settings["context"]):
            window = ids[start : start + settings["context"]]
            places = list(range(EVERY // 2, len(window), EVERY))
            if not places:
                continue
            shown = [mask if place in set(places) else token for place, token in enumerate(window)]
            total += _nats(opened.model, shown, places, [window[place] for place in places])
            count += len(places)
        nats.append(total)
        sizes.append(count * len(row["text"].encode()) / max(1, len(ids)))
    return _bits(nats, sizes)


def chats(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the bits per byte of the answers, given what was asked; chats longer than the context are left out."""
    from transformers import AutoTokenizer

    opened, library = _opened(settings), AutoTokenizer.from_pretrained(settings["base"], local_files_only=True)
    nats, sizes = [], []
    for row in _rows(settings):
        prompt = library.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
        answer = row["messages"][-1]["content"]
        before, ids = (library(words, add_special_tokens=False)["input_ids"] for words in (prompt, f"{prompt}{answer}"))
        if len(ids) > settings["context"]:
            continue
        places = list(range(len(before) - 1, len(ids) - 1))
        nats.append(_nats(opened.model, ids, places, ids[len(before) :]))
        sizes.append(len(answer.encode()))
    return _bits(nats, sizes)


def _opened(settings: dict[str, Any]) -> Any:
    from lavra.workflows.models.open import open_model

    opened = open_model(settings["model"], "cpu", new_head=True)  # before training, a body has none
    opened.model.eval()
    return opened


def _rows(settings: dict[str, Any]) -> list[dict[str, Any]]:
    with open(settings["held_out"], encoding="utf8") as file:
        return [json.loads(line) for line in file]


def _nats(model: Any, ids: list[int], places: list[int], targets: list[int]) -> float:
    """Return the nats of the targets, each predicted at its place of a row of ids."""
    import torch
    from torch.nn import functional as F

    from lavra.models.protocols import IGNORED, Batch

    inputs = torch.tensor([ids])
    with torch.no_grad():
        features = model.features(Batch(inputs, torch.full_like(inputs, IGNORED)))[0, places]
        return float(F.cross_entropy(model.head(features).float(), torch.tensor(targets), reduction="sum"))


def _bits(nats: list[float], sizes: list[float]) -> dict[str, Any]:
    from lavra.evaluation.intervals import ratio_estimates

    estimate = ratio_estimates(nats, {"bits": [size * math.log(2) for size in sizes]}, seed=0)["bits"]
    return estimate.to_json()


if __name__ == "__main__":
    main()
