"""The text of a run: the request that names it, the tokenizer, and the folder of the token stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lavra.config.training import TextConfig, TrainConfig
from lavra.core.configuration import from_toml
from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.disk.sweep_folder import refuse_sweep
from lavra.core.errors import InputError
from lavra.data.examples.rows import PairColumns
from lavra.data.token_store.prepare import TOKENIZER, Prepared, prepare
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.families.companions import has_tokenizer
from lavra.models.families.files import hub_folder, hub_name
from lavra.workflows.datasets.text_record import recorded_folder
from lavra.workflows.models.saved_base import companions_folder


def request_of(run: RunFolder) -> TrainConfig:
    """Return the request that a run was started with, from its `config.toml`.

    Raises:
        InputError: If the file has an unknown key or a wrong value, or it is that of a sweep.
    """
    refuse_sweep(run)
    return from_toml(TrainConfig, run.config, str(run.path / "config.toml"))


def data_folder(config: TrainConfig, run: Path) -> Path:
    """Return the folder of a run's token stores: in the run, or where `lavra prepare` wrote them.

    Args:
        config: The request of the run.
        run: The folder of the run.

    Raises:
        InputError: If the folder is gone, or holds another text now.
    """
    return recorded_folder(run) or (Path(config.data[0]) if is_prepared(config.data) else run / "data")


def is_prepared(locations: tuple[str, ...]) -> bool:
    """Return whether the data of a request is one folder that `lavra prepare` wrote."""
    return len(locations) == 1 and (Path(locations[0]) / "train" / "manifest.json").exists()


def tokenizer_place(location: str) -> Path:
    """Return the file or folder with the tokenizer that a request names.

    Args:
        location: The file or folder of a tokenizer, a run or one of its checkpoints, a folder that `lavra prepare`
            wrote, or a hub name.

    Returns:
        The file or folder; it is not checked that there is one.

    Raises:
        InputError: If the location is a hub name, and the hub has no such model or cannot be reached.
    """
    path = Path(location).expanduser()
    if path.parent.name == "checkpoints" and is_run(path.parent.parent):
        path = path.parent.parent
    if is_run(path):
        model = path / "model"
        return (
            model if has_tokenizer(model) else companions_folder(path, data_folder(request_of(RunFolder(path)), path))
        )
    if (path / TOKENIZER / "tokenizer.json").is_file():
        return path / TOKENIZER
    name = None if path.exists() else hub_name(location)
    return path if name is None else hub_folder(name, weights=False)


def open_tokenizer(location: str) -> Tokenizer:
    """Open the tokenizer that a request names.

    Args:
        location: The location of the tokenizer; see `tokenizer_place`.

    Raises:
        InputError: If there is no tokenizer.
    """
    return Tokenizer.load(tokenizer_place(location))


def prepare_as_asked(
    locations: Sequence[str],
    out: str | Path,
    text: TextConfig,
    *,
    vocabulary_size: int | Callable[[int], int] | None,
    tokenizer: Tokenizer | None = None,
    encoder: bool = False,
    complete: Callable[[Tokenizer], Tokenizer] | None = None,
    bos: bool = False,
    force: bool = False,
) -> Prepared:
    """Prepare text as a request says.

    Args:
        locations: The text: files, folders, globs and the like.
        out: The folder to write.
        text: How the text is read, split and tokenised.
        vocabulary_size: Tokens of a new vocabulary, a function that chooses it from the bytes of the text, or None for
            the default; see `lavra.data.token_store.prepare.prepare`.
        tokenizer: The tokenizer to use; None for the one that the request names, or a new one.
        encoder: Whether the vocabulary gets the tokens that an encoder needs.
        complete: Function that adds special tokens to that tokenizer; None adds none.
        bos: Whether documents begin with the tokenizer's own first token, as encoders need it.
        force: Whether an existing folder is replaced.

    Returns:
        The prepared token stores.

    Raises:
        InputError: If the text cannot be used or the folder may not be written.
    """
    if tokenizer is None and text.tokenizer:
        tokenizer = open_tokenizer(text.tokenizer)
    return prepare(
        locations,
        out,
        tokenizer=tokenizer,
        encoder=encoder or text.encoder_tokens,
        complete=complete,
        bos=bos or text.encoder_tokens,
        vocabulary_size=vocabulary_size,
        validation_share=text.validation_share,
        validation_limit=text.validation_limit,
        text_column=text.column,
        on_bad_row=text.on_bad_row,
        normalize=text.normalize,
        encoding=text.encoding,
        validation=text.validation,
        held_out=text.held_out,
        force=force,
    )


# The columns of examples that a request names.


def pair_columns(asked: TextConfig) -> PairColumns | None:
    """Return the columns of prompt and completion that a request names.

    Args:
        asked: The part of the request about text.

    Returns:
        The names of the columns; None where the request names none, and they are to be recognised.

    Raises:
        InputError: If only one of the two is named.
    """
    if asked.prompt and asked.completion:
        return PairColumns(asked.prompt, asked.completion)
    if asked.prompt or asked.completion:
        raise InputError("one of --text.prompt and --text.completion was given", "name both columns")
    return None
