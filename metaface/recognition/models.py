"""Model files pinned by size and sha256: where they are looked for, and how one is fetched.

Nothing here opens the network but :func:`fetch`, and nothing in MetaFace calls that but
``metaface models fetch``.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metaface._atomic import replacing
from metaface._progress import track
from metaface._text import given_path
from metaface.nets.weights import digest_weights, read_weights
from metaface.recognition.preprocess import Preprocessing

log = logging.getLogger("metaface.recognition")

_CHUNK = 1 << 16
_TIMEOUT = 30  # seconds without an answer
_LONGEST = 600  # seconds that a file may take: 10 MB do at 17 kB/s


class ModelMissing(FileNotFoundError):
    """A model file is in none of the places looked in; the message says how to get it."""


class ModelDamaged(ValueError):
    """A model file is there, and is not the one that was published."""


@dataclass(frozen=True)
class Model:
    """A published model file.

    Attributes:
        name: what users call it.
        kind: ``detector`` or ``embedder``.
        files: names it may have in a folder of models; it is fetched to the first.
        size: of the published file, bytes.
        sha256: of the published file, hex.
        url: where it was published.
        licence: as its publisher states it.
        architecture: of an embedder whose tensors MetaFace reads; empty otherwise, as are the
            rest.
        imported: name of the safetensors file that ``metaface models import`` makes of it.
        weights: :func:`metaface.nets.weights.digest_weights` of its tensors, whatever file they
            are in.
        preprocessing: what an embedder was trained with.
        known: its embedding of one procedural face; see ``metaface.recognition.embedders.known``.
        false_match: rows of (FMR, cosine), the rate falling: the share of pairs of different
            people, 0..1, whose embeddings are more similar than that.
        copies: cosines from which two photographs are the same picture (copied, saved again,
            resized), and nearly the same; None: nobody has measured it.
    """

    name: str
    kind: Literal["detector", "embedder"]
    files: tuple[str, ...]
    size: int
    sha256: str
    url: str
    licence: str
    architecture: str = ""
    imported: str = ""
    weights: str = ""
    preprocessing: Preprocessing | None = None
    known: str = ""
    false_match: tuple[tuple[float, float], ...] = ()
    copies: tuple[float, float] | None = None

    @property
    def all_files(self) -> tuple[str, ...]:
        """The names looked for, the best first."""
        return (self.imported, *self.files) if self.imported else self.files


_YUNET = "https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/master/onnx/"

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            name="yunet",
            kind="detector",
            files=("yunet_n_640_640.onnx",),
            size=317466,
            sha256="25a606a145a5b6d7271ae138fbd00eba91dad8b83222ae3f2c7ecd0f4a7b0e31",
            url=_YUNET + "yunet_n_640_640.onnx",
            licence="Apache-2.0 (ShiqiYu/libfacedetection.train)",
        ),
        Model(
            name="yunet_dynamic",
            kind="detector",
            files=("yunet_n_dynamic.onnx",),
            size=322906,
            sha256="104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
            url=_YUNET + "yunet_n_dynamic.onnx",
            licence="Apache-2.0 (ShiqiYu/libfacedetection.train)",
        ),
        Model(
            name="mobilefacenet_casia",
            kind="embedder",
            files=("mobilefacenet_casia.ckpt", "068.ckpt"),
            size=4130855,
            sha256="e839247cdbdfc023fb7cadeaf53a4549d50c8fc24ad154c02e35920ea8910d99",
            url="https://raw.githubusercontent.com/Xiaoccer/MobileFaceNet_Pytorch/"
            "9c6e162647edf1bdc1d194f305d2030c79bf4613/model/best/068.ckpt",
            licence="no licence stated (Xiaoccer/MobileFaceNet_Pytorch; trained on CASIA-WebFace)",
            architecture="mobilefacenet",
            imported="mobilefacenet_casia.safetensors",
            weights="da34959a6e6ede8411b63f3906d667558a2820305285b0e2ec1fbcc9bc28a8fc",
            preprocessing=Preprocessing(columns=(8, 104), mirror=True),
            known=(
                "5yhJqTwvhKwWLDenyy9cKGqkjC6OHfYpgi8prIsrlyuDIe4vv6t4qTQwibAhrOgs4CUgqLGk6qowrPEyBSgq"
                "qWEwm6PYq/+rrTEVsO2n26qipS2pQKYysN+kHK7ar9KQWCtAMM+osqqvrTawZDKgHzowkqhHqWag8yyWrsAf"
                "+bDUqG0o7jCuq0mhsh6oMCmpxKhFKzCp6Sz9J6mmnKgxJH0uCDKbriUpVKKmMUAoTK7GpFmqZq6JpNAeLi5r"
                "s6aqISbDqQgnr60XKigkYCYpLF6wxhyDMGEqcSksqKWvo6caK36xNy0DL3Mvb6yLLGMw9S95sgOcqi0iMV8q"
                "ma0Epw=="
            ),
            # of all pairs of different people of the LFW subset (docs/recognition.md)
            false_match=(
                (1e-1, 0.161),
                (1e-2, 0.306),
                (1e-3, 0.418),
                (1e-4, 0.508),
                (1e-5, 0.581),
                (1e-6, 0.646),
            ),
            copies=(0.97, 0.95),  # docs/recognition.md
        ),
    )
}


@dataclass(frozen=True)
class Row:
    """A line of ``metaface models``. ``size`` is in bytes; ``path`` None where it is missing."""

    name: str
    kind: str
    size: int
    state: Literal["present", "imported", "missing", "damaged"]
    licence: str
    path: Path | None


def models_folder(given: str | Path | None = None) -> Path:
    """Where model files lie: ``given``, else METAFACE_MODELS, else ~/.cache/metaface/models."""
    if given is not None:
        return given_path(given, "the models").expanduser().absolute()
    chosen = os.environ.get("METAFACE_MODELS") or "~/.cache/metaface/models"
    return Path(chosen).expanduser().absolute()


def get_model(name: str) -> Model:
    """The registry's entry.

    Raises:
        ValueError: an unknown name.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}: choose one of {', '.join(MODELS)}")
    return MODELS[name]


def find(name: str, given: str | Path | None = None) -> Path:
    """The file of a registered model, checked; nothing is fetched.

    Args:
        name: one of ``MODELS``.
        given: the folder to look in; see :func:`models_folder`.

    Returns:
        The safetensors file imported from the published one, where there is one, checked by its
        tensors; else the published file, checked by size and sha256.

    Raises:
        ModelMissing: it is not there; the message says what to do.
        ModelDamaged: it is there, of another size or sha256.
        ValueError: an unknown name.
    """
    entry, root = get_model(name), models_folder(given)
    damage: ModelDamaged | None = None
    for file in entry.all_files:
        if (root / file).is_file():
            try:
                check(entry, root / file)
                return root / file
            except ModelDamaged as error:
                damage = damage or error
    if damage:
        raise damage
    raise ModelMissing(
        f"no {entry.kind} model {name}: {' or '.join(entry.all_files)} is not in {root}. Fetch it "
        f"with `metaface models fetch {name}` ({entry.size / 1e6:.1f} MB; licence: "
        f"{entry.licence}), or say where it is with --models DIR or METAFACE_MODELS"
    )


def check(entry: Model, path: Path) -> None:
    """Compare a file, as published or as imported, with what was published.

    Raises:
        ModelDamaged: another size, sha256 or tensors; found and expected values are named.
    """
    if path.name == entry.imported:
        try:
            state, _ = read_weights(path)
        except ValueError as error:
            raise _damaged(entry, str(error)) from error
        digest = digest_weights(entry.architecture, state)
        if digest != entry.weights:
            raise _damaged(entry, f"{path} has tensors of digest {digest}, not {entry.weights}")
        return
    size = path.stat().st_size
    if size != entry.size:
        raise _damaged(entry, f"{path} has {size} bytes, not {entry.size}")
    sha256 = sha256_of(path)
    if sha256 != entry.sha256:
        raise _damaged(entry, f"{path} has sha256 {sha256}, not {entry.sha256}")


def _damaged(entry: Model, what: str) -> ModelDamaged:
    return ModelDamaged(
        f"{what}: it is not {entry.name} as published. Remove it, then `metaface models fetch "
        f"{entry.name}`, or name a folder with the right file by --models DIR"
    )


def sha256_of(path: str | Path) -> str:
    """sha256 of a file, hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def list_models(given: str | Path | None = None) -> list[Row]:
    """Every registered model and whether it is there, then what else was imported.

    Args:
        given: the folder to look in; see :func:`models_folder`.
    """
    root = models_folder(given)
    rows = [_row(entry, root) for entry in MODELS.values()]
    known = {file for entry in MODELS.values() for file in entry.all_files}
    for path in sorted(root.glob("*.safetensors")) + sorted(root.glob("*.onnx")):
        described = path.suffix == ".safetensors" or path.with_suffix(".json").is_file()
        if path.name not in known and described:
            size = path.stat().st_size
            rows.append(Row(path.stem, "embedder", size, "imported", "as its publisher says", path))
    return rows


def _row(entry: Model, root: Path) -> Row:
    try:
        path = find(entry.name, root)
    except ModelMissing:
        return Row(entry.name, entry.kind, entry.size, "missing", entry.licence, None)
    except (ModelDamaged, OSError):
        path = next(root / file for file in entry.all_files if (root / file).exists())
        return Row(entry.name, entry.kind, entry.size, "damaged", entry.licence, path)
    state: Literal["present", "imported"] = "imported" if path.name == entry.imported else "present"
    return Row(entry.name, entry.kind, path.stat().st_size, state, entry.licence, path)


def fetch(name: str, given: str | Path | None = None, progress: bool = False) -> Path:
    """Fetch a registered model over the network, unless it is there already.

    The licence (``model(name).licence``) should be shown to the user before. The file gets its
    name only when it is complete and has the pinned sha256; else nothing is left behind.

    Args:
        name: one of ``MODELS``.
        given: the folder to put it in; see :func:`models_folder`.
        progress: show a progress bar.

    Returns:
        Where it is.

    Raises:
        ConnectionError: it cannot be had from where it was published, takes more than ten minutes,
            or is redirected from https to anything else.
        ModelDamaged: what came is not what was pinned.
        OSError: the folder cannot be written, or is full.
        ValueError: an unknown name.
    """
    entry, root = get_model(name), models_folder(given)
    try:
        return find(name, root)
    except (ModelMissing, ModelDamaged):  # a damaged one is replaced
        pass
    path = root / entry.files[0]
    digest, size = hashlib.sha256(), 0
    bar = track(total=entry.size, desc=name, unit="B", unit_scale=True, show=progress)
    with bar, replacing(path) as file:
        for chunk in _download(entry):
            size += len(chunk)
            digest.update(chunk)
            if size > entry.size:
                break
            file.write(chunk)
            bar.update(len(chunk))
        if size != entry.size or digest.hexdigest() != entry.sha256:
            what = (
                f"sha256 {digest.hexdigest()}, not {entry.sha256}"
                if size == entry.size
                else f"{'more than ' if size > entry.size else ''}{min(size, entry.size)} bytes, "
                f"not {entry.size}"
            )
            raise ModelDamaged(
                f"{entry.url} gave {what}: not {name} as it was pinned; nothing was kept. Get the "
                f"file elsewhere, and put it into {root}"
            )
    return path


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https, and those that stay with the scheme they come from."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if newurl.split(":")[0] not in ("https", req.type):
            why = f"it redirects to {newurl}, which is not {req.type}: this is not followed"
            raise urllib.error.HTTPError(req.full_url, code, why, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(entry: Model) -> Iterator[bytes]:
    """The file by chunks; every failure of the network is a ConnectionError with a remedy."""
    log.info("fetching %s from %s (licence: %s)", entry.name, entry.url, entry.licence)
    ends = time.monotonic() + _LONGEST
    try:
        with urllib.request.build_opener(_Redirects).open(entry.url, timeout=_TIMEOUT) as answer:
            # read1 returns what has come: read would wait for all of a chunk, however slow
            while chunk := answer.read1(_CHUNK):
                yield chunk
                if time.monotonic() > ends:
                    raise TimeoutError(f"it is not complete after {_LONGEST} seconds")
    except urllib.error.HTTPError as error:
        with error:
            raise _failed(entry, f"{error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _failed(entry, str(error.reason)) from error
    except (
        OSError,
        http.client.HTTPException,
    ) as error:  # a connection that broke, or took too long
        raise _failed(entry, str(error) or type(error).__name__) from error


def _failed(entry: Model, reason: str) -> ConnectionError:
    return ConnectionError(
        f"cannot fetch {entry.name} from {entry.url}: {reason}. Is there a network? Else get "
        f"{entry.files[0]} ({entry.size} bytes, sha256 {entry.sha256}) elsewhere, and name its "
        "folder with --models DIR or METAFACE_MODELS"
    )
