"""The processes that train together, started by `accelerate launch`; usually there is one."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from helpers.core import CourseError, device_name


class Ranks:
    """What training asks of its fellow processes. With one process every answer is the trivial one.

    Under DDP (QLoRA) each process has the whole model and computes some of the micro-batches; gradients are averaged.
    Under FSDP (full fine-tuning; `fsdp_config` in accelerate's configuration) weights, gradients and optimizer are
    cut up among the processes as well.
    """

    def __init__(self) -> None:
        several = int(os.environ.get("WORLD_SIZE", 1)) > 1
        self.state = PartialState(cpu=device_name() == "cpu") if several else None
        self.count = self.state.num_processes if several else 1
        self.number = self.state.process_index if several else 0
        self.sharded = several and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.number == 0

    def prepare(self, model: PreTrainedModel, dtype: str) -> torch.nn.Module:
        """`model` as the engine wants it; an optimizer is made of its weights afterwards.

        Raises CourseError for FSDP with an adapter or in float16, which it does not carry here.
        """
        if not self.sharded:
            return DistributedDataParallel(model) if self.state else model
        if hasattr(model, "peft_config") or dtype == "float16":
            what = "an adapter" if hasattr(model, "peft_config") else "DTYPE=float16"
            raise CourseError(
                f"FSDP is for full fine-tuning in bfloat16 or float32, not for {what}",
                "use helpers/launch_ddp.yaml for QLoRA, and DTYPE=bfloat16 or float32 for full",
            )
        mesh = init_device_mesh(device_name(), (self.count,))
        for block in (m for m in model.modules() if type(m).__name__ in model._no_split_modules):
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    def deal(self, groups: list[list[int]]) -> list[tuple[list[int], float]]:
        """This process's share of the micro-batches, each with its weight in the loss.

        All processes get the same number, because they compute in step; where there are too few, some compute one
        again, with weight 0.
        """
        mine = [(group, 1.0) for group in groups[self.number :: self.count]]
        lacking = -(-len(groups) // self.count) - len(mine)
        return mine + [(groups[0], 0.0)] * lacking

    def gathering(self, model: torch.nn.Module, last: bool) -> AbstractContextManager:
        """Around a micro-batch: gradients travel between the processes after the `last` one only."""
        if self.sharded:
            model.set_requires_gradient_sync(last)
        return model.no_sync() if self.state and not self.sharded and not last else nullcontext()

    def total(self, *values: float) -> list[float]:
        """Each value summed over all processes, in float64."""
        if self.state is None:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.state.device)
        torch.distributed.all_reduce(sums)
        return sums.tolist()

    def any(self, flag: bool) -> bool:
        """Whether any process says so: they must stop and save together."""
        return self.total(float(flag))[0] > 0

    def collect(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors whole, in the memory of the main process; {} in the others. All of them must ask.

        One tensor at a time is put together on a GPU, and goes to the main memory before the next.
        """
        collected = {}
        for name, tensor in tensors.items():
            full = tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
            if self.main:
                collected[name] = full
        return collected

    def say(self, words: str) -> None:
        """Print, once."""
        if self.main:
            print(words)

    def main_first(self) -> AbstractContextManager:
        """Around what the main process does before the others do it too."""
        return self.state.main_process_first() if self.state else nullcontext()

    def wait(self) -> None:
        """Until every process is here."""
        if self.state:
            self.state.wait_for_everyone()

    def part(self) -> None:
        """End the talk between the processes."""
        if self.state:
            self.state.destroy_process_group()


def unwrap_model(model: torch.nn.Module) -> PreTrainedModel:
    """The model without what DDP wrapped around it."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def shard_like(tensor: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """A whole `tensor` on the device of `example`, and cut up as that one is; a scalar stays whole."""
    tensor = tensor.to(example.device)
    if not isinstance(example, DTensor) or tensor.dim() == 0:
        return tensor
    return distribute_tensor(tensor, example.device_mesh, example.placements)
