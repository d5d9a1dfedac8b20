"""Tasks in chunks: bounded memory, and one thread a core."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

from metaface.episodes.sampler import Episodes
from metaface.machine import keep_memory

# of photographs in a chunk: fewer, and the time goes into calls; more, and into waiting for memory
PIXELS_CPU = 8 * 30 * 28 * 28
PIXELS_GPU = 4096 * 30 * 28 * 28

Result = TypeVar("Result")
Module = TypeVar("Module", bound=nn.Module)


def run_in_chunks(
    learner: Module,
    episodes: Episodes,
    function: Callable[[Module, Episodes], Result],
    *,
    task_chunk: int | None,
    low_memory: bool,
) -> list[Result]:
    """``function`` of the learner and of each chunk of the tasks, in order.

    On a CPU, chunks run beside each other, one thread each: small convolutions gain little from
    more threads. Results come in order, so that sums over them are the same every time.
    """
    keep_memory()
    threads = torch.get_num_threads()
    if task_chunk is not None and task_chunk < 1:
        raise ValueError(f"task_chunk={task_chunk}: must be at least 1")
    size = task_chunk or (1 if low_memory else choose_chunk(episodes, threads))
    chunks = [episodes.part(i, i + size) for i in range(0, len(episodes), size)]
    workers = 1 if low_memory else min(threads, len(chunks))
    if workers == 1 or episodes.support.is_cuda:
        return [function(learner, chunk) for chunk in chunks]
    recording = torch.is_grad_enabled()
    replicas = [replicate(learner) for _ in range(workers)]  # one a thread
    free = list(replicas)

    def work(chunk: Episodes) -> Result:
        mine = free.pop()
        try:
            with torch.set_grad_enabled(recording):
                return function(mine, chunk)
        finally:
            free.append(mine)

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, chunks))
    finally:
        torch.set_num_threads(threads)


def choose_chunk(episodes: Episodes, threads: int) -> int:
    """How many tasks make a chunk: as many as is fast, and the threads finish together."""
    tasks, n, _, height, width = episodes.support.shape
    pixels = (n + episodes.query.shape[1]) * height * width
    if episodes.support.is_cuda:
        return max(1, PIXELS_GPU // pixels)
    size = max(1, PIXELS_CPU // pixels)
    rounds = math.ceil(tasks / (size * threads))
    return math.ceil(tasks / (rounds * threads))


def replicate(module: Module) -> Module:
    """A module of its own around the same memory: for another thread.

    ``torch.func.functional_call`` swaps a module's weights in place for the length of a call, so
    that two threads must not share one. Nor may they share a parameter that they differentiate by:
    torch (2.14) holds the parameter's lock while it waits for Python's, and Python's while it
    waits for the parameter's, and now and then two threads wait for ever.
    """
    own: dict[int, torch.Tensor] = {id(b): b for b in module.buffers()}
    for p in module.parameters():
        own[id(p)] = nn.Parameter(p.detach(), p.requires_grad)
    return copy.deepcopy(module, own)
