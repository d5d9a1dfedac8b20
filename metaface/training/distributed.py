"""Processes that train together, each on its slice of every meta-batch.

They are started by torchrun, or by whatever sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
Numbers and decisions go over gloo, which notices at once that a process has died; gradients stay
on their device (nccl on GPUs).
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from metaface import checkpoint
from metaface._processes import launched

T = TypeVar("T")

_store: Any = None  # numbers by name that all processes of the job can see


class ProcessLost(RuntimeError):
    """Another process of the job died or failed; the message says how to go on."""


@dataclass(frozen=True)
class Group:
    """The processes that train together; by default this one alone, for which all here is free.

    Attributes:
        rank: which of them this one is, 0..size-1; the first writes and shows.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def part(self, tasks: int) -> slice:
        """This process's slice of a meta-batch; slices differ by one task at most.

        Raises:
            ValueError: fewer tasks than processes.
        """
        if tasks < self.size:
            raise ValueError(
                f"meta_batch={tasks} cannot be shared by {self.size} processes: give every one a "
                f"task with meta_batch={self.size} (--meta-batch {self.size}) or more, or start "
                "fewer processes"
            )
        return slice(tasks * self.rank // self.size, tasks * (self.rank + 1) // self.size)

    def device(self, device: torch.device) -> torch.device:
        """``device``, where it is a GPU: the one that torchrun gave this process.

        Raises:
            ValueError: a GPU by number, or more processes on this machine than GPUs.
        """
        if self.size == 1 or device.type != "cuda":
            return device
        count, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", self.rank))
        if device.index is not None:
            raise ValueError(
                f"device={device}: every process takes a GPU of its own, write 'cuda' alone"
            )
        if local >= count:
            raise ValueError(
                f"no GPU for process {local} of this machine, which has {count}: start as many "
                f"processes as GPUs (--nproc-per-node {count}), or use the CPU (--device cpu)"
            )
        torch.cuda.set_device(local)
        return torch.device("cuda", local)

    def sum(self, *values: float) -> list[float]:
        """Each value, added up over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _noticing():
            dist.all_reduce(total)
        return total.tolist()

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the first process, where alone it is called, in all of them.

        An exception of it is raised in all of them.
        """
        if self.size == 1:
            return make()
        made: list[Any] = [None, None]
        if self.first:
            try:
                made[0] = make()
            except Exception as error:
                made[1] = error
        with _noticing():
            dist.broadcast_object_list(made, 0, device=torch.device("cpu"))
        if made[1] is not None:
            raise made[1]
        return made[0]

    def spread(self, module: nn.Module) -> None:
        """Give all processes the weights and buffers of the first."""
        if self.size == 1:
            return
        for tensor in module.state_dict().values():
            sent = tensor.contiguous()
            with _noticing():
                dist.broadcast(sent, 0)
            tensor.copy_(sent)

    def average_gradients(self, parameters: Iterable[nn.Parameter], share: float) -> None:
        """Replace every ``.grad`` by its mean over processes, weighted by ``share``.

        One flat all-reduce. None counts as zero, and stays where no process has a gradient.

        Args:
            share: this process's share of the tasks; the shares add up to 1.
        """
        if self.size == 1:
            return
        wanted = [p for p in parameters if p.requires_grad]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
        there = wanted[0].new_tensor([p.grad is not None for p in wanted])
        flat = share * torch.cat([*(g.flatten() for g in grads), there])
        with _noticing():
            dist.all_reduce(flat)
        *means, there = flat.split([*(p.numel() for p in wanted), len(wanted)])
        for parameter, mean, present in zip(wanted, means, there.tolist(), strict=True):
            parameter.grad = mean.view_as(parameter).to(parameter.dtype) if present else None

    @contextmanager
    def watch(self, path: Path | None) -> Iterator[None]:
        """Within, losing another process raises :class:`ProcessLost`, whose message says how to go
        on from the checkpoint at ``path``: no collective waits for the dead, and no SIGTERM, by
        which torchrun stops the others, goes without a word."""

        def stop(number: int, frame: Any) -> None:
            raise ProcessLost

        alone = self.size == 1 or threading.current_thread() is not threading.main_thread()
        before = None if alone else signal.signal(signal.SIGTERM, stop)
        try:
            yield
        except ProcessLost as lost:
            saved = path is not None and checkpoint.exists(path)
            raise ProcessLost(
                f"lost one of the {self.size} processes of this job: it died or failed, or "
                "torchrun was stopped (see its report); "
                + (
                    f"the last checkpoint, {path}, is whole: go on with resume (--resume), with "
                    "any number of processes"
                    if saved
                    else "no checkpoint was found: start again"
                )
            ) from lost.__cause__
        finally:
            if not alone:
                signal.signal(signal.SIGTERM, before)


def join() -> Group:
    """The group of the processes this one was started with; waits for all of them, once.

    Raises:
        ValueError: a process group is there already, but not for tensors on the CPU.
    """
    global _store
    if dist.is_available() and dist.is_initialized():
        if "cpu:" not in dist.get_backend_config():
            raise ValueError(
                f"the process group is for {dist.get_backend_config()} alone: start it with "
                "init_process_group('cpu:gloo,cuda:nccl'), or leave that to metaface"
            )
    elif launched():
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        found, rank, size = next(rendezvous("env://"))
        # restarted by torchrun, the store still holds where the dead processes listened
        _store = PrefixStore(f"metaface/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", found)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=_store,
            rank=rank,
            world_size=size,
        )
        atexit.register(_leave)
    else:
        return Group()
    return Group(dist.get_rank(), dist.get_world_size())


def _leave() -> None:
    if dist.is_initialized():  # gloo's threads may abort a process that does not end them
        dist.destroy_process_group()


def first_to_say(message: str) -> bool:
    """Whether no other process has asked this about ``message``: who asks first shows it."""
    if _store is None:
        return True
    try:
        return bool(_store.add(message, 1) == 1)
    except RuntimeError:  # nobody left to ask
        return True


@contextmanager
def _noticing() -> Iterator[None]:
    """Turn the failure of a collective into ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        # torchrun names the first that it finds dead, looking ten times a second: not this one
        time.sleep(1)
        raise ProcessLost from error
