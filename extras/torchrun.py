"""Several processes of torchrun, as a few functions that do nothing where there is one process.

Called by train.py, which gives each process a share of an update's prompts, and by
extras/run_folder.py, where the first process writes.
Does not split a model: every process holds all weights and takes the same optimiser steps.
"""

import datetime
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed


def processes() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Which of them this one is; the first, and the only one, is 0."""
    return int(os.environ.get("RANK", 0))


# ---- beginning and end ---------------------------------------------------------------------------


def start() -> None:
    """Give this process its GPU and connect it with the others."""
    if processes() == 1:
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    # Without names only NCCL is made where there are GPUs, and NCCL cannot add up CPU tensors.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # The others wait while the first takes an exam: that may take longer than the usual limit.
    torch.distributed.init_process_group(backend, timeout=datetime.timedelta(days=1))


def stop() -> None:
    if processes() > 1:
        torch.distributed.destroy_process_group()


# ---- who does what -------------------------------------------------------------------------------


def first_only(work: Callable) -> Callable:
    """The same function, which only the first process carries out; in the others it is None."""

    @functools.wraps(work)
    def work_of_the_first(*args, **named):
        if rank() > 0:
            return None
        return work(*args, **named)

    return work_of_the_first


@contextmanager
def first_before_others() -> Iterator[None]:
    """A block that the others enter when the first process has left it."""
    if rank() > 0:
        torch.distributed.barrier()
    yield
    if rank() == 0 and processes() > 1:
        torch.distributed.barrier()


def share(items: Sequence) -> Sequence:
    """The part of the items that this process works on; their number is a multiple of processes().

    >>> share([1, 2, 3])
    [1, 2, 3]
    """
    begin = rank() * len(items) // processes()
    end = (rank() + 1) * len(items) // processes()
    return items[begin:end]


# ---- putting shares together ---------------------------------------------------------------------


def gather(items: list) -> list:
    """The items of all processes, in their order."""
    if processes() == 1:
        return items
    shares = [None] * processes()
    torch.distributed.all_gather_object(shares, items)
    together = []
    for part in shares:
        together += part
    return together


def total(number: float) -> float:
    """The sum of a number over all processes; a whole number stays one.

    >>> total(3)
    3
    """
    if processes() == 1:
        return number
    dtype = torch.float64 if isinstance(number, float) else torch.int64
    tensor = torch.tensor(number, dtype=dtype)
    torch.distributed.all_reduce(tensor)
    return tensor.item()


def add_gradients(weights: Sequence[torch.nn.Parameter]) -> None:
    """Replace the gradient of each weight by its sum over all processes.

    A process without anything to learn from adds 0. Where no process has a gradient there is none
    afterwards either: on a gradient of 0 Adam would go on in the direction of its last steps.
    """
    if processes() == 1:
        return
    with_gradients = sum(weight.grad is not None for weight in weights)
    if total(with_gradients) == 0:
        return
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        torch.distributed.all_reduce(weight.grad)
