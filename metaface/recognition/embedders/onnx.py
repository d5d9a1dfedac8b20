"""Embedders in ONNX files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaface.recognition.embedders import _onnx_file
from metaface.recognition.embedders.base import CropEmbedder
from metaface.recognition.embedders.description import Description
from metaface.recognition.preprocess import CROP, Preprocessing


class Onnx(CropEmbedder):
    """An ONNX embedder in InsightFace's convention, run by onnxruntime on the CPU.

    One input, float ``[n, 3, H, W]`` with n free or fixed; the first output is ``[n, D]``. What the
    preprocessing beside the file (``NAME.json``, written by ``metaface models import``) does not
    say is InsightFace's: RGB, resized to the model's size, (x - 127.5) / 127.5, or grey levels
    as they are where the graph itself starts with a subtraction and a multiplication.

    Args:
        path: the file. One whose tensors lie in other files is refused: what such a file names
            need not be its own. It is read once: what runs is what the digest is of.
        preprocessing: instead of that beside the file.
        name: what it is called; by default the file's stem.

    Raises:
        FileNotFoundError: no such file.
        ImportError: onnxruntime is missing.
        ValueError: not such a model, by name and reason.

    Example:
        With a model's file, on uint8 RGB crops ``[n, 112, 112, 3]``:

        >>> from metaface.recognition import Onnx
        >>> embed = Onnx("models/w600k_mbf.onnx")  # doctest: +SKIP
        >>> embed(crops).shape  # doctest: +SKIP
    """

    def __init__(
        self, path: str | Path, preprocessing: Preprocessing | None = None, name: str | None = None
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(f"{path} needs onnxruntime: pip install 'metaface[onnx]'") from error
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no ONNX model at {path}: give the path of an .onnx file")
        content = path.read_bytes()
        try:
            inside = _onnx_file.inspect(content)
        except ValueError as error:
            raise ValueError(f"{path} is truncated or not an ONNX file: {error}") from error
        if inside.external:
            raise ValueError(
                f"{path} keeps tensors in other files, which is not read: save it as one file "
                "(onnx.save_model(..., save_as_external_data=False))"
            )
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 4  # what is wrong comes as an exception
        try:
            self._session = onnxruntime.InferenceSession(
                content, settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a dozen kinds, without a common one
            raise ValueError(f"{path} is no model that onnxruntime can run: {error}") from error
        self._input, height, width, self._fixed = _input(path, self._session.get_inputs())
        self._output = self._session.get_outputs()[0].name
        sha256 = hashlib.sha256(content).hexdigest()
        if preprocessing is None:
            preprocessing = _beside(path, sha256) or insightface(inside.operators, height, width)
        super().__init__(name or path.stem, preprocessing, sha256)
        pictures = preprocessing(np.zeros((1, CROP, CROP, 3), np.uint8))
        try:
            features = self.features(pictures)
        except Exception as error:  # as above
            raise ValueError(
                f"{path} does not take pictures of {list(pictures.shape[1:])}, which its "
                f"preprocessing gives: {error}"
            ) from error
        if features.ndim != 2 or len(features) != 1:
            raise ValueError(
                f"{path} must give features [n, D] as its first output, and gives "
                f"{list(features.shape)} for one picture: it is no embedder"
            )
        self.dim = features.shape[1]

    def features(self, pictures: Tensor) -> Tensor:
        given = pictures.contiguous().numpy()
        step = self._fixed or len(given)
        parts = []
        for start in range(0, len(given), step):
            part = given[start : start + step]
            rows = len(part)
            if rows < step:
                spare = np.zeros_like(given, shape=(step - rows, *part.shape[1:]))
                part = np.concatenate([part, spare])
            parts.append(self._session.run([self._output], {self._input: part})[0][:rows])
        return torch.from_numpy(np.concatenate(parts).astype(np.float32, copy=False))


def insightface(operators: list[str], height: int, width: int) -> Preprocessing:
    """InsightFace's rule: a graph that starts with a subtraction and a multiplication scales."""
    first = operators[:8]
    scales = "Sub" in first and "Mul" in first
    return Preprocessing(
        size=None if height == width == CROP else (height, width),
        mean=0.0 if scales else 127.5,
        std=1.0 if scales else 127.5,
    )


def _input(path: Path, inputs: list[Any]) -> tuple[str, int, int, int | None]:
    """Name, height, width and, where it is fixed, the batch size of the one input."""
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 4 or shape[1] not in (1, 3) or inputs[0].type != "tensor(float)":
        given = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise ValueError(f"{path} must take one float input [n, 3, H, W], and takes {given}")
    sides = [side if isinstance(side, int) and side > 0 else CROP for side in shape[2:]]
    fixed = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    return inputs[0].name, sides[0], sides[1], fixed


def _beside(path: Path, sha256: str) -> Preprocessing | None:
    """The preprocessing in the JSON file beside an ONNX file."""
    described = path.with_suffix(".json")
    if not described.is_file():
        return None
    try:
        description = Description.from_json(described.read_bytes())
    except ValueError as error:
        raise ValueError(f"{described}: {error}; import the ONNX file again") from error
    if description.origin_sha256 not in ("", sha256):
        raise ValueError(
            f"{path} has sha256 {sha256}, and {described} is of {description.origin_sha256}: "
            "import the ONNX file again"
        )
    return description.preprocessing
