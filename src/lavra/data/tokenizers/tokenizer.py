"""Turns text into token ids and back: a byte-level BPE trained on the corpus, or any tokenizer that exists already."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lavra.core.disk.files import write_atomically, write_json
from lavra.core.errors import InputError
from lavra.data.tokenizers.files import END_OF_DOCUMENT, put_before_texts, read_tokenizer
from lavra.data.tokenizers.streaming import PIECE, Cut, cut_chunks, cuts, prefetch

if TYPE_CHECKING:
    import tokenizers

SMALLEST_VOCABULARY = 257
"""The smallest vocabulary that can be trained: a token for each byte, and the end-of-document token."""

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_EXTRA_BYTES_OF_MARK = len("▁".encode()) - 1  # the mark stands for a space

# Characters given to the library at once, because its encodings take some 100 bytes per token while they live.
_BATCH = 2 << 20

# Characters of a text given to the trainer, which holds 256 texts at a time at some 300 bytes per character.
_TRAINING_PIECE = 2048

# Characters without a word boundary from which a text is cut for the trainer, because each merge walks through all of
# the run.
_LONGEST_RUN = 1000

_RUN_PIECE = 200  # characters of the pieces into which such a run is cut

_LONG_RUN = re.compile(rf"\S{{{_LONGEST_RUN},}}|\s{{{_LONGEST_RUN},}}")

PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)(?![\p{L}\p{M}])"  # English contractions at the end of a word: it's, we'll; not d'água
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"  # a word, accents composed or combining, with the space or sign before it: -se
    r"| ?\p{N}{1,2}"  # digits two by two, so that a small vocabulary is not spent on years
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # punctuation, with the line end after it
    r"|\s*[\r\n]+"  # line ends, with the indentation of empty lines
    r"|\s+(?!\S)|\s+"  # other white space; the last space before a word goes with the word
)
"""The pattern of a word, into which text is divided before byte pairs are merged; a merge never crosses the borders of
a word. It follows those of GPT-2 and GPT-4."""

# Texts on which a tokenizer is tried to find out where it lets a text be cut without changing the ids.
_PROBES = (
    "A palavra não é só de quem a escreve, disse-lhe a avó. O resto do texto vem depois",
    "it's a second probe (of 3), which asks where 12 + 7 = 19 may be cut : 'here' or ... there",
)


ENCODER_TOKENS = {"cls_token": "<cls>", "mask_token": "<mask>"}
"""Special tokens of the vocabularies that lavra makes for encoders, by their names in `tokenizer_config.json`."""


class Tokenizer:
    """A tokenizer of the `tokenizers` library, and the id that ends a document.

    Text never becomes a special token: a document that spells out "<|endoftext|>" is encoded as those characters.

    Args:
        inner: A tokenizer of the `tokenizers` library.
        end_of_document: The token that ends a document, which must be in the vocabulary; `<|endoftext|>` by default.

    Attributes:
        inner: The library's tokenizer, without padding and truncation.
        end_of_document_token: The token that ends a document.
        end_of_document: The id of that token.
        end_ids: The ids with which a generated text ends: that one, and those that the settings of its model name.
        stop_strings: Strings with which a generated text ends, by the settings of its model.

    Raises:
        InputError: if the vocabulary has no such token.

    Examples:
        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> tokenizer = Tokenizer.train(["a rosa e o rosto da rosa", "a rosa rosa"], vocabulary_size=260)
        >>> ids = tokenizer.encode("a rosa")
        >>> tokenizer.decode(ids)
        'a rosa'
        >>> tokenizer.vocabulary_size, tokenizer.end_of_document, tokenizer.byte_level
        (260, 0, True)
    """

    def __init__(self, inner: tokenizers.Tokenizer, end_of_document: str = END_OF_DOCUMENT) -> None:
        number = inner.token_to_id(end_of_document)
        if number is None:
            raise InputError(f"the tokenizer has no token {end_of_document!r}", "name a token of its vocabulary")
        self.inner = _settled(inner)
        self.inner.no_padding()
        self.inner.no_truncation()
        self.inner.encode_special_tokens = True
        self.end_of_document_token = end_of_document
        self.end_of_document: int = number
        self.end_ids: tuple[int, ...] = (number,)
        self.stop_strings: tuple[str, ...] = ()
        self.spellings_left_out = 0
        """Number of times that `encode_many` left out the literal spelling of the end-of-document token."""

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
        """Train a byte-level BPE on `texts`; every text can be encoded and decoded without loss.

        Args:
            texts: A sample of the corpus; some ten megabytes are enough.
            vocabulary_size: Number of tokens, at least `SMALLEST_VOCABULARY`; a small sample may give fewer.

        Returns:
            The tokenizer, whose end-of-document token has id 0 and is also its beginning-of-text token.

        Raises:
            InputError: if the vocabulary is too small.
        """
        if vocabulary_size < SMALLEST_VOCABULARY:
            raise InputError(
                f"a vocabulary of {vocabulary_size} tokens is too small",
                f"take at least {SMALLEST_VOCABULARY}: one for each byte, and one to end a document",
            )
        from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Library

        inner = Library(models.BPE())
        split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[END_OF_DOCUMENT],
            show_progress=False,
        )
        pieces = (_training_pieces(text) for text in texts)
        inner.train_from_iterator(chain.from_iterable(pieces), trainer)
        # Models that learn from it read this token before every document, so whoever reads a prompt with it should too.
        put_before_texts(inner, END_OF_DOCUMENT)
        return cls(inner)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Return the tokenizer in a file or a folder; see `lavra.data.tokenizers.files.read_tokenizer` for the formats.

        Raises:
            InputError: if there is no tokenizer, or it cannot be read.
        """
        return cls(*read_tokenizer(Path(path)))

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which `load` and Hugging Face's `AutoTokenizer` read."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "tokenizer.json", self.serialised)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.end_of_document_token,
            "bos_token": self.inner.id_to_token(self.document_bos),
            "pad_token": self.end_of_document_token,  # so that rows of different lengths can be put together
            "clean_up_tokenization_spaces": False,
            "model_max_length": 10**12,
        }
        known = self.inner.get_vocab(with_added_tokens=True)
        if ENCODER_TOKENS["cls_token"] in known:
            config |= {key: name for key, name in ENCODER_TOKENS.items() if name in known}
            config["sep_token"] = self.end_of_document_token
        write_json(folder / "tokenizer_config.json", config)

    @cached_property
    def serialised(self) -> str:
        """The tokenizer as the JSON text that `tokenizer.json` holds."""
        return self.inner.to_str(pretty=False)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the tokenizer: equal fingerprints give equal ids."""
        content = f"{self.serialised}\n{self.end_of_document}"
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    @cached_property
    def vocabulary_size(self) -> int:
        """The size of the vocabulary: one more than the largest id."""
        return max(self.inner.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def byte_level(self) -> bool:
        """Whether every text decodes to itself: the tokenizer works on bytes and changes nothing before."""
        description: dict[str, Any] = json.loads(self.serialised)
        steps = description.get("pre_tokenizer") or {}
        steps = steps.get("pretokenizers", [steps])
        byte_steps = [step for step in steps if step.get("type") == "ByteLevel"]
        prefixed = any(step.get("add_prefix_space") for step in byte_steps)
        return bool(byte_steps) and not prefixed and description.get("normalizer") is None

    @cached_property
    def cut(self) -> Cut | None:
        """The way in which a text can be cut so that its pieces have the ids of the whole; None when none is known."""
        for cut in (Cut.BEFORE_SPACE, Cut.AT_SPACE):
            if all(self._keeps_ids(probe, cut) for probe in _PROBES):
                return cut
        return None

    def _keeps_ids(self, probe: str, cut: Cut) -> bool:
        whole = self._encode_whole(probe)
        return all(
            self._encode_whole(before) + self._encode_whole(after) == whole for before, after in cuts(probe, cut)
        )

    @cached_property
    def ends_by_spelling(self) -> bool:
        """Whether the spelling of the end-of-document token would become that token, as in Unigram models."""
        return self.end_of_document in self._encode_whole(f"a {self.end_of_document_token} b")

    def _encode_whole(self, text: str) -> list[int]:
        return self.inner.encode(text, add_special_tokens=False).ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without an end-of-document token."""
        return self.encode_many([text])[0].tolist()

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, using every core.

        Long texts are encoded in pieces cut at white space, where the ids are those of the whole; a run of more than
        `PIECE` characters without white space is cut anyway, so that no text takes more than linear time. The
        end-of-document token never occurs: in models that know no other way, its literal spelling is left out.

        Args:
            texts: The texts.

        Returns:
            For each text a (tokens,) int32 array, without an end-of-document token.
        """
        arrays: list[np.ndarray] = []
        parts: list[np.ndarray] = []
        for batch, encodings in prefetch(_batches(texts, self.cut), self._encode_batch):
            for encoding, (_, last) in zip(encodings, batch, strict=True):
                ids = np.array(encoding.ids, dtype=np.int32)
                if self.ends_by_spelling:
                    kept = ids[ids != self.end_of_document]
                    self.spellings_left_out += len(ids) - len(kept)
                    ids = kept
                if last:
                    arrays.append(np.concatenate([*parts, ids]) if parts else ids)
                    parts = []
                else:
                    parts.append(ids)
        return arrays

    def _encode_batch(self, batch: list[tuple[str, bool]]) -> list[tokenizers.Encoding]:
        return self.inner.encode_batch_fast([piece for piece, _ in batch], add_special_tokens=False)

    def decode(self, ids: Sequence[int] | np.ndarray, *, special: bool = False) -> str:
        """Return the text of some ids.

        Args:
            ids: (tokens,) ids.
            special: Whether special tokens, such as the end-of-document token, are written out; false by default.
        """
        return self.inner.decode([int(number) for number in ids], skip_special_tokens=not special)

    def token_lengths(self) -> np.ndarray:
        """Return (vocabulary,) int64: the bytes that each token stands for, 0 for special tokens and unused ids.

        Exact for byte-level tokenizers; for others a token counts as the UTF-8 of its text, ▁ as a space.
        """
        added = self.inner.get_added_tokens_decoder()
        lengths = np.zeros(self.vocabulary_size, np.int64)
        vocabulary = self.inner.get_vocab(with_added_tokens=True)
        # The loop is over hundreds of thousands of tokens, so it does the least that is possible for each.
        measure = len if self.byte_level else _written_bytes
        ids = np.fromiter(vocabulary.values(), np.int64, len(vocabulary))
        lengths[ids] = np.fromiter(map(measure, vocabulary), np.int64, len(vocabulary))
        lengths[[number for number, token in added.items() if token.special]] = 0
        return lengths

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer's own post-processor puts before and after a text ([CLS] and [SEP] for BERT)."""
        plain, whole = self.inner.encode("a", add_special_tokens=False).ids, self.inner.encode("a").ids
        starts = (start for start in range(len(whole)) if whole[start : start + len(plain)] == plain)
        place = next(starts, len(whole))
        return whole[:place], whole[place + len(plain) :]

    @cached_property
    def bos(self) -> int | None:
        """The one id that the post-processor puts before a text; None where it puts none or several."""
        before, _ = self.around
        return before[0] if len(before) == 1 else None

    @property
    def text_bos(self) -> list[int]:
        """The ids that the post-processor puts before a text: usually one (Llama's `<s>`) or none (GPT-2)."""
        return self.around[0]

    @property
    def document_bos(self) -> int:
        """The id that a model reads before the first token of a document.

        It is the last of those that the post-processor puts before a text. Where it puts none, it is the
        end-of-document token of the document before, as in models that are trained on documents one after the other.
        """
        return self.text_bos[-1] if self.text_bos else self.end_of_document

    @property
    def around_source(self) -> tuple[list[int], list[int]]:
        """The ids that an encoder reads before and after a text: those of the post-processor.

        Where it puts none after a text, the end-of-document token comes there. An end-of-document token before a text
        is meant for decoders, and is left out.
        """
        before, after = self.around
        return [] if before == [self.end_of_document] else before, after or [self.end_of_document]

    @cached_property
    def unknown(self) -> int | None:
        """The id that stands for what the vocabulary cannot write, or None when there is none."""
        model = json.loads(self.serialised)["model"]
        if isinstance(model.get("unk_id"), int):
            return model["unk_id"]
        name = model.get("unk_token")
        return self.inner.token_to_id(name) if name else None


def _settled(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Return a Unigram tokenizer written and read until nothing changes; others are returned as they are.

    The scores of a Unigram model lose their last digit when they are written the first time, so that without this the
    fingerprint of a saved copy would be another.
    """
    from tokenizers import Tokenizer as Library
    from tokenizers import models

    if not isinstance(inner.model, models.Unigram):
        return inner
    for _ in range(4):
        again = Library.from_str(inner.to_str())
        if again.to_str() == inner.to_str():
            break
        inner = again
    return inner


def choose_vocabulary_size(corpus_bytes: int, model_parameters: int | None = None) -> int:
    """Return a vocabulary size, a power of two from 2048 to 32768.

    About 2048 for one megabyte of text, growing with the 0.6th power of the size, so that even the rarest tokens are
    met some dozens of times.

    Args:
        corpus_bytes: Size of the training text in bytes.
        model_parameters: Number of parameters of the model; the embedding is kept below 30 % of them. Its width is that
            of a decoder that is 64 times as wide as deep, for which parameters = 12 · depth · width². None, the
            default, sets no such limit.

    Examples:
        >>> from lavra.data.tokenizers.tokenizer import choose_vocabulary_size
        >>> choose_vocabulary_size(1_000_000), choose_vocabulary_size(100_000_000)
        (2048, 32768)
    """
    wanted = 2048 * (max(corpus_bytes, 1) / 1e6) ** 0.6
    if model_parameters:
        width = (64 * model_parameters / 12) ** (1 / 3)
        wanted = min(wanted, 0.3 * model_parameters / width)
    power = round(np.log2(max(wanted, 1)))
    return int(2 ** min(15, max(11, power)))


def _written_bytes(token: str) -> int:
    """Return the bytes that a token of a tokenizer that works on characters stands for."""
    if token.startswith("<0x") and _BYTE_TOKEN.fullmatch(token):
        return 1
    return len(token.encode()) - _EXTRA_BYTES_OF_MARK * token.count("▁")


def _batches(texts: Sequence[str], cut: Cut | None) -> Iterator[list[tuple[str, bool]]]:
    """Yield batches of (piece, whether it is the last of its text) of about `_BATCH` characters."""
    batch: list[tuple[str, bool]] = []
    size = 0
    for text in texts:
        pieces = [text] if len(text) <= PIECE else list(cut_chunks(text, cut or Cut.BEFORE_SPACE))
        for number, piece in enumerate(pieces, start=1):
            batch.append((piece, number == len(pieces)))
            size += len(piece)
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _training_pieces(text: str) -> Iterator[str]:
    """Yield a text for the trainer in pieces in which long runs of letters or of spaces are cut; nothing is dropped.

    In languages without spaces between words, such as Chinese, all text consists of such runs.
    """
    for piece in cut_chunks(text, Cut.BEFORE_SPACE, _TRAINING_PIECE):
        start = 0
        for run in _LONG_RUN.finditer(piece):
            yield piece[start : run.start()]
            yield from (run[0][at : at + _RUN_PIECE] for at in range(0, len(run[0]), _RUN_PIECE))
            start = run.end()
        yield piece[start:]
