"""One training on several devices: each process takes its part of every batch, and all of them step by the whole batch's gradient.

Films are the unit of the loss, so it does not matter how a batch is dealt: each process weighs its films as the whole batch does,
times the number of processes, and the mean over the processes, which DistributedDataParallel makes of their gradients while they
are computed (Li et al. 2020), is the gradient of the batch. What is summed in another order differs in the last digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

TOLERANCE = 1e-5
"""Largest difference of any number of a unit vector, or of a weight, from what one process learns, float32 on CPUs. A weight whose
gradient is nothing but rounding, as that of a key's bias is (softmax does not feel it), goes where rounding sends it, on any number
of processes. Products in bfloat16 round with the number of films that share them: there 3e-4 was seen where learning had moved unit
vectors by .12."""


@dataclass(frozen=True)
class DataParallelProcess:
    """Process `rank` of `world`. One of one has everything, and knows no other process.

    Of more than one, the process group is there: gloo for tensors on the CPU, NCCL for those on GPUs.
    """

    rank: int = 0
    world_size: int = 1

    def batch_slice(self, count: int) -> slice:
        """Return which of so many films are this process's: every `world`-th, beginning at its own number."""
        return slice(self.rank, count, self.world_size)

    def wrap_module(self, learner: torch.nn.Module) -> torch.nn.Module:
        """Return a module whose parameters begin as those of the first process, and get the mean of all processes' gradients."""
        return learner if self.world_size == 1 else DistributedDataParallel(learner)

    def all_reduce_mean(self, value: float) -> float:
        """Return the mean over the processes."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return float(total) / self.world_size

    def wait_for_first(self) -> None:
        """Wait until the first process, too, is here. It may be waiting for what has nothing to do with the others."""
        if self.world_size > 1:
            distributed.broadcast(torch.zeros(1), src=0)


SINGLE_PROCESS = DataParallelProcess()
