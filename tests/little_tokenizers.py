"""Small tokenizers of each kind, trained on the topics of Python's documentation, with the marks of their families."""

from __future__ import annotations

from functools import cache
from pydoc_data.topics import topics

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from lavra.data.tokenizers.tokenizer import Tokenizer

PORTUGUESE = (
    "A palavra não é só de quem a escreve, disse-lhe a avó; é também de quem a lê.",
    "Às vezes, o coração da gente é um d'água: ora calmo, ora não.",
)
TEXTS = [*sorted(topics.values(), key=len)[:40], *PORTUGUESE * 20]


@cache
def byte_level() -> Tokenizer:
    """A byte-level BPE as lavra trains them."""
    return Tokenizer.train(TEXTS, 600)


@cache
def chat_tokenizer() -> Tokenizer:
    """The same with the marks of ChatML, of which the last ends a text."""
    inner = Library.from_str(byte_level().serialised)
    inner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return Tokenizer(inner, "<|im_end|>")


@cache
def wordpiece() -> Tokenizer:
    """A WordPiece like BERT's: [CLS] text [SEP], ## within words, [MASK]."""
    inner = Library(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=500, special_tokens=special))
    ids = [(name, inner.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return Tokenizer(inner, "[SEP]")


@cache
def unigram() -> Tokenizer:
    """A Unigram model like T5's: ▁ before words, text </s>."""
    inner = Library(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    inner.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    end = ("</s>", inner.token_to_id("</s>"))
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[end])
    return Tokenizer(inner, "</s>")


@cache
def bart_like() -> Tokenizer:
    """A byte-level BPE like BART's: <s> text </s>, <mask>."""
    inner = Library.from_str(byte_level().serialised)
    inner.add_special_tokens(["<s>", "</s>", "<mask>"])
    ids = [(name, inner.token_to_id(name)) for name in ("<s>", "</s>")]
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return Tokenizer(inner, "</s>")
