"""One micro-batch trained without weights or memory: what it would hold at most, counted tensor by tensor."""

import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from helpers.models import config_from_text, text_config
from helpers.training.attention import attend_packed
from helpers.training.step import summed_loss


@dataclass(frozen=True)
class Rehearsed:
    """Bytes beyond weights and optimizer that a micro-batch holds; gradients of earlier ones are among them."""

    after_forward: float  # saved for the way back
    at_the_loss: float  # at most, until the gradient reaches the last layer
    in_the_layers: float  # at most, on the way back through them
    at_the_embedding: float  # at most, at the end of the way back


class Ledger(TorchDispatchMode):
    """Counts the bytes of every tensor that is made inside, until it is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.enter(tensor.untyped_storage())
        return result

    def enter(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place not in self.known:
            self.known.add(place)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.leave, place, storage.nbytes())

    def leave(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.now -= size

    def since(self) -> int:
        """The most bytes since this was last asked."""
        most, self.peak = self.peak, self.now
        return most


def rehearse_step(
    config: PretrainedConfig,
    lengths: tuple[int, ...],
    graded: int,
    dtype: str,
    *,
    rank: int = 0,
    targets: str = "all-linear",
    checkpointing: bool = False,
    accumulating: bool = False,
    eager: bool = True,
) -> Rehearsed:
    """Forward and backward of packed rows of these `lengths`, `graded` of whose tokens have a loss.

    The code is the model's own; its tensors have shapes and types but no content (torch's FakeTensorMode). All
    layers of a model are alike, so one and two are run, and the others counted. `eager` spells attention out row by
    row, as a CPU does; otherwise it is torch's fused kernel with a mask of blocks, as on a GPU.
    """
    dtype = "bfloat16" if dtype == "float16" else dtype  # as wide, and all that counts here
    said = (text_config(config), lengths, graded, dtype)
    knobs = (rank, targets, checkpointing, accumulating, "rehearsed_row_by_row" if eager else "rehearsed_fused")
    one, two = (run_on_paper(layers, *said, *knobs) for layers in (1, 2))
    more = config.num_hidden_layers - 1
    grown = {name: one[name] + more * (two[name] - one[name]) for name in one}
    passing = one["way_back"] - max(one["start"], one["end"])
    return Rehearsed(
        after_forward=grown["after_forward"],
        at_the_loss=grown["loss"],
        in_the_layers=max(grown["start"], grown["end"]) + passing,
        at_the_embedding=grown["embedding"],
    )


@cache
def run_on_paper(
    layers: int,
    said: str,
    lengths: tuple[int, ...],
    graded: int,
    dtype: str,
    rank: int,
    targets: str,
    checkpointing: bool,
    accumulating: bool,
    attention: str,
) -> dict[str, int]:
    """Bytes held at several points of one micro-batch through the first `layers` layers."""
    model = on_paper(config_from_text(said, layers), dtype, rank, targets, attention)
    low = disable_input_dtype_casting(model, active=dtype != "float32") if rank else nullcontext()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    base = model.get_base_model() if rank else model
    with FakeTensorMode(), Ledger() as ledger:
        pretend_tensors(model)
        if accumulating:
            for weight in model.parameters():
                weight.grad = torch.empty_like(weight) if weight.requires_grad else None
        before = ledger.now - sum(w.grad.nbytes for w in model.parameters() if w.grad is not None)
        seen = {"end": 0}
        with torch.autocast("cpu", dtype=getattr(torch, dtype), enabled=dtype != "float32"), low:
            embedded = base.get_input_embeddings()(torch.zeros(1, sum(lengths), dtype=torch.long))
            if embedded.requires_grad:
                embedded.register_hook(lambda _: seen.update(way_back=ledger.since(), end=ledger.now))
            places = torch.cat([torch.arange(n) for n in lengths])[None]
            hidden = base.get_decoder()(
                inputs_embeds=embedded, position_ids=places, row_lengths=lengths, use_cache=False
            ).last_hidden_state
            hidden.register_hook(lambda _: seen.update(loss=ledger.since(), start=ledger.now))
            seen["after_forward"] = ledger.now
            logits = base.get_output_embeddings()(hidden[:, torch.arange(graded)])[0]
            goals = torch.zeros(graded, dtype=torch.long)
            loss = summed_loss(logits, goals)
            del logits, embedded
        loss.backward()
        if "way_back" not in seen:
            seen |= {"way_back": ledger.since(), "end": ledger.now}
        seen["embedding"] = ledger.since()
    return {name: size - before for name, size in seen.items()}


def on_paper(
    config: PretrainedConfig, dtype: str, rank: int = 0, targets: str = "all-linear", attention: str = "eager"
) -> torch.nn.Module:
    """The model that is trained, on the meta device: all weights in float32, or a float32 adapter on `dtype`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype) if rank else torch.float32, trust_remote_code=False
        )
        model.config._attn_implementation = attention
        if rank:
            chosen = targets if targets == "all-linear" else [name.strip() for name in targets.split(",")]
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules=chosen))
    return model.train()


def pretend_tensors(model: torch.nn.Module) -> None:
    """Give a model on the meta device weights that claim to lie on a CPU; shared ones stay shared."""
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and id(weight) not in made:
                like = torch.empty(weight.shape, dtype=weight.dtype)
                made[id(weight)] = torch.nn.Parameter(like, requires_grad=weight.requires_grad)
            module._parameters[name] = None if weight is None else made[id(weight)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)


def row_by_row(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    *,
    row_lengths: tuple[int, ...],
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Each row alone, as attention.row_by_row computes it."""
    masks = {n: torch.empty(1, 1, n, n, dtype=torch.bfloat16) for n in set(row_lengths)}
    states = (query, key, value)
    return attend_packed(module, states, list(row_lengths), lambda n, window: masks[n], **options), None


def fused_kernel(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    *,
    row_lengths: tuple[int, ...],
    **options: object,
) -> tuple[torch.Tensor, None]:
    """torch's fused attention; several rows need a mask of blocks, which it keeps for every layer."""
    alone, total = len(row_lengths) == 1, sum(row_lengths)
    mask = None if alone else torch.empty(1, 1, total, total, dtype=torch.bool)
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, is_causal=alone, **options)


ALL_ATTENTION_FUNCTIONS.register("rehearsed_row_by_row", row_by_row)
ALL_ATTENTION_FUNCTIONS.register("rehearsed_fused", fused_kernel)
