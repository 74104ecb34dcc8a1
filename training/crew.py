"""Owns what several processes of one training share: one batch, equal weights, one decision.

They are started by torchrun. Every process draws the whole batch and trains on its share of it;
gradients are averaged, so that N processes take the step that one would (Goyal et al. 2017, arXiv
1706.02677, section 3).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed

from training.batches import Batch


@dataclass(frozen=True)
class Crew:
    """This process's place among those that train together; alone by default."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes files and decides."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """This process's part of a batch."""
        return batch.cut(self.size)[self.rank]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the crew."""
        if self.size == 1:
            return
        group: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            group.setdefault(tensor.dtype, []).append(tensor)
        for same in group.values():
            flat = torch.cat([t.flatten() for t in same])
            distributed.all_reduce(flat)
            flat /= self.size
            for tensor, part in zip(same, flat.split([t.numel() for t in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def agree(self, decisions: Sequence[bool]) -> list[bool]:
        """What the leader decided."""
        if self.size == 1:
            return list(decisions)
        told = torch.tensor(list(decisions), dtype=torch.uint8, device=self.device)
        distributed.broadcast(told, src=0)
        return [bool(value) for value in told.tolist()]

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            distributed.barrier()

    def leave(self) -> None:
        """The end of working together."""
        if self.size > 1:
            distributed.destroy_process_group()


def join_crew(device: torch.device) -> Crew:
    """The crew torchrun started this process in, each with a GPU of its own; alone without it."""
    if not distributed.is_torchelastic_launched():
        return Crew(device=device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        device = torch.device("cuda", distributed.get_node_local_rank())
        torch.cuda.set_device(device)
    return Crew(distributed.get_rank(), distributed.get_world_size(), device)
