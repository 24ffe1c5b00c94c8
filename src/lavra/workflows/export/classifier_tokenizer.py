"""The tokenizer of an exported classifier: it puts around a text what the model was trained with, and can pad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lavra.core.disk.files import read_json, write_json
from lavra.data.tokenizers.pairs import pair_layout
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.families.companions import TOKENIZER_CONFIG
from lavra.models.families.importing import CONFIG

PAD = "<pad>"
"""Token for padding that is added where a tokenizer has none."""

_FILE = "tokenizer.json"


def ready_tokenizer(folder: Path, tokenizer: Tokenizer, context: int, *, encoder: bool) -> tuple[int, bool]:
    """Let the tokenizer in a folder encode texts as the model read them, cut them as it did, and pad them.

    Args:
        folder: The exported folder, with the tokenizer.
        tokenizer: The tokenizer of the model.
        context: Largest number of tokens of a text.
        encoder: Whether the model is an encoder, whose own token for padding is kept.

    Returns:
        The id of the token for padding, and whether it is new, one after the last of the vocabulary.
    """
    from transformers import AutoTokenizer

    end = tokenizer.around_source[1][-1]
    opened: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    changed: dict[str, Any] = {"model_max_length": context}
    differs = _differs(opened, tokenizer)
    pad = opened.pad_token_id
    told = read_json(folder / CONFIG).get("pad_token_id") if encoder else None
    if told is not None:  # positions of some encoders begin after it, so that it must stay
        changed |= {} if told == pad else {"pad_token": opened.convert_ids_to_tokens(told)}
        pad = told
    # Decoders take the last token that is no padding, so that the end of a text cannot be padding.
    new = pad is None or (pad == end and not encoder)
    if differs or new:
        _rewrite(folder / _FILE, tokenizer if differs else None, new)
        changed |= {"tokenizer_class": "PreTrainedTokenizerFast"} if differs else {}
    if new:
        pad = max(tokenizer.vocabulary_size, len(opened))
        changed["pad_token"] = PAD
    path = folder / TOKENIZER_CONFIG
    settings: Any = read_json(path) if path.exists() else {}
    write_json(path, {**settings, **changed})
    return int(pad), new


def _differs(opened: Any, tokenizer: Tokenizer) -> bool:
    """Return whether the opened tokenizer puts something else around one text or two than lavra does."""
    begin, end = tokenizer.around_source
    words = tokenizer.encode("a b")
    one = [*begin, *words, *end]
    layout = pair_layout(tokenizer)
    two = [*layout.begin, *words, *layout.middle, *words, *layout.end]
    return list(opened("a b")["input_ids"]) != one or list(opened("a b", "a b")["input_ids"]) != two


def _rewrite(path: Path, around: Tokenizer | None, pad: bool) -> None:
    """Write the post-processor and the token for padding into the file of a tokenizer."""
    import tokenizers
    from tokenizers.processors import TemplateProcessing

    inner = tokenizers.Tokenizer.from_file(str(path))
    if around is not None:
        begin, end = around.around_source
        layout = pair_layout(around)
        ids = {*begin, *end, *layout.begin, *layout.middle, *layout.end}
        names = {number: inner.id_to_token(number) for number in ids}
        kind = 1 if layout.second_kind else 0

        def told(numbers: list[int], kind: int = 0) -> list[str]:
            return [f"{names[number]}:{kind}" for number in numbers]

        inner.post_processor = TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single=[*told(begin), "$A:0", *told(end)],
            pair=[*told(layout.begin), "$A:0", *told(layout.middle), f"$B:{kind}", *told(layout.end, kind)],
            special_tokens=[(name, number) for number, name in names.items()],
        )
    if pad:
        inner.add_special_tokens([tokenizers.AddedToken(PAD, special=True)])
    inner.save(str(path))
