"""A model's continuations of many prompts at once, token by token."""

from collections.abc import Callable

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens that a cache makes room for at a time
NUCLEUS = 256  # likeliest tokens looked at first; all of them only where these are too few

Choose = Callable[[torch.Tensor, list[int]], torch.Tensor]  # (rows, words) of logits, their numbers → tokens


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, (rows, heads, tokens, width); a new token is written beside the others.

    transformers' own layer copies all of them at every token.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values with the new ones at the end."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
            self.rooms = (self.keys, self.values)
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if end > self.rooms[0].shape[2]:
            self.rooms = tuple(with_room(held, end + ROOM) for held in (self.keys, self.values))
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self.rooms)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, or repeat them."""
        self.rooms = tuple(room.index_select(0, indices) for room in self.rooms)
        self.keys, self.values = (room[:, :, : self.keys.shape[2]] for room in self.rooms)


def with_room(held: torch.Tensor, tokens: int) -> torch.Tensor:
    """A copy of `held` (rows, heads, tokens, width) with room for so many tokens."""
    room = held.new_empty(*held.shape[:2], tokens, held.shape[3])
    room[:, :, : held.shape[2]] = held
    return room


def read_prompts(model: PreTrainedModel, prompts: list[list[int]]) -> tuple[torch.Tensor, DynamicCache, torch.Tensor]:
    """(logits after the last token (rows, words), cache, mask (rows, tokens)) of prompts padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    return logits[:, -1], cache, mask


@torch.inference_mode()
def generate_continuations(
    model: PreTrainedModel,
    prompts: list[list[int]],
    repeats: int,
    most: int,
    ends: list[int],
    choose: Choose,
    watch: Callable[[int], None],
) -> list[list[int]]:
    """Token ids of `repeats` continuations of each prompt, at most `most` tokens, up to and with one of `ends`.

    Every prompt is read once; row `repeats` * p + r is its r-th continuation. Rows that have ended leave the batch.
    `choose` gives the next token of each row, `watch` is told how many tokens deep the rows are.
    """
    logits, cache, mask = read_prompts(model, prompts)
    places = [prompt for prompt in range(len(prompts)) for _ in range(repeats)]
    rows, found = list(range(len(places))), [[] for _ in places]
    logits, mask = logits[places], keep_rows(cache, mask, places)
    for depth in range(1, most + 1):
        tokens = choose(logits, rows)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            found[row].append(token)
        watch(depth)
        places = [place for place, row in enumerate(rows) if found[row][-1] not in ends]
        rows = [rows[place] for place in places]
        if not rows or depth == most:
            break
        tokens, mask = tokens[places, None], keep_rows(cache, mask, places)
        positions = mask.sum(-1, keepdim=True)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).logits[:, -1]
    return found


def keep_rows(cache: DynamicCache, mask: torch.Tensor, places: list[int]) -> torch.Tensor:
    """The rows of `mask` at these places, some perhaps several times; the cache keeps the same."""
    if places == list(range(len(mask))):
        return mask
    cache.batch_select_indices(torch.tensor(places, device=mask.device))
    return mask[places]


def greedy_tokens(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row."""
    return logits.argmax(-1)


def sample_tokens(logits: torch.Tensor, chances: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """One token a row, drawn from its likeliest tokens that together have probability `top_p`.

    `logits` is (rows, words), `chances` (rows) between 0 and 1: the place in the distribution that is hit, so that
    a row's token depends on nothing but its own logits and chance. Equally likely tokens are in or out together
    (nucleus sampling, Holtzman et al. 2020).
    """
    likely = (logits.float() / temperature).softmax(-1)
    for looked_at in (min(NUCLEUS, likely.shape[1]), likely.shape[1]):
        top = likely.topk(looked_at).values
        mass = top.cumsum(-1)
        if (mass[:, -1] >= top_p).all():
            break
    last = (mass < top_p).sum(-1, keepdim=True).clamp(max=looked_at - 1)
    shares = likely.masked_fill(likely < top.gather(1, last), 0).cumsum(-1)
    places = torch.searchsorted(shares, chances[:, None].to(shares) * shares[:, -1:], right=True)[:, 0]
    return places.clamp(max=likely.shape[1] - 1)
