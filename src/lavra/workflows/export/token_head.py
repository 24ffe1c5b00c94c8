"""Leaving out the head that predicts tokens from an exported encoder that did not learn to predict any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lavra.core.disk.files import read_json, write_json
from lavra.core.progress import log
from lavra.models.families.files import SAFETENSORS
from lavra.models.families.importing import CONFIG

_OF_TOKENS = "ForMaskedLM"


def leave_out_token_head(folder: Path) -> None:
    """Take the head of masked language modelling from an exported folder, which then holds the encoder alone.

    Args:
        folder: A Hugging Face folder of an encoder with that head, as one file of weights.
    """
    import transformers
    from safetensors.torch import load_file, save_file

    config: dict[str, Any] = read_json(folder / CONFIG)
    name = str((config.get("architectures") or [""])[0])
    if not name.endswith(_OF_TOKENS) or not (folder / SAFETENSORS).is_file():
        return
    prefix = f"{getattr(transformers, name).base_model_prefix}."
    tensors = load_file(folder / SAFETENSORS)
    kept = {path: tensor for path, tensor in tensors.items() if path.startswith(prefix)}
    save_file(kept, folder / SAFETENSORS, metadata={"format": "pt"})
    write_json(folder / CONFIG, {**config, "architectures": [name.replace(_OF_TOKENS, "Model")]})
    left = len(tensors) - len(kept)
    log(f"the head that predicts tokens was not learned, and is left out ({left} tensors); the encoder remains")
