"""Warm start of an encoder-decoder from a pretrained encoder, whose weights also initialise the decoder (BERT2BERT).

See Rothe, Narayan and Severyn 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks"
(arXiv 1907.12461). There only the cross-attention and the layer before the head begin with random weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.models.families.companions import copy_tokenizer
from lavra.models.hf.folders import begin_head
from lavra.models.hf.kinds import quietly
from lavra.models.hf.unmerged import temporary_folder

_TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class AddedDecoder:
    """What a decoder that was added to an encoder begins with.

    Attributes:
        layers: Number of its layers.
        of: Number of layers of the encoder.
        new: Number of its weights that the encoder does not have, besides the cross-attention: those of a head.
    """

    layers: int
    of: int
    new: int

    @property
    def summary(self) -> str:
        """What is copied and what is new, in words."""
        copied = (
            f"a decoder of {self.layers} of its {counted(self.of, 'layer')} is added; they begin with the encoder's "
            f"weights, their cross-attention with those of their self-attention, embedding and head with its embedding"
        )
        if not self.new:
            return f"{copied}; the layer before the head is the encoder's own, and nothing is random"
        return f"{copied}; the layer before the head is new ({self.new:,} weights) and begins as the identity"


def folder_with_decoder(encoder: Path, seed: int = 0) -> Path:
    """Return a folder with an encoder-decoder that is made of a pretrained encoder; what is new is said.

    The folder is temporary and removed when the program ends.

    Args:
        encoder: Folder with a BERT-like encoder and its tokenizer.
        seed: Seed of the weights that begin at random.

    Raises:
        InputError: If no decoder can be made of it.
    """
    folder, added = _made(encoder, seed)
    log(f"{encoder} is an encoder: {added.summary}")
    return folder


@cache
def _made(encoder: Path, seed: int) -> tuple[Path, AddedDecoder]:
    folder = temporary_folder("decoder") / "model"
    return folder, make_encoder_decoder(encoder, folder, seed=seed)


def make_encoder_decoder(
    encoder: Path, out: Path, *, decoder_layers: int = 3, seed: int = 0, force: bool = False
) -> AddedDecoder:
    """Write a Hugging Face folder with an encoder-decoder that is made of a pretrained encoder.

    The decoder takes evenly spaced layers of the encoder, the last one among them. Its cross-attention begins as a copy
    of the self-attention of the same layer, so that from the first it attends to source tokens that are like its own.
    Where the encoder has no head for tokens, as sentence encoders have none, the new head begins with predicting the
    tokens whose embeddings are nearest.

    Args:
        encoder: Folder with a BERT-like encoder and its tokenizer.
        out: Folder to make.
        decoder_layers: Number of layers of the decoder. Few suffice for short texts, and every token written costs
            them.
        seed: Seed of the weights that begin at random.
        force: Whether to replace a folder that exists.

    Returns:
        What the decoder begins with.

    Raises:
        InputError: If `transformers` has no decoder for this encoder, or its tokenizer has no tokens for the beginning
            and the end of a text.
    """
    with quietly(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model, missing = _put_together(encoder)
            layers = model.decoder.base_model.encoder.layer
        except (ValueError, OSError, AttributeError, KeyError) as error:
            raise InputError(
                f"no encoder-decoder can be made of {encoder}: {error}",
                "give a BERT-like encoder, or an encoder-decoder",
            ) from error
        count = len(layers)
        _thin_out(model, layers, decoder_layers)
    begin, end, padding = _marks(encoder)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = begin, end, padding
    model.config.vocab_size = model.decoder.config.vocab_size
    with building_folder(out, force=force, inputs=[encoder], kind="model") as building, quietly():
        model.save_pretrained(building)
        copy_tokenizer(encoder, building)
        _name_marks(building)
    new = sum(parameter.numel() for name, parameter in model.decoder.named_parameters() if name in missing)
    return AddedDecoder(len(model.decoder.base_model.encoder.layer), count, new)


def _put_together(encoder: Path) -> tuple[Any, set[str]]:
    """Return the encoder twice, the second time as a decoder, and the names of the weights that this one lacks; those
    of the cross-attention are not among them."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, EncoderDecoderModel

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    body = AutoModel.from_pretrained(str(encoder), **local)
    config: Any = AutoConfig.from_pretrained(str(encoder), **local)
    config.is_decoder = config.add_cross_attention = True
    loaded: Any = AutoModelForCausalLM.from_pretrained(str(encoder), config=config, output_loading_info=True, **local)
    decoder, report = loaded
    missing = {name for name in report["missing_keys"] if ".crossattention." not in name}
    begin_head(decoder, sorted(missing))
    return EncoderDecoderModel(encoder=body, decoder=decoder), missing


def _thin_out(model: Any, layers: nn.ModuleList, wanted: int) -> None:
    """Keep some layers of the decoder, and begin their cross-attention with the weights of their self-attention."""
    count = len(layers)
    wanted = min(wanted, count)
    kept = [count - 1 - (number * count) // wanted for number in reversed(range(wanted))]
    for number in kept:
        layer: Any = layers[number]
        layer.crossattention.load_state_dict(layer.attention.state_dict(), strict=False)
    model.decoder.base_model.encoder.layer = nn.ModuleList([layers[number] for number in kept])
    model.decoder.config.num_hidden_layers = model.config.decoder.num_hidden_layers = wanted


def _marks(folder: Path) -> tuple[int, int, int]:
    """Return the ids of the tokens that begin and end a text, and of the padding token."""
    vocabulary = {}
    if (folder / "tokenizer.json").is_file():
        content = read_json(folder / "tokenizer.json")
        vocabulary = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    for names in (("[CLS]", "[SEP]", "[PAD]"), ("<s>", "</s>", "<pad>")):
        if all(name in vocabulary for name in names):
            return vocabulary[names[0]], vocabulary[names[1]], vocabulary[names[2]]
    raise InputError(
        f"the tokenizer in {folder} has no marks for the begin and the end of a text",
        "give an encoder with tokenizer.json",
    )


def _name_marks(folder: Path) -> None:
    """Write the tokens that begin and end a text into the tokenizer's configuration, where encoders have none."""
    path = folder / _TOKENIZER_CONFIG
    config = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
    begin = config.get("bos_token") or config.get("cls_token", "[CLS]")
    end = config.get("eos_token") or config.get("sep_token", "[SEP]")
    write_json(path, {**config, "bos_token": begin, "eos_token": end})
