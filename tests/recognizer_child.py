"""What tests/recognition/test_recognizer.py kills: enrolment in forked processes.

python recognizer_child.py PHOTOS

For every line of standard input, the name of a gallery, a process enrols the folder PHOTOS into
it. Printed are its number, everybody's name when they are yielded, and ``end``.
"""

import os
import sys

import numpy as np
from helpers import Row
from say import say

from metaface.recognition import Gallery, Recognizer


class Plain:
    """An embedder without torch, whose threads no fork survives."""

    name, digest, dim = "plain", "0123abcd", 48

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        means = crops.reshape(len(crops), 4, 28, 4, 28, 3).mean((2, 4)).reshape(len(crops), 48)
        means = means.astype(np.float32) - 128
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def gallery(path: str) -> Gallery:
    return Gallery(path, model=Plain.digest, model_name=Plain.name, dim=Plain.dim)


if __name__ == "__main__":
    say("ready")
    for line in sys.stdin:
        if not (child := os.fork()):
            people = Recognizer(Row(), Plain(), gallery(line.strip()))
            for enrolled in people.enroll_all(sys.argv[1], progress=False):
                say(enrolled.name)
            os._exit(0)
        say(child)
        os.waitpid(child, 0)
        say("end")
