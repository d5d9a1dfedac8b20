"""What tests/training/test_kills.py kills: one change of a gallery, in forked processes.

For every line of standard input, ``WHAT GALLERY``, a process makes that change. Printed are its
number, ``begin`` before the first transaction, ``done`` and ``end``.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import torch
from helpers import Row, portrait, squares
from say import say

from metaface.recognition import Gallery, Recognizer
from metaface.recognition.gallery._store import Store


def opened(path: str) -> Recognizer:
    embedder = squares()
    gallery = Gallery(
        path, model=embedder.digest, model_name=embedder.name, dim=embedder.dim, keep_crops=True
    )
    return Recognizer(Row(), embedder, gallery)


def strangers(first: int) -> list[np.ndarray]:
    return [portrait(first + i) for i in range(60)]


def change(people: Recognizer, what: str) -> None:
    if what == "enrol":
        people.enroll("Zoe", [portrait(77, shot) for shot in range(5)])
    elif what == "forget":
        people.forget("person 1")
    elif what == "calibrate":
        people.calibrate(strangers(2000), 0.1, progress=False)
    elif what == "adapt":
        people.adapt("anil")
    elif what == "save":
        people.save(f"{people.gallery.path}.copy")
    elif what == "create":
        people.gallery.copy_to(f"{people.gallery.path}.copy")


def _telling() -> None:
    """Say when the first transaction begins."""
    for name in ("writing", "copy_into"):
        method = getattr(Store, name)

        def told(store, *arguments, method=method):
            if not told.said:
                told.said = True
                say("begin")
            return method(store, *arguments)

        told.said = False
        setattr(Store, name, told)


if __name__ == "__main__":
    torch.set_num_threads(1)
    say("ready")
    for line in sys.stdin:
        if not (child := os.fork()):
            say(os.getpid())
            what, path = line.split()
            people = opened(path)
            _telling()
            change(people, what)
            say("done")
            os._exit(0)
        os.waitpid(child, 0)
        say("end")
