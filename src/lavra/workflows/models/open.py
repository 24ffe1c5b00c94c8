"""Opening a model by its location: a run, a checkpoint, a model folder, or a model of another library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.disk.sweep_folder import refuse_sweep
from lavra.core.errors import InputError
from lavra.core.program import command
from lavra.core.progress import log
from lavra.data.tokenizers.llama2c import find_llama2c_tokenizer, load_llama2c_tokenizer
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.families.companions import ends_of_texts, read_origin
from lavra.models.families.files import hub_folder, hub_name
from lavra.models.families.importing import import_decoder, is_hugging_face_folder, read_config
from lavra.models.families.llama2c import is_llama2c, read_llama2c
from lavra.models.families.registry import FAMILIES
from lavra.models.heads import detach_head
from lavra.models.hf.folders import open_hf_model
from lavra.models.hf.kinds import choose_kind
from lavra.models.hf.model import HFModel
from lavra.models.hf.unmerged import adapter_base, folder_of_adapter, folder_of_gguf, gguf_file
from lavra.models.native.decoder import Decoder
from lavra.models.native.store import SPECIFICATION, load_decoder
from lavra.tasks.opening import open_dataset
from lavra.tasks.table import find_task
from lavra.training.checkpoints.checkpoints import Checkpoint, CheckpointStore
from lavra.training.devices import choose_device
from lavra.training.optimizers.schedule_free import averages_of
from lavra.training.optimizers.table import betas_of
from lavra.training.plan import Plan
from lavra.training.precision import TYPES, choose_precision
from lavra.workflows.datasets.text import data_folder, request_of
from lavra.workflows.models.merging import model_for_use
from lavra.workflows.models.saved_base import companions_folder
from lavra.workflows.models.task_head import HEAD_FILE, read_head


@dataclass(frozen=True)
class OpenModel:
    """A model that is ready to be used.

    Attributes:
        model: The model, in evaluation mode, on the device, with weights of the type that was asked for.
        tokenizer: The tokenizer of the model.
        place: What was opened, in words.
        run: The run of the model; None for a model that does not come from a run.
        family: The `model_type` of the model in `transformers`; None for a model that lavra trained from scratch.
        folder: The Hugging Face folder that the model was read from; None for other models.
        files: The folder with the files of the tokenizer, the chat template and the generation settings; None where
            there is none.
        task: The name and the facts of the task whose head the model has; None for a model without one.
    """

    model: Decoder | HFModel
    tokenizer: Tokenizer
    place: str
    run: RunFolder | None
    family: str | None = None
    folder: Path | None = None
    files: Path | None = None
    task: tuple[str, dict[str, Any]] | None = None


def open_model(location: str, device: str = "auto", precision: str = "fp32", *, new_head: bool = False) -> OpenModel:
    """Open a model by its location.

    Args:
        location: The folder of a run (its finished model, or its last checkpoint), a checkpoint of a run, a model
            folder, a Hugging Face folder, the folder of a `peft` adapter, a GGUF file, a hub name, or a llama2.c
            checkpoint with its tokenizer beside it.
        device: Device that holds the model and computes: auto, cpu, cuda, cuda:1 or mps.
        precision: Type of the weights: fp32, bf16 (half the memory, and faster where little is computed for each weight
            that is read), fp16, or auto for the type that the device multiplies fastest.
        new_head: Whether an encoder without a language-model head gets a new one, to be trained.

    Returns:
        The model in evaluation mode, with its tokenizer.

    Raises:
        InputError: If there is no model at `location`, or no such precision.
        CorruptFile: If a file of the model is damaged.
    """
    where = choose_device(device)
    weights = TYPES[choose_precision(precision, where)]
    opened = _open(location, where, new_head)
    ids, strings = ends_of_texts(opened.files, opened.model.vocabulary)
    opened.tokenizer.end_ids = tuple(dict.fromkeys((opened.tokenizer.end_of_document, *ids)))
    opened.tokenizer.stop_strings = strings
    for parameter in opened.model.parameters():  # buffers stay fp32: the angles of rotary positions need all digits
        parameter.data = parameter.data.to(weights)
    return opened


def open_language_model(location: str, device: str = "auto", precision: str = "fp32") -> OpenModel:
    """Open a model that predicts text, see `open_model`.

    Args:
        location: The location of the model.
        device: Device that holds the model and computes.
        precision: Type of the weights.

    Raises:
        InputError: If there is no such model, or it was trained for labels and predicts no text.
    """
    opened = open_model(location, device, precision)
    refuse_labels(opened, location)
    return opened


def refuse_labels(opened: OpenModel, location: str) -> None:
    """Raise an error for a model that was trained for labels, and predicts no text.

    Args:
        opened: The model.
        location: Its location, as it was given.

    Raises:
        InputError: If it has the head of a task.
    """
    if opened.task is not None:
        raise InputError(
            f"{location} was trained for labels ({opened.task[0]}), and predicts no text",
            f"{command('classify', location, '--text', '…')}, or {command('evaluate', location, '--data', 'FILE')}",
        )


def _open(location: str, where: torch.device, new_head: bool = False) -> OpenModel:
    path = Path(location)
    if is_run(path):
        run = RunFolder(path)
        if run.result.get("delivers") == "linear":
            raise InputError(
                f"the model of {location} is linear: it labels texts, and is no network",
                f"{command('classify', location, '--text', '…')}, or {command('evaluate', location, '--data', 'FILE')}",
            )
        if (path / "model" / SPECIFICATION).exists() and run.status == "finished":
            return _from_folder(path / "model", where, run)
        if is_hugging_face_folder(path / "model") and run.status == "finished":
            return _from_hugging_face(path / "model", where, run)
        return _from_checkpoint(run, None, where)
    if path.parent.name == "checkpoints" and is_run(path.parent.parent):
        return _from_checkpoint(RunFolder(path.parent.parent), path, where)
    if (path / SPECIFICATION).exists():
        return _from_folder(path, where, None)
    if is_llama2c(path):
        return _from_llama2c(path, where)
    folder = hugging_face_folder(location)
    if folder is not None:
        return _from_hugging_face(folder, where, new_head=new_head)
    raise _absent(location)


def _from_folder(folder: Path, device: torch.device, run: RunFolder | None) -> OpenModel:
    model = load_decoder(folder, device)
    task = read_head(folder, model)
    model = model.to(device).eval()
    family = read_origin(folder).get("model_type")
    return OpenModel(model, Tokenizer.load(folder), str(folder), run, family, files=folder, task=task)


def hugging_face_folder(location: str) -> Path | None:
    """Return the Hugging Face folder that a location names.

    A hub name is downloaded, an adapter of `peft` is merged into its base, and a GGUF file is dequantised.

    Args:
        location: A folder, a file or a hub name.

    Returns:
        The folder; None if the location is something else.

    Raises:
        InputError: If the hub has no such model or cannot be reached, or the base of an adapter is missing.
    """
    path = Path(location)
    if is_hugging_face_folder(path):
        return path
    if path.exists():
        file = gguf_file(path)
        return _adapted_folder(path) if file is None else folder_of_gguf(file.resolve())
    name = hub_name(location)
    if name is None:
        return None
    folder = hub_folder(name)
    return folder if is_hugging_face_folder(folder) else _adapted_folder(folder) or folder


def _adapted_folder(adapter: Path) -> Path | None:
    """Return the folder of an adapter merged into its base; None where the folder holds no adapter."""
    base = adapter_base(adapter)
    if base is None:
        return None
    found = hugging_face_folder(base)
    if found is None:
        raise InputError(
            f"{adapter} is an adapter over {base}, which is no Hugging Face folder", f"bring {base} to this machine"
        )
    return folder_of_adapter(adapter.resolve(), found.resolve())


def refuse_absent(location: str) -> None:
    """Raise an error for a model that does not exist, without opening one that does; a hub name is looked up.

    Args:
        location: The location of a model.

    Raises:
        InputError: If there is nothing at `location`, or the hub cannot be reached.
    """
    if not Path(location).exists() and hugging_face_folder(location) is None:
        raise _absent(location)


def _absent(location: str) -> InputError:
    known = "a run folder, one of its checkpoints, a model folder, a Hugging Face folder, a GGUF file or a hub name"
    return InputError(f"there is no model at {location}", f"give {known}; `lavra runs` lists the runs")


def _from_hugging_face(
    folder: Path, device: torch.device, run: RunFolder | None = None, *, new_head: bool = False
) -> OpenModel:
    """Open a Hugging Face folder: as lavra's own decoder where that computes the same, else by `transformers`."""
    tokenizer = Tokenizer.load(folder)
    config = read_config(folder)
    model = _fitting(read_hugging_face(folder, new_head=new_head), tokenizer, folder)
    task = read_head(folder, model)
    model = model.to(device).eval()
    return OpenModel(model, tokenizer, str(folder), run, str(config.get("model_type")), folder, folder, task)


def read_hugging_face(folder: Path, *, new_head: bool = False) -> Decoder | HFModel:
    """Return the model in a Hugging Face folder: lavra's own decoder where that computes the same, else the model of
    `transformers`.

    Args:
        folder: The folder, with `config.json` and weights.
        new_head: Whether an encoder without a language-model head gets a new one.

    Raises:
        InputError: If there is no language model in the folder.
        CorruptFile: If a file is damaged.
    """
    config = read_config(folder)
    kind = choose_kind(config, folder)
    # The class with the head of a task has no language-model head, and may be none of those that lavra reads itself.
    for_task = (folder / HEAD_FILE).is_file()
    if kind != "decoder" or config.get("model_type") not in FAMILIES:
        return open_hf_model(folder, kind, for_task_head=for_task, new_head=new_head)
    try:
        imported = import_decoder(folder)
    except InputError as error:
        model = open_hf_model(
            folder, kind, for_task_head=for_task
        )  # raises the better error where the files themselves are wrong
        log(f"{folder}: {error.message}; it is computed by transformers instead, more slowly")
        return model
    if imported.model.kind != kind:  # an encoder that is to be used as a decoder, which transformers refuses in words
        return open_hf_model(folder, kind, for_task_head=for_task)
    for note in imported.notes:
        log(f"{folder}: {note}")
    return imported.model


def _from_llama2c(path: Path, device: torch.device) -> OpenModel:
    model = read_llama2c(path)
    vocabulary = model.spec.vocabulary
    tokenizer = load_llama2c_tokenizer(find_llama2c_tokenizer(path, vocabulary), vocabulary)
    return OpenModel(model.to(device).eval(), tokenizer, str(path), None, "llama")


def _fitting(model: Decoder | HFModel, tokenizer: Tokenizer, folder: Path) -> Decoder | HFModel:
    if tokenizer.end_of_document >= model.vocabulary:
        raise InputError(
            f"the tokenizer in {folder} ends documents with token {tokenizer.end_of_document}, and its model has "
            f"{model.vocabulary}",
            "name a token of the vocabulary as eos_token in tokenizer_config.json",
        )
    return model


def _from_checkpoint(run: RunFolder, folder: Path | None, device: torch.device) -> OpenModel:
    checkpoint = CheckpointStore(run.checkpoints).latest() if folder is None else Checkpoint.open(folder)
    if checkpoint is None:
        refuse_sweep(run)
        raise InputError(f"{run.path} has no model yet", f"train it first: lavra resume {run.path}")
    plan = Plan.from_json(run.plan, str(run.path / "plan.json"))
    # An average has no tensors before its first snapshot; the weights themselves are the model until then.
    groups = [name for name in ("ema", "swa", "master_weights") if name in checkpoint.groups]
    weights = next(tensors for tensors in map(checkpoint.load, groups) if tensors)
    if plan.optimizer.name == "schedule-free-adamw":
        weights = averages_of(weights, checkpoint.load("optimizer"), betas_of(plan.optimizer)[0])
    place = f"{run.path}, checkpoint of step {checkpoint.step}"
    data = data_folder(request_of(run), run.path)
    files = companions_folder(run.path, data)
    model = model_for_use(plan, run.path, weights, place).to(device).eval()
    if not find_task(plan.task).keeps_head:
        detach_head(model)
    family = read_origin(files).get("model_type")
    task = (plan.task, plan.facts) if hasattr(model, "task_head") else None
    return OpenModel(model, open_dataset(data).tokenizer, place, run, family, files=files, task=task)
