"""Queries by CTranslate2: encoder-decoders of the field, converted once, in int8 on a CPU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from lavra.core.errors import InputError
from lavra.core.files import building_folder, read_json
from lavra.core.progress import say
from lavra.data.tokenizer import Tokenizer
from lavra.generation.prompts import source_ids
from lavra.search.prompts import QueryPrompt
from lavra.search.writers import Sampling, clean_query, fingerprint_of

_FAMILIES = frozenset({"t5", "mt5", "umt5", "bart", "mbart", "marian", "pegasus", "m2m_100"})
_ROWS = 32
"""Passages that are read together."""

_LIMITS = ("n_positions", "max_position_embeddings")
_USUAL_LIMIT = 512
_MARKS = 4


def can_translate(folder: Path) -> bool:
    """Whether a Hugging Face folder holds an encoder-decoder that CTranslate2 converts, and the package is there."""
    if find_spec("ctranslate2") is None or not (folder / "config.json").is_file():
        return False
    return read_json(folder / "config.json").get("model_type") in _FAMILIES


class TranslatorWriter:
    """An encoder-decoder run by CTranslate2, which reads a passage once for all of its queries.

    What is drawn depends on how passages are grouped as well as on the seed, because CTranslate2 keeps one random
    state for each of its threads; the cache is what makes a second expansion equal to the first.

    Args:
        folder: a Hugging Face folder.
        prompt: how the passage is put.
        sampling: how queries are drawn.
        device: "cpu" or "cuda".

    Raises:
        InputError: if the model cannot be converted.
    """

    def __init__(self, folder: Path, prompt: QueryPrompt, sampling: Sampling, device: str) -> None:
        import ctranslate2

        self._sampling, self._prompt = sampling, prompt
        self.tokenizer = Tokenizer.load(folder)
        weights = _weights_of(folder)
        kind = "int8" if device == "cpu" else "int8_float16"
        self.fingerprint = fingerprint_of(
            weights, kind, prompt.before, prompt.after, prompt.query_tokens, asdict(sampling)
        )
        settings = read_json(folder / "config.json")
        limit = next((settings[name] for name in _LIMITS if isinstance(settings.get(name), int)), _USUAL_LIMIT)
        around = len(self.tokenizer.encode(prompt.fill(""))) + _MARKS
        self.room = min(limit - around, prompt.passage_tokens or limit)
        converted = _converted(folder, weights, kind)
        self._translator = ctranslate2.Translator(
            str(converted),
            device=device,
            compute_type=kind,
            inter_threads=1,
            intra_threads=len(os.sched_getaffinity(0)),
        )
        self._seeded = False

    def write(self, passages: Sequence[str], count: int, seed: int) -> list[list[str]]:
        """Return `count` queries for each passage."""
        import ctranslate2

        if not self._seeded:
            ctranslate2.set_random_seed(seed % 2**32)
            self._seeded = True
        names = self.tokenizer.inner.id_to_token
        sources = [[names(number) for number in source_ids(self.tokenizer, self._prompt.fill(one))] for one in passages]
        results = self._translator.translate_batch(
            sources,
            beam_size=1,
            num_hypotheses=count,
            sampling_topk=1 if count == 1 else self._sampling.top_k,
            sampling_temperature=self._sampling.temperature,
            max_decoding_length=self._prompt.query_tokens,
            max_input_length=0,
            max_batch_size=_ROWS,
        )
        return [[self._text(tokens) for tokens in result.hypotheses] for result in results]

    def _text(self, tokens: Sequence[str]) -> str:
        numbers = [self.tokenizer.inner.token_to_id(token) for token in tokens]
        return clean_query(self.tokenizer.decode([number for number in numbers if number is not None]))


def _weights_of(folder: Path) -> str:
    """Return a hash of the files that decide what the model writes; large ones by name, size and time."""
    files = sorted(one for one in folder.iterdir() if one.suffix in (".safetensors", ".json", ".model"))
    return fingerprint_of(*((one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in files))


def _converted(folder: Path, weights: str, kind: str) -> Path:
    """Return the converted model, from the user's cache or made now.

    Raises:
        InputError: if it has no safetensors weights, or cannot be converted.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    target = home / "lavra" / "ctranslate2" / f"{weights}-{kind}"
    if target.exists():
        return target
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{folder} has no .safetensors weights", "convert its weights; pickles are not opened")
    from ctranslate2.converters import TransformersConverter

    say(f"converting {folder} for ctranslate2 (once)")
    with building_folder(target, force=True) as building:
        inside = building / "model"
        try:
            TransformersConverter(str(folder), trust_remote_code=False).convert(str(inside), quantization=kind)
        except (ValueError, OSError, RuntimeError) as error:
            raise InputError(f"{folder} cannot be converted: {error}", "say --engine torch") from error
        for file in inside.iterdir():
            shutil.move(file, building / file.name)
        inside.rmdir()
    return target
