"""Detector and embedder in one: a picture in, faces with landmarks and embeddings out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from metaface.arguments import refuse_moved
from metaface.faces.detect import LONGEST
from metaface.faces.detections import Detections
from metaface.multitask.batch import to_tensor
from metaface.multitask.model import MultiTask
from metaface.recognition.embedders.network import Network
from metaface.recognition.preprocess import Preprocessing

_SMALL = 160  # pixels: a picture is searched at halves of its size, down to about this
_LARGEST = (
    120.0  # pixels: longer side of a face, as it is searched, that a larger size is asked for
)
_OVERLAP = 0.45  # IoU from which two boxes are one face
_SCORE = 0.6  # what the smallest score becomes: YuNet's, on whose scale enrolment has its limit
_NEEDS = ("detection", "alignment", "recognition")


class JointFace:
    """A :class:`MultiTask` with detection, alignment and recognition as a ``Detector`` and an
    ``Embedder`` at once: ``Recognizer(joint, joint)``.

    Of a picture the faces are found, aligned and embedded in one forward pass of each size it is
    searched at (its own, at most 1280 pixels, and halves). Crops are embedded as well, for what
    has no picture: they go through the same layers, and give nearly the same embeddings.

    Args:
        model: put into evaluation mode.
        name: what it is called.
        min_score: the smallest score of the heat map that counts as a face, 0..1 and below 1.
            Scores of ``Detections`` are on YuNet's scale: this becomes 0.6, and 1 stays 1.

    Attributes:
        name, digest, dim: see ``metaface.recognition.Embedder``; the digest is of the whole
            network.

    Raises:
        ValueError: a network without one of the three heads.

    Example:
        >>> import metaface as mf
        >>> import numpy as np
        >>> heads = {"detection": {}, "alignment": {}, "recognition": {"people": 10}}
        >>> joint = mf.recognition.JointFace(mf.multitask.MultiTask(heads))
        >>> joint(np.zeros((2, 112, 112, 3), np.uint8)).shape, joint.dim
        ((2, 128), 128)
        >>> people = mf.Recognizer(joint, joint)
    """

    @refuse_moved(least="min_score=")
    def __init__(self, model: MultiTask, name: str = "joint", min_score: float = 0.3) -> None:
        if missing := [head for head in _NEEDS if head not in model.heads]:
            raise ValueError(
                f"{name} has no {' and no '.join(missing)} head: train one with {', '.join(_NEEDS)}"
            )
        self.model, self.name, self.min_score = model.eval(), name, min_score
        architecture = json.dumps(model.spec, sort_keys=True)
        self._crops = Network(
            model.embedding(), Preprocessing(), name=name, architecture=architecture
        )
        self.dim = self._crops.dim
        whole = hashlib.sha256(f"metaface joint 1\0{architecture}\0".encode())
        for key, tensor in sorted(model.state_dict().items()):
            whole.update(key.encode() + tensor.cpu().numpy().tobytes())
        self.digest = whole.hexdigest()

    @classmethod
    @refuse_moved(least="min_score=")
    def load(cls, path: str | Path, name: str | None = None, min_score: float = 0.3) -> JointFace:
        """From the file of ``MultiTask.save``, called as the file unless ``name`` is given.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is no such network, or has not the three heads.
        """
        return cls(MultiTask.load(path), name or Path(path).stem, min_score)

    def __call__(self, given: np.ndarray) -> Any:
        """The :class:`Detections` of a uint8 RGB picture ``[H, W, 3]``, with embeddings; or the
        embeddings, float32 ``[n, D]``, of uint8 RGB crops ``[n, 112, 112, 3]``."""
        return self._crops(given) if given.ndim == 4 else self._faces(given)

    @torch.no_grad()
    def _faces(self, picture: np.ndarray) -> Detections:
        from torchvision.ops import box_convert, nms  # it takes a second

        height, width = picture.shape[:2]
        scale = min(1.0, LONGEST / max(height, width))
        parts = []
        while True:
            last = scale * max(height, width) <= _SMALL
            parts.append(self._at(picture, scale, last))
            if last:
                break
            scale /= 2
        boxes, landmarks, scores, embeddings = (
            torch.cat(kind) for kind in zip(*parts, strict=True)
        )
        kept = nms(box_convert(boxes, "xywh", "xyxy"), scores, _OVERLAP)
        scores = 1 - (1 - scores) * ((1 - _SCORE) / (1 - self.min_score))
        return Detections(*(t[kept].cpu().numpy() for t in (boxes, landmarks, scores, embeddings)))

    def _at(self, picture: np.ndarray, scale: float, last: bool) -> tuple[Tensor, ...]:
        """Boxes, landmarks, scores and embeddings of the faces that this size is right for."""
        height, width = picture.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if size != (width, height):
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        device = next(self.model.parameters()).device
        prediction = self.model.predict(to_tensor(picture[None], device), self.min_score)
        kept = prediction.boxes[:, 2:].amax(1) <= (np.inf if last else _LARGEST)
        times = prediction.boxes.new_tensor([width / size[0], height / size[1]])
        return (
            (prediction.boxes * times.repeat(2))[kept],
            (prediction.landmarks * times)[kept],
            prediction.scores[kept],
            prediction.heads["recognition"][kept],
        )
