"""Weights from elsewhere into the models folder, with all that is needed to use them rightly."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metaface._atomic import replacing
from metaface._text import given_path
from metaface.nets.weights import read_weights, save_weights
from metaface.recognition.embedders.description import KEY, Description
from metaface.recognition.embedders.known import check_known_answer
from metaface.recognition.embedders.loading import Network, Onnx, describe_weights
from metaface.recognition.models import MODELS, check, models_folder, sha256_of
from metaface.recognition.preprocess import Preprocessing

log = logging.getLogger("metaface.recognition")


def import_weights(
    path: str | Path,
    given: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
) -> Path:
    """Put weights into the models folder.

    A MobileFaceNet checkpoint (Xiaoccer/MobileFaceNet_Pytorch's key names) becomes a safetensors
    file with its preprocessing and origin in the metadata; an ONNX embedder is copied, with those
    in ``NAME.json`` beside it; a registered detector is copied. An embedder is then known to
    :func:`metaface.recognition.embedders.load` by the file's stem; a registered file, whatever it
    is called, by the registry's name, after its known answer is checked. What was imported under
    the same name before is replaced; where it was something else, a warning says so.

    Args:
        path: the file; no code in it is run.
        given: the folder; see :func:`metaface.recognition.models.models_folder`.
        preprocessing: what the weights were trained with; None: the registry's, or what fits
            the size and kind of the network (see ``for_pictures`` and ``insightface``).

    Returns:
        The file in the folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is not what it should be, or whose weights do not give the known
            answer, by name; the folder is as it was.
        ImportError: an ONNX file without onnxruntime.
        OSError: the folder cannot be written, or is full.
    """
    path, root = given_path(path, "the weights"), models_folder(given)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give the path of a file of weights")
    for entry in MODELS.values():
        same_size = entry.kind == "detector" and path.stat().st_size == entry.size
        if same_size and sha256_of(path) == entry.sha256:
            return _copied(path, root / entry.files[0])
    if path.suffix.lower() == ".onnx":
        return _onnx(path, root, preprocessing)
    return _mobilefacenet(path, root, preprocessing)


def _mobilefacenet(path: Path, root: Path, preprocessing: Preprocessing | None) -> Path:
    state, notes = read_weights(path)
    net, described = describe_weights(path, state, notes)
    about = Description(
        described.architecture,
        preprocessing or described.preprocessing,
        described.origin_sha256 or sha256_of(path),
        described.licence,
    )
    embedder = Network(net, about.preprocessing, name=path.stem, architecture=about.architecture)
    registered = [e for e in MODELS.values() if e.weights and e.weights == embedder.weights]
    target = root / f"{path.stem}.safetensors"
    if registered:
        embedder.name = registered[0].name
        target = root / registered[0].imported
        check_known_answer(embedder)
    elif path.stem in MODELS:
        check(MODELS[path.stem], path)  # says that it is not what its name says
    with _saying_what_is_replaced(target):
        save_weights(target, state, {KEY: about.to_json()})
    return target


def _onnx(path: Path, root: Path, preprocessing: Preprocessing | None) -> Path:
    embedder = Onnx(path, preprocessing)
    target = root / f"{path.stem}.onnx"
    about = Description("onnx", embedder.preprocessing, embedder.weights)
    # first: killed between the two, it lies beside another file or none, which is refused
    with replacing(target.with_suffix(".json")) as file:
        file.write(about.to_json().encode())
    return _copied(path, target)


def _copied(path: Path, target: Path) -> Path:
    if target.resolve() != path.resolve():
        with (
            _saying_what_is_replaced(target),
            open(path, "rb") as source,
            replacing(target) as file,
        ):
            shutil.copyfileobj(source, file)
    return target


@contextmanager
def _saying_what_is_replaced(target: Path) -> Iterator[None]:
    before = sha256_of(target) if target.is_file() else None
    yield
    if before not in (None, sha256_of(target)):
        log.warning("%s held other weights of this name: they are replaced", target)
