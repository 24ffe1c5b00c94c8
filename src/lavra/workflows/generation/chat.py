"""Opening a chat model for a conversation, by its location."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.data.examples.chats import ChatTemplate
from lavra.generation.chat import Conversation
from lavra.generation.engines.engine import TorchEngine
from lavra.workflows.datasets.text import request_of
from lavra.workflows.generation.engines import open_engine
from lavra.workflows.models.open import OpenModel, open_language_model


def open_chat(
    model: str | OpenModel,
    options: GenerateOptions | None = None,
    *,
    system: str = "",
    device: str = "auto",
    precision: str = "auto",
) -> Conversation:
    """Open a model for a conversation.

    Args:
        model: The location of a model with a chat template (a run, a checkpoint or a model folder), or an open model.
        options: How to generate, with `max_new_tokens` for each answer; the defaults of `GenerateOptions` if None.
        system: The system message, which the model reads before the first turn; an empty string for none.
        device: Device that computes: auto, cpu, cuda or mps.
        precision: Type of the weights: auto, fp32, bf16, fp16 or int8; see
            `lavra.workflows.generation.engines.open_engine`.

    Returns:
        The conversation, before its first turn.

    Raises:
        InputError: If there is no such model, it has no chat template, it is not a decoder, or an option is not for
            conversations.
    """
    options = options or GenerateOptions()
    if options.beams > 1 or options.samples > 1 or options.contrastive is not None or options.constrained:
        raise InputError(
            "a conversation samples or is greedy, one answer at a time",
            "leave out --beams, --samples, --contrastive and the constraints",
        )
    opened = open_language_model(model, device) if isinstance(model, str) else model
    template = chat_template_of(opened)
    if template is None:
        raise InputError(
            f"{opened.place} has no chat template, so it is not a model for conversations",
            f'train it on chats, or continue a text: lavra generate {opened.place} "Era uma vez"',
        )
    engine = open_engine(opened, [""], options, engine="torch", device=device, precision=precision)
    assert isinstance(engine, TorchEngine)
    return Conversation(engine.model, engine.tokenizer, template, options, system)


def chat_template_of(opened: OpenModel) -> ChatTemplate | None:
    """Return the chat template of a model; for a run, the one that it was trained with.

    Args:
        opened: The open model.

    Returns:
        The template; None where the model has none.
    """
    for folder in _folders(opened):
        template = ChatTemplate.load(folder)
        if template is not None:
            return template
    return None


def _folders(opened: OpenModel) -> Iterator[Path]:
    """Yield the folders in which the chat template of a model may lie: its own, and that of the run's base model."""
    if opened.folder is not None:
        yield opened.folder
    if opened.run is None:
        yield Path(opened.place)
        return
    yield opened.run.path / "model"
    yield opened.run.path / "base"
    request = request_of(opened.run)
    yield from (Path(place) for place in (request.base, request.text.tokenizer) if place and Path(place).is_dir())
