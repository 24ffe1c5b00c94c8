"""Reads existing tokenizers in the formats in which models are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.core.errors import InputError

if TYPE_CHECKING:
    import tokenizers

END_OF_DOCUMENT = "<|endoftext|>"
"""The special token that tokenizers trained here put after every document; it always has id 0."""

# Tokens that may end a document where no configuration names one, in the order in which they are tried; OPT has the
# first two, and uses the first.
_ENDINGS = ("</s>", END_OF_DOCUMENT, "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]")

# The names of a tokenizer in one file, and of a BPE's vocabulary and merges in two.
_WHOLE = "tokenizer.json"
_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_KINDS = "tokenizer.json, vocab.txt, vocab.json beside merges.txt, or a SentencePiece .model"


def read_tokenizer(path: Path) -> tuple[tokenizers.Tokenizer, str]:
    """Read a tokenizer from a file, a Hugging Face folder, or anything that `Tokenizer.save` wrote.

    The formats are `tokenizer.json`; the folders of older models, which `AutoTokenizer` reads; a BPE's vocabulary and
    merges in two files (`vocab.json` and `merges.txt`, or OpenAI's `encoder.json` and `vocab.bpe`, also with a name
    before: `gpt2-vocab.json`); and SentencePiece models (`.model`, for which the packages `sentencepiece` and
    `protobuf` must be installed). The token that ends a document is taken from the folder's configuration, else
    recognised by its usual names; where there is none, `<|endoftext|>` is added as a new last id.

    Whether a text begins with a special token (Llama's `<s>`) is decided by the post-processor of `tokenizer.json`, as
    in `transformers`; the other formats have none, and `add_bos_token` of the folder's configuration decides.

    Args:
        path: The file or the folder.

    Returns:
        The library's tokenizer, and the name of the token that ends a document.

    Raises:
        InputError: if there is no tokenizer, or it cannot be read.
    """
    if not path.exists():
        raise InputError(f"there is no tokenizer at {path}", f"name a folder or file with {_KINDS}")
    folder = path if path.is_dir() else path.parent
    built = built_by_transformers(path)
    if built is not None:
        return _from_transformers(built, folder)
    file = _file_in(path) if path.is_dir() else path
    try:
        inner = _read(file)
    except InputError:
        raise
    except Exception as error:  # the library raises bare Exception for a file that it cannot parse
        raise InputError(f"{file} cannot be read as a tokenizer: {error}", f"name {_KINDS}") from error
    bos = _added_bos(folder)
    if bos is not None and file.name != _WHOLE and inner.token_to_id(bos) is not None:
        put_before_texts(inner, bos)
    return inner, _end_of_document(inner, folder)


def built_by_transformers(folder: Path) -> Any | None:
    """Return the tokenizer that `AutoTokenizer` builds from a folder without a `tokenizer.json`.

    Older models come as `vocab.txt`, as `vocab.json` beside `merges.txt` or as a SentencePiece model. Which tokens they
    put around a text, whether they lower-case it and which tokens are special is known from the model's type alone.
    Code in the folder is never run.

    Returns:
        The tokenizer of `transformers`, or None where there is a `tokenizer.json`, the folder does not tell the type,
        or the library builds none.
    """
    if not folder.is_dir() or (folder / _WHOLE).is_file() or not _tells_type(folder):
        return None
    from transformers import AutoTokenizer
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        built: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception:  # the library raises many kinds; the readers here then say what is missing
        return None
    finally:
        logging.set_verbosity(verbosity)
    return built if getattr(built, "backend_tokenizer", None) is not None else None


def _tells_type(folder: Path) -> bool:
    """Return whether a folder holds a vocabulary and names the type of its model or tokenizer."""
    if not any(any(folder.glob(pattern)) for pattern in ("vocab.txt", "vocab.json", "*.model")):
        return False
    for name, key in (("tokenizer_config.json", "tokenizer_class"), ("config.json", "model_type")):
        if (folder / name).is_file() and json.loads((folder / name).read_text(encoding="utf8")).get(key):
            return True
    return False


def _from_transformers(built: Any, folder: Path) -> tuple[tokenizers.Tokenizer, str]:
    from tokenizers import Tokenizer as Library

    inner = Library.from_str(built.backend_tokenizer.to_str())
    end = built.eos_token or built.sep_token
    if end is None or inner.token_to_id(end) is None:
        end = _end_of_document(inner, folder)
    return inner, end


def _file_in(folder: Path) -> Path:
    candidates = [folder / _WHOLE, *(folder / vocabulary for vocabulary, _ in _PAIRS)]
    candidates += sorted(folder.glob("*vocab.json")) + sorted(folder.glob("*.model")) + [folder / "vocab.txt"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(f"{folder} holds no tokenizer", f"it should hold {_KINDS}")


def _read(file: Path) -> tokenizers.Tokenizer:
    if file.suffix == ".model":
        return _read_sentencepiece(file)
    if file.name == "vocab.txt":
        return _read_wordpiece(file)
    if file.suffix not in (".json", ".bpe", ".txt"):
        raise InputError(f"{file} is no tokenizer that lavra reads", f"name {_KINDS}")
    content = json.loads(file.read_text(encoding="utf8")) if file.suffix == ".json" else None
    if isinstance(content, dict) and "model" in content and isinstance(content["model"], dict):
        from tokenizers import Tokenizer as Library

        return Library.from_file(str(file))
    return _read_pair(file)


def _read_pair(file: Path) -> tokenizers.Tokenizer:
    """Return GPT-2's byte-level BPE from its vocabulary and its merges, given the path of either file."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    for vocabulary_name, merges_name in _PAIRS:
        for name in (vocabulary_name, merges_name):
            if file.name.endswith(name):
                before = file.name.removesuffix(name)
                vocabulary, merges = file.with_name(before + vocabulary_name), file.with_name(before + merges_name)
                for part in (vocabulary, merges):
                    if not part.is_file():
                        raise InputError(
                            f"{part} is missing beside {file.name}", "a BPE needs its vocabulary and its merges"
                        )
                inner = Library(models.BPE.from_file(str(vocabulary), str(merges)))
                inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
                inner.decoder = decoders.ByteLevel()
                known = [name for name in (*_ENDINGS, "<s>", "<pad>", "<unk>") if inner.token_to_id(name) is not None]
                inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in known])
                return inner
    raise InputError(f"{file} is no tokenizer that lavra reads", f"name {_KINDS}")


def _read_wordpiece(file: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer of BERT's list of word pieces; it lower-cases text, as `BertTokenizer` does by default."""
    from transformers import BertTokenizer

    return BertTokenizer.from_pretrained(str(file.parent), local_files_only=True).backend_tokenizer


def _read_sentencepiece(file: Path) -> tokenizers.Tokenizer:
    try:
        import sentencepiece  # noqa: F401
        from google.protobuf import message  # noqa: F401
        from transformers.convert_slow_tokenizer import SpmConverter
    except ImportError as error:
        raise InputError(f"{file} needs {error.name} to be read", "pip install sentencepiece protobuf") from error

    class Original:
        """Has the attributes that the converter reads of the tokenizer that it converts."""

        vocab_file = str(file)
        add_prefix_space = True

    return SpmConverter(Original()).converted()


def _end_of_document(inner: tokenizers.Tokenizer, folder: Path) -> str:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            config = json.loads((folder / name).read_text(encoding="utf8"))
            token = _token_name(config.get("eos_token") or config.get("sep_token"))  # BERT's end is a separator
            if token is not None and inner.token_to_id(token) is not None:
                return token
    for token in _ENDINGS:
        if inner.token_to_id(token) is not None:
            return token
    inner.add_special_tokens([END_OF_DOCUMENT])
    return END_OF_DOCUMENT


def _added_bos(folder: Path) -> str | None:
    """Return the token that the folder's configuration puts before every text, or None where it puts none."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings |= json.loads((folder / name).read_text(encoding="utf8"))
    return _token_name(settings.get("bos_token")) if settings.get("add_bos_token") else None


def _token_name(value: Any) -> str | None:
    """Return the token of a configuration, where it is written as a string or as an object with its content."""
    return value.get("content") if isinstance(value, dict) else value


def put_before_texts(inner: tokenizers.Tokenizer, token: str) -> None:
    """Make a tokenizer of the library begin every text with a token of its vocabulary, and add nothing else.

    Args:
        inner: The library's tokenizer, which is changed in place.
        token: The token, which must be in the vocabulary.
    """
    from tokenizers import processors

    marks = [(token, inner.token_to_id(token))]
    inner.post_processor = processors.TemplateProcessing(f"{token} $A", f"{token} $A $B", marks)
