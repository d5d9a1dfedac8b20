"""The rules of every embedder and detector."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from metaface.faces.detect import Detector
from metaface.faces.detections import Detections
from metaface.recognition.embedders import Embedder
from metaface.recognition.preprocess import CROP
from metaface.synthetic import render
from metaface.testing._rules import require, require_refusal


def check_embedder(embedder: Embedder) -> None:
    """Check that the recogniser can use an embedder.

    Raises:
        AssertionError: a broken rule; says which, what was found, and why the rule is there.

    Example:
        >>> import metaface as mf
        >>> from metaface.recognition import Network, Preprocessing
        >>> small = Preprocessing(size=(28, 28))
        >>> embed = Network(mf.nets.Conv4(), small, name="toy", architecture="conv4")
        >>> mf.testing.check_embedder(embed)
    """
    crops = render([0, 1, 2], 2, CROP, seed=0).images
    kept = crops.copy()
    require(
        isinstance(embedder.name, str) and isinstance(embedder.digest, str) and embedder.digest,
        "an embedder has a name and a digest, both text",
        f"{embedder.name!r} and {embedder.digest!r}",
        "A gallery is bound to the digest, so that embeddings of other weights are never mixed in.",
    )
    found = embedder(crops)
    require(
        isinstance(found, np.ndarray)
        and found.dtype == np.float32
        and found.shape == (len(crops), embedder.dim),
        "crops uint8 [n, 112, 112, 3] give float32 [n, dim]",
        f"{type(found).__name__} {getattr(found, 'dtype', '')} {list(np.shape(found))}, dim "
        f"{embedder.dim}",
        "Galleries store one row a face.",
    )
    lengths = np.linalg.norm(found, axis=1)
    require(
        bool(np.isfinite(found).all()) and np.allclose(lengths, 1, atol=1e-4),
        "embeddings are finite and of unit length",
        f"lengths {lengths.min():.4g} to {lengths.max():.4g}",
        "The product of two embeddings is taken for their cosine: divide by the length.",
    )
    require(
        np.array_equal(crops, kept),
        "the crops are left as they are",
        "other pixels",
        "They are stored, and used again.",
    )
    alone = np.concatenate([embedder(crop[None]) for crop in crops])
    require(
        np.allclose(alone, found, atol=1e-4) and np.allclose(embedder(crops), found, atol=1e-5),
        "a face's embedding is the same each time, whatever faces are beside it",
        f"values up to {np.abs(alone - found).max():.2g} apart",
        "One photograph must be identified as it is in a group.",
    )
    require(
        embedder(crops[:0]).shape == (0, embedder.dim),
        "no crops give an array [0, dim]",
        f"{list(embedder(crops[:0]).shape)}",
        "There are photographs without a face.",
    )
    require(
        float(np.abs(found[0] - found[2]).max()) > 1e-3,
        "different people have different embeddings",
        "the same for two",
        "Nobody can be told apart by them.",
    )
    for wrong in (crops[0], crops.astype(np.float32), crops[:, :64]):
        call = partial(embedder, wrong)
        require_refusal(call, "crops of another shape or type are refused by name", "crops")


def check_detector(detector: Detector) -> None:
    """Check that the recogniser can use a detector. How well it finds faces is not checked: see
    ``metaface protocol detection``.

    Raises:
        AssertionError: a broken rule; says which, what was found, and why the rule is there.

    Example:
        >>> import metaface as mf
        >>> heads = {"detection": {}, "alignment": {}, "recognition": {"people": 10}}
        >>> joint = mf.recognition.JointFace(mf.multitask.MultiTask(heads))
        >>> mf.testing.check_detector(joint)
    """
    require(
        isinstance(detector.name, str),
        "a detector has a name, a text",
        f"{detector.name!r}",
        "Results say what faces were found by.",
    )
    faces = np.concatenate(list(render([0, 1], 1, 160, seed=0).images), axis=1)
    for picture in (faces, faces[:97, :131], np.full((64, 48, 3), 128, np.uint8)):
        kept = picture.copy()
        found = detector(picture)
        _fits(found, picture)
        require(
            np.array_equal(picture, kept),
            "the picture is left as it is",
            "other pixels",
            "Faces are cut out of it afterwards.",
        )
        with ThreadPoolExecutor(3) as threads:
            again = list(threads.map(detector, [picture] * 3))
        require(
            all(np.array_equal(one.boxes, found.boxes) for one in again),
            "the same picture gives the same faces, also in several threads at once",
            f"{[len(one) for one in again]} faces where there were {len(found)}, or other boxes",
            "Photographs are searched in several threads: keep what changes in threading.local().",
        )


def _fits(found: Detections, picture: np.ndarray) -> None:
    require(
        isinstance(found, Detections),
        "a detector returns metaface.faces.detections.Detections",
        f"a {type(found).__name__}",
        "Boxes, landmarks and scores belong together.",
    )
    count = len(found.boxes)
    arrays = {"boxes": (count, 4), "landmarks": (count, 5, 2), "scores": (count,)}
    for name, shape in arrays.items():
        value = getattr(found, name)
        require(
            value.dtype == np.float32 and value.shape == shape and bool(np.isfinite(value).all()),
            f"{name} are finite float32 {list(shape)} for {count} faces",
            f"{value.dtype} {list(value.shape)} in a picture {list(picture.shape)}",
            "No face gives arrays of length 0.",
        )
    scores = found.scores
    require(
        bool(((scores >= 0) & (scores <= 1)).all() and (np.diff(scores) <= 0).all()),
        "scores are in 0..1, the surest face first",
        f"{scores.tolist()}",
        "The first face is taken for the surest.",
    )
    require(
        bool((found.boxes[:, 2:] > 0).all()),
        "boxes are left, top, width and height, the last two above 0",
        f"{found.boxes.tolist()}",
        "Right and bottom in the place of width and height make wrong faces.",
    )
