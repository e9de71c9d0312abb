"""Data-parallel training: each process computes its part of every batch, and all step by the gradient of the whole batch.

The loss is a sum over images, so a batch may be divided in any way: each process weighs its images as the whole batch does, times
the number of processes. The mean of the gradients over the processes, which DistributedDataParallel computes during the backward
pass (Li et al. 2020), is then the gradient of the batch. Sums in another order differ in the last digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

TOLERANCE = 1e-5
"""Largest difference of any element of a unit vector, or of a weight, from training in one process, float32 on CPUs. Excepted are
weights whose gradient is pure rounding, such as the bias of a key (softmax is invariant to it): these drift by rounding on any
number of processes. Rounding of bfloat16 products depends on the number of images in the product: 3e-4 was measured where training
had changed unit vectors by .12."""


@dataclass(frozen=True)
class DataParallelProcess:
    """Process `rank` of `world_size`. A single process computes whole batches and needs no process group.

    With more than one, the process group exists: gloo for tensors on the CPU, NCCL for those on GPUs.
    """

    rank: int = 0
    world_size: int = 1

    def batch_slice(self, count: int) -> slice:
        """Return this process's share of `count` images: every `world_size`-th, starting at `rank`."""
        return slice(self.rank, count, self.world_size)

    def wrap_module(self, learner: torch.nn.Module) -> torch.nn.Module:
        """Return a module whose parameters start as the first process's and receive the mean of all processes' gradients."""
        return learner if self.world_size == 1 else DistributedDataParallel(learner)

    def all_reduce_mean(self, value: float) -> float:
        """Return the mean over the processes."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return float(total) / self.world_size

    def wait_for_first(self) -> None:
        """Block until the first process gets here too. It may have other work to do first."""
        if self.world_size > 1:
            distributed.broadcast(torch.zeros(1), src=0)


SINGLE_PROCESS = DataParallelProcess()
