"""Surgery on the base model of a run: other positions or a longer context, said in words, and measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lavra.config.training import ModelConfig
from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.models.families.companions import TOKENIZER_CONFIG
from lavra.models.families.importing import import_decoder
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.transforms.positions import operated, operated_spec
from lavra.workflows.models.open import OpenModel

RECORD = "surgery.json"
"""Name of the record of a surgery in a run: what was changed, and the validation loss before and right after."""


@dataclass(frozen=True)
class Surgery:
    """What was changed in a base model.

    Attributes:
        before: The model as it came. It shares the weights that were not changed, so that it says what it said only
            until the first step of training.
        changes: A clause for each change.
    """

    before: Decoder
    changes: tuple[str, ...]


def operated_model(opened: OpenModel, asked: ModelConfig) -> tuple[OpenModel, Surgery | None]:
    """Return a base model with the positions and the context that a request asks for.

    Args:
        opened: The model as it came.
        asked: The shape that was asked for, of which only positions, context and extension concern a base model.

    Returns:
        The model, which is one of lavra's own where something was changed, and what was changed; None for nothing.

    Raises:
        InputError: If the positions of the model cannot be changed, or not in that way.
    """
    longer = asked.context is not None and asked.context > opened.model.context
    if asked.positions is None and not longer:
        _refuse_idle_extension(asked, opened.model.context)
        return opened, None
    if asked.positions is None and opened.model.kind == "encoder-decoder":
        return opened, None  # the context is refused later, with the number that the model allows
    given = opened
    if isinstance(opened.model, HFModel):
        try:
            opened = native_form(opened)
        except InputError as error:
            if asked.positions is None:  # the context alone is refused later, with the number that the model allows
                return given, None
            raise InputError(
                f"the positions of {opened.place} cannot be changed: {error.message}",
                "leave out --model.positions, or give a model that lavra reads as its own",
            ) from error
    model = opened.model
    assert isinstance(model, Decoder)
    how = asked.extension or "auto"
    spec, changes = operated_spec(model.spec, asked.positions, asked.context, how)
    if not changes:
        _refuse_idle_extension(asked, model.context)
        log(f"{opened.place} has {asked.positions} positions already: nothing is changed")
        return given, None
    log(f"surgery on {opened.place}: {'; '.join(changes)}")
    return replace(opened, model=operated(model, spec, how), task=None), Surgery(model, changes)


def _refuse_idle_extension(asked: ModelConfig, context: int) -> None:
    if asked.extension not in (None, "auto"):
        raise InputError(
            f"--model.extension {asked.extension} says how the model reads more than its {context:,} tokens, and no "
            "more are asked for",
            "give a longer --context, or leave it out",
        )


def native_form(opened: OpenModel) -> OpenModel:
    """Return a model that `transformers` computes as one of lavra's own, whose parts can be changed.

    Args:
        opened: The model, read from a Hugging Face folder.

    Raises:
        InputError: If lavra's own blocks do not compute it, or it does not come from a folder.
    """
    if opened.folder is None:
        raise InputError(f"{opened.place} is no folder of a finished model", "finish the run, or export it")
    imported = import_decoder(opened.folder)
    for note in imported.notes:
        log(f"{opened.folder}: {note}")
    return replace(opened, model=imported.model.eval(), task=None)


def tell_longest(folder: Path, context: int) -> None:
    """Let the settings of a tokenizer allow texts as long as the context of its model, where they name fewer tokens.

    Args:
        folder: The folder of the model, with the files of its tokenizer.
        context: The context of the model in tokens.
    """
    path = folder / TOKENIZER_CONFIG
    settings: Any = read_json(path) if path.is_file() else {}
    longest = settings.get("model_max_length")
    if isinstance(longest, int | float) and longest < context:
        write_json(path, {**settings, "model_max_length": context})


def recorded_surgery(run: Path) -> dict[str, Any]:
    """Return the record of the surgery of a run under `surgery`, for its result; nothing where there was none.

    Args:
        run: The folder of the run.
    """
    path = run / RECORD
    return {"surgery": read_json(path)} if path.is_file() else {}
