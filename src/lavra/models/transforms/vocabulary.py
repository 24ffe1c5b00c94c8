"""Vocabulary replacement: rows for new tokens are means or mixtures of the rows of the old vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from lavra.core.errors import InputError
from lavra.data.tokenizers.token_bytes import BytePieces, token_bytes
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.native.decoder import Decoder
from lavra.models.transforms.base import root_of
from lavra.models.transforms.resizing import ResizeVocabulary, sides_of

Method = Literal["mean", "focus"]
Recipe = tuple[Sequence[int], Sequence[float]]
"""Ids of old tokens, and the weights with which their rows are added up to the row of a new token."""

AnyModel = TypeVar("AnyModel", bound=nn.Module)

_SPECIAL_IDS = ("bos", "eos", "pad", "decoder_start", "mask", "sep", "cls", "forced_bos", "forced_eos")


def swap_vocabulary(
    model: AnyModel, old: Tokenizer, new: Tokenizer, method: Method = "mean", texts: Sequence[str] = ()
) -> AnyModel:
    """Give a model the vocabulary of another tokenizer, in place, and return it.

    Tokens that stand for the same bytes in both vocabularies keep their rows. Any other token gets the mean of the rows
    of the tokens into which the old tokenizer divides it. With `focus`, a token that occurs in `texts` gets a mixture
    of kept rows instead. Special tokens are matched by their names, and the tokens that begin or end a document or
    stand for unknown text by their roles. Embedding and head are treated in the same way, a tied head stays tied, and
    their rows are padded to a multiple of 64. Bigram embeddings are reset to zero unless all old tokens keep their ids.

    Args:
        model: Decoder of our own, or a model of `transformers`.
        old: Tokenizer that the model was trained with.
        new: Tokenizer that the model shall have.
        method: How rows of new tokens are initialised: "mean" or "focus".
        texts: Texts of the user in which "focus" looks for similar tokens.

    Raises:
        InputError: If the old tokenizer has more tokens than the model has rows, or "focus" has no text.
    """
    root = root_of(model)
    tables = _tables(root)
    rows = next(iter(tables.values())).shape[0]
    if old.vocabulary_size > rows:
        raise InputError(
            f"the tokenizer has {old.vocabulary_size} tokens and the model {rows} rows",
            "give the model's own tokenizer",
        )
    recipes = recipes_by_mean(old, new)
    if method == "focus":
        recipes |= recipes_by_similarity(old, new, texts)
    known = [number for number, recipe in recipes.items() if len(recipe[0])]
    everything: Recipe = (range(old.vocabulary_size), [1 / old.vocabulary_size] * old.vocabulary_size)
    before = {name: table.detach().clone() for name, table in tables.items()}
    ResizeVocabulary(new.vocabulary_size).apply(model)
    after = _tables(root)
    with torch.no_grad():
        for name, table in before.items():
            mean = (torch.tensor(everything[1], device=table.device) @ table[: old.vocabulary_size].float()).to(table)
            after[name][:] = mean  # also for padding, so that it begins no likelier than any token
            after[name][torch.tensor(known)] = _mixed(table, [recipes[number] for number in known])
        if isinstance(root, Decoder) and root.bigram_embedding is not None and not _keeps_ids(recipes, old):
            root.bigram_embedding.weight.zero_()  # its rows are found by hashing ids, which have other meanings now
    _set_special_ids(root, old, new)
    return model


def recipes_by_mean(old: Tokenizer, new: Tokenizer) -> dict[int, Recipe]:
    """Return, for each new id, the old ids whose rows are averaged; there is only one for a token that both have.

    Args:
        old: Tokenizer that the model was trained with.
        new: Tokenizer that the model shall have.
    """
    bytes_of_old, bytes_of_new = token_bytes(old), token_bytes(new)
    same = {stands_for: number for number, stands_for in reversed(list(enumerate(bytes_of_old))) if stands_for}
    named = old.inner.get_vocab(with_added_tokens=True)
    pieces = BytePieces(old)
    recipes: dict[int, Recipe] = {}
    for token, number in new.inner.get_vocab(with_added_tokens=True).items():
        stands_for = bytes_of_new[number]
        if stands_for:
            ids = [same[stands_for]] if stands_for in same else pieces.ids(stands_for)
        else:
            ids = [named[token]] if token in named else []
        recipes[number] = (ids, [1 / len(ids)] * len(ids) if ids else [])
    recipes[new.document_bos] = ([old.document_bos], [1.0])
    recipes[new.end_of_document] = ([old.end_of_document], [1.0])
    if new.unknown is not None and old.unknown is not None:
        recipes[new.unknown] = ([old.unknown], [1.0])
    return recipes


def shared_tokens(old: Tokenizer, new: Tokenizer) -> dict[int, int]:
    """Return the old id of each new token that stands for the same bytes as an old one, by new id.

    Args:
        old: Tokenizer that the model was trained with.
        new: Tokenizer that the model shall have.
    """
    same = {stands_for: number for number, stands_for in reversed(list(enumerate(token_bytes(old)))) if stands_for}
    return {number: same[each] for number, each in enumerate(token_bytes(new)) if each in same}


def _keeps_ids(recipes: dict[int, Recipe], old: Tokenizer) -> bool:
    """Return whether every old id still stands for the same token."""
    return all(list(recipes.get(number, ((), ()))[0]) == [number] for number in range(old.vocabulary_size))


def _mixed(table: torch.Tensor, recipes: list[Recipe]) -> torch.Tensor:
    """Return the (recipes, …) rows that the recipes make of a (vocabulary, …) table."""
    row = torch.tensor([index for index, (ids, _) in enumerate(recipes) for _ in ids])
    column = torch.tensor([number for ids, _ in recipes for number in ids])
    weight = torch.tensor([share for _, shares in recipes for share in shares], dtype=torch.float32)
    places, shape = torch.stack((row, column)), (len(recipes), table.shape[0])
    matrix = torch.sparse_coo_tensor(places, weight, shape, device=table.device, check_invariants=True)
    flat = table.float().reshape(table.shape[0], -1)
    return torch.sparse.mm(matrix, flat).reshape(len(recipes), *table.shape[1:]).to(table.dtype)


def _tables(root: Any) -> dict[str, torch.Tensor]:
    """Return the tensors with a row for each token: embedding, head, and biases of the head; tied ones only once."""
    if hasattr(root, "get_input_embeddings"):
        embedding, head = root.get_input_embeddings(), root.get_output_embeddings()
    else:
        embedding, head = root.embedding, root.output
    tables = {"embedding": embedding.weight}
    written = sides_of(root)[-1]
    if written is not root:  # an encoder-decoder that was made of two models has an embedding on each side
        tables["written"] = written.get_input_embeddings().weight
    if head is not None and not any(head.weight is table for table in tables.values()):
        tables["head"] = head.weight
    if head is not None and head.bias is not None:
        tables["bias"] = head.bias
    added = getattr(root, "final_logits_bias", None)
    if added is not None:
        tables["added"] = added[0]
    return {name: tensor.data for name, tensor in tables.items()}


def _set_special_ids(root: Any, old: Tokenizer, new: Tokenizer) -> None:
    """Set the ids of special tokens in the configurations of a `transformers` model."""
    for config in filter(None, (getattr(root, "config", None), getattr(root, "generation_config", None))):
        moved = {
            f"{name}_token_id": new_id_of(getattr(config, f"{name}_token_id"), old, new)
            for name in _SPECIAL_IDS
            if isinstance(getattr(config, f"{name}_token_id", None), int)
        }
        for name, number in moved.items():
            setattr(config, name, number)


def new_id_of(number: int, old: Tokenizer, new: Tokenizer) -> int:
    """Return the new id of a special token: the token of the same name, or else the end-of-document token.

    Args:
        number: Old id of the special token.
        old: Tokenizer that the model was trained with.
        new: Tokenizer that the model shall have.
    """
    name = old.inner.id_to_token(number)
    found = None if number == old.end_of_document or name is None else new.inner.token_to_id(name)
    return new.end_of_document if found is None else found


# Rows of new tokens as mixtures of known ones that are used alike in the user's text.
#
# After FOCUS (Dobler and de Melo 2023, arXiv 2305.14481): tokens that both vocabularies have are the anchors; every
# other token that occurs in the text is a sparse mixture of the anchors nearest to it in an auxiliary space. Theirs is
# fastText; ours are singular vectors of the tokens' co-occurrences (Levy and Goldberg 2014), which need no other
# program.

_WIDTH = 128
"""Size of the auxiliary vectors."""

_REACH = 5
"""Largest distance in tokens at which two tokens count as occurring together."""

_NEAREST = 16
"""Number of nearest anchors that a mixture may have."""

_CHUNK = 2048
"""Number of new tokens whose similarities exist at a time."""


def recipes_by_similarity(
    old: Tokenizer, new: Tokenizer, texts: Sequence[str]
) -> dict[int, tuple[list[int], list[float]]]:
    """Return old ids and weights for each new token that the old vocabulary lacks and that occurs in the texts.

    Args:
        old: Tokenizer that the model was trained with.
        new: Tokenizer that the model shall have.
        texts: Texts in which similar tokens are looked for.

    Raises:
        InputError: If there is no text, or the vocabularies share no token that occurs in it.
    """
    if not texts:
        raise InputError("similar tokens are found in a text, and none was given", "give texts, or take the mean")
    vectors = auxiliary_vectors(new.encode_many(texts), new.vocabulary_size)
    seen = np.linalg.norm(vectors, axis=1) > 0
    shared = shared_tokens(old, new)
    anchors = np.array([number for number in shared if seen[number]], dtype=np.int64)
    if not len(anchors):
        raise InputError("the two vocabularies share no token that occurs in the text", "take the mean instead")
    wanted = [number for number in np.flatnonzero(seen).tolist() if number not in shared]
    recipes: dict[int, tuple[list[int], list[float]]] = {}
    for start in range(0, len(wanted), _CHUNK):
        numbers = wanted[start : start + _CHUNK]
        similar = vectors[numbers] @ vectors[anchors].T
        nearest = np.argsort(-similar, axis=1, kind="stable")[:, :_NEAREST]
        for number, places, values in zip(numbers, nearest, np.take_along_axis(similar, nearest, 1), strict=True):
            weights = sparsemax(values)
            kept = weights > 0
            ids = [shared[int(anchor)] for anchor in anchors[places[kept]]]
            recipes[number] = ids, [float(weight) for weight in weights[kept]]
    recipes.pop(new.end_of_document, None)
    return recipes


def auxiliary_vectors(documents: Sequence[np.ndarray], vocabulary: int) -> np.ndarray:
    """Return a unit vector for each token, near for tokens that occur among the same tokens, (vocabulary, width).

    These are singular vectors of the positive pointwise mutual information of tokens up to five apart (Levy and
    Goldberg 2014). A token that never occurs has a zero vector.

    Args:
        documents: Token ids of each document, (tokens,) each.
        vocabulary: Number of tokens.
    """
    from scipy.sparse.linalg import svds

    counts = _co_occurrences(documents, vocabulary)
    total, sums = counts.sum(), np.asarray(counts.sum(1)).ravel()
    pairs = counts.tocoo()
    information = np.log(pairs.data * total / (sums[pairs.row] * sums[pairs.col]))
    pairs.data = np.maximum(information, 0.0)
    width = min(_WIDTH, int((sums > 0).sum()) - 1)
    if width < 1:
        return np.zeros((vocabulary, 1))
    left, sizes, _ = svds(pairs.tocsr(), k=width, v0=np.ones(vocabulary))
    vectors = left * np.sqrt(sizes)
    vectors[sums == 0] = 0.0
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-9)


def _co_occurrences(documents: Sequence[np.ndarray], vocabulary: int) -> Any:
    """Return how often tokens occur near each other, weighted by 1 / distance: sparse, (vocabulary, vocabulary)."""
    from scipy.sparse import coo_matrix, csr_matrix

    counts: Any = csr_matrix((vocabulary, vocabulary))
    gap = np.full(_REACH, -1)
    stream = np.concatenate([part for document in documents for part in (document, gap)]).astype(np.int64)
    for distance in range(1, _REACH + 1):
        first, second = stream[:-distance], stream[distance:]
        inside = (first >= 0) & (second >= 0)
        weights = np.full(int(inside.sum()), 1.0 / distance)
        counts = counts + coo_matrix((weights, (first[inside], second[inside])), counts.shape).tocsr()
    return counts + counts.T


def sparsemax(values: np.ndarray) -> np.ndarray:
    """Return the sparsemax, the probabilities nearest to some values (Martins and Astudillo 2016, algorithm 1).

    Unlike those of a softmax, most of the probabilities are zero.

    Args:
        values: Values, (n,).

    Examples:
        >>> sparsemax(np.array([1.0, 0.5, -1.0])).tolist()
        [0.75, 0.25, 0.0]
    """
    ordered = np.sort(values)[::-1]
    sums = np.cumsum(ordered)
    ranks = np.arange(1, len(values) + 1)
    support = ranks[1 + ranks * ordered > sums].max()
    return np.maximum(values - (sums[support - 1] - 1) / support, 0.0)
