"""Small random models of transformers, and how generation reads them with their own cache."""

from __future__ import annotations

from typing import Any

import torch

END = 256
VOCABULARY = 257


def small_model(family: str, seed: int = 0, context: int = 64) -> Any:
    """A small random model in float64 whose distributions are far from uniform."""
    import transformers as library

    common: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": END, "eos_token_id": END, "pad_token_id": END}
    grouped = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": context,
        **common,
    }
    configurations: dict[str, Any] = {
        "gpt2": lambda: library.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=context, **common),
        "opt": lambda: library.OPTConfig(
            hidden_size=16,
            ffn_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=context,
            word_embed_proj_dim=16,
            **common,
        ),
        "llama": lambda: library.LlamaConfig(num_key_value_heads=2, **grouped),
        "gpt_neox": lambda: library.GPTNeoXConfig(rotary_pct=0.5, **grouped),
        "qwen2": lambda: library.Qwen2Config(num_key_value_heads=2, **grouped),
    }
    model = library.AutoModelForCausalLM.from_config(configurations[family](), attn_implementation="sdpa").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.2 if "norm" in name else 0.5
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.normal_(centre, spread, generator=generator)
    return model.double()


class Cache:
    def __init__(self, rows: int, capacity: int) -> None:
        from transformers import DynamicCache

        self.inner = DynamicCache()
        self.capacity = capacity
        self.real = torch.zeros(rows, 0, dtype=torch.bool)

    @property
    def length(self) -> int:
        return self.real.shape[1]

    def select(self, rows: torch.Tensor) -> None:
        self.inner.batch_select_indices(rows)
        self.real = self.real[rows]

    def join(self, other: Cache, capacity: int) -> Cache:
        length = max(self.length, other.length)
        joined = Cache(0, capacity)

        def padded(one: torch.Tensor, stored: int) -> torch.Tensor:
            return torch.nn.functional.pad(one, (0, 0, length - stored, 0))

        for number, (mine, theirs) in enumerate(zip(self.inner.layers, other.inner.layers, strict=True)):
            keys, values = (
                torch.cat(
                    (
                        padded(getattr(mine, name), self.length),  # pyright: ignore[reportArgumentType]
                        padded(getattr(theirs, name), other.length),  # pyright: ignore[reportArgumentType]
                    )
                )
                for name in ("keys", "values")
            )
            joined.inner.update(keys, values, number)
        joined.real = torch.cat([torch.nn.functional.pad(one.real, (length - one.length, 0)) for one in (self, other)])
        joined.capacity = max(capacity, length)
        return joined


class HFModel:
    """Answers `CachedModel` for a model of transformers."""

    def __init__(self, inner: Any, context: int = 64) -> None:
        self.inner, self.context = inner, context

    def new_cache(self, rows: int, length: int) -> Cache:
        return Cache(rows, length)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.inner.get_output_embeddings()(features)

    def step(self, ids: torch.Tensor, cache: Cache, real: torch.Tensor | None = None) -> torch.Tensor:
        real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
        cache.real = torch.cat((cache.real, real), 1)
        positions = (cache.real.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self.inner.base_model(
            ids, attention_mask=cache.real.long(), position_ids=positions, past_key_values=cache.inner, use_cache=True
        ).last_hidden_state


def end_sometimes(model: Any) -> None:
    """Give the end token about the chance of the likeliest others, so that searches end at many lengths."""
    with torch.no_grad():
        features = model.base_model(torch.randint(0, END, (8, 20), generator=torch.Generator().manual_seed(1)))
        typical = features.last_hidden_state.flatten(0, 1).mean(0)
        weight = model.get_output_embeddings().weight
        best = (features.last_hidden_state @ weight.T).amax(-1).mean()
        weight[END] = typical * (1.0 * best / (typical @ typical))
