"""Attention over rows that lie one after another in one sequence: none of them sees another."""

import sys
from collections.abc import Callable
from functools import lru_cache

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from helpers.core import attention_implementation, device_name

ROW_BY_ROW = "row_by_row"
LONG = 256  # tokens, from which the fused kernel is nearly as fast and its memory does not grow with the square


def training_attention(wanted: str, dtype: str) -> str:
    """The attention to train with: what ATTENTION asks for; left open, `row_by_row` on a CPU.

    There, on short rows, the model's own eager attention is faster than torch's fused kernel, forward and backward
    together. On a GPU the choice is the one for answering: flash attention understands packed rows by itself, and for
    sdpa transformers makes a mask of blocks where `position_ids` begin anew.
    """
    if wanted == "auto" and device_name() == "cpu":
        return ROW_BY_ROW
    return attention_implementation(wanted, dtype)


def row_by_row(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Attention on each packed row alone; (1, tokens, heads, width) as transformers wants it.

    `query` is (1, heads, tokens, width), `key` and `value` likewise; rows begin at the places in `cu_seq_lens_q`,
    whose last entry is the number of tokens.
    """
    return attend_packed(module, (query, key, value), cu_seq_lens_q.diff().tolist(), causal_mask, **options), None


def attend_packed(
    module: torch.nn.Module,
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    lengths: list[int],
    mask: Callable[[int, int | None], torch.Tensor],
    *,
    sliding_window: int | None = None,
    **options: object,
) -> torch.Tensor:
    """The model's own eager attention on short rows, torch's fused kernel on long ones where it can do the same."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    attended = []
    for length, *row in zip(lengths, *(part.split(lengths, dim=2) for part in states), strict=True):
        special = options.get("softcap") is not None or (sliding_window is not None and sliding_window < length)
        if length > LONG and not special:
            attended.append(sdpa_attention_forward(module, *row, None, is_causal=True, **options)[0])
        else:
            attended.append(eager(module, *row, mask(length, sliding_window), **options)[0])
    return torch.cat(attended, dim=1)


@lru_cache(maxsize=512)
def causal_mask(length: int, window: int | None = None) -> torch.Tensor:
    """(1, 1, length, length): 0 where a token may look, -inf at later ones and those `window` or more before it.

    In bfloat16, which holds both values exactly and leaves the precision of what it is added to alone.
    """
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    if window is not None:
        seen &= ~torch.ones_like(seen).tril(-window)
    return torch.zeros(1, 1, length, length, dtype=torch.bfloat16).masked_fill(~seen, float("-inf"))


ALL_ATTENTION_FUNCTIONS.register(ROW_BY_ROW, row_by_row)
ALL_MASK_ATTENTION_FUNCTIONS.register(ROW_BY_ROW, lambda *_, **__: None)
