"""Aligned crops -> embeddings of unit length: the embedder of a name or file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from metaface import _extensions
from metaface.learners.spec import read_model, rebuild_model
from metaface.nets.backbones import Backbone
from metaface.nets.weights import build_mobilefacenet, digest_weights, read_weights
from metaface.recognition.embedders.base import CropEmbedder, Embedder
from metaface.recognition.embedders.description import KEY, Description
from metaface.recognition.embedders.network import Network
from metaface.recognition.embedders.onnx import Onnx
from metaface.recognition.embedders.shared import JointFace
from metaface.recognition.models import (
    MODELS,
    ModelMissing,
    find,
    get_model,
    models_folder,
    sha256_of,
)
from metaface.recognition.preprocess import Preprocessing, for_pictures

__all__ = ["CropEmbedder", "Embedder", "Network", "Onnx", "Preprocessing", "load"]


def load(
    source: str | Path,
    given: str | Path | None = None,
    *,
    weights: str | Path | None = None,
) -> CropEmbedder:
    """An embedder by name or path; nothing is fetched over the network.

    Args:
        source: a registered name (``mobilefacenet_casia``) or one imported into the models folder;
            the path of a MobileFaceNet checkpoint or safetensors file, of a checkpoint of
            ``metaface train`` (its embedding, on crops resized to its pictures; by nature best
            where those were aligned alike), of a network of ``metaface multitask`` (a detector as
            well, see ``metaface.recognition.JointFace``), or of an ONNX embedder;
            ``torchvision:<model>`` or ``timm:<model>``; or what a package has registered in
            ``metaface.embedders``, or ``package.module:Class``, called without arguments or, for
            ``name:TEXT``, with that text.
        given: the folder of models; see :func:`metaface.recognition.models.models_folder`.
        weights: the path of a state dict, needed by and only for torchvision and timm networks.

    Raises:
        ModelMissing: not there; the message says where it was looked for, and what to do.
        ModelDamaged: a registered file that is not what was published.
        ValueError: a file that is not what it should be, by name, value and remedy.
        ImportError: an optional extra is missing.
    """
    text = str(source)
    if text.startswith(("torchvision:", "timm:")):
        return _backbone(text, weights)
    if weights is not None:
        raise ValueError(
            f"weights={str(weights)!r} is for torchvision:<model> and timm:<model>; {text} has "
            "its own"
        )
    if text in MODELS:
        if (kind := get_model(text).kind) != "embedder":
            raise ValueError(f"{text} is a {kind}: choose an embedder, such as mobilefacenet_casia")
        return _file(find(text, given))
    root = models_folder(given)
    paths = (Path(source), root / f"{text}.safetensors", root / f"{text}.onnx")
    if make := _extensions.find("embedders", text, *paths):
        return _checked(text, make())
    for path in paths:
        if path.is_file():
            return _file(path)
    embedders = ", ".join(n for n, entry in MODELS.items() if entry.kind == "embedder")
    raise ModelMissing(
        f"no embedder {text}: there is no such file, nothing of that name was imported into "
        f"{root}, and it is not one of "
        + _extensions.choices("embedders", embedders, "torchvision:<model>", "timm:<model>")
    )


def _checked(source: str, embedder: Any) -> CropEmbedder:
    """An embedder of another package, if it is one."""
    if not callable(embedder) or not (
        isinstance(getattr(embedder, "name", None), str)
        and isinstance(getattr(embedder, "digest", None), str)
        and isinstance(getattr(embedder, "dim", None), int)
    ):
        raise ValueError(
            f"{source} makes a {type(embedder).__name__}, which is no embedder: it must be called "
            "with crops, and have name and digest (text) and dim (a whole number)"
        )
    return cast(CropEmbedder, embedder)


def _file(path: Path) -> CropEmbedder:
    if path.suffix.lower() == ".onnx":
        return Onnx(path)
    if (stored := read_model(path)) is not None:
        return _trained(path, stored)
    state, notes = read_weights(path)
    if notes.get("format", "").startswith("metaface multitask"):
        return cast(CropEmbedder, JointFace.load(path))
    net, description = describe_weights(path, state, notes)
    digest = digest_weights(description.architecture, state)
    named = [entry.name for entry in MODELS.values() if entry.weights == digest]
    return Network(
        net,
        description.preprocessing,
        name=named[0] if named else path.stem,
        architecture=description.architecture,
    )


def describe_weights(
    path: Path, state: dict[str, Tensor], notes: dict[str, str]
) -> tuple[nn.Module, Description]:
    """The network that tensors make, and what is known of them.

    Args:
        path: the file they came from, for messages.
        state, notes: as :func:`metaface.nets.weights.read_weights` gives them.

    Raises:
        ValueError: an unknown architecture, or tensors or a description that do not fit.
    """
    if path.suffix.lower() == ".safetensors" or notes:
        if KEY not in notes:
            raise ValueError(
                f"{path} does not say what its weights are (no {KEY!r} in its metadata): import "
                "the original file with `metaface models import`"
            )
        try:
            description = Description.from_json(notes[KEY])
        except ValueError as error:
            raise ValueError(f"{path}: {error}; import the original file again") from error
        if description.architecture != "mobilefacenet":
            raise ValueError(
                f"{path} holds architecture {description.architecture!r}; this MetaFace knows "
                "mobilefacenet"
            )
        return build_mobilefacenet(state, path), description
    net = build_mobilefacenet(state, path)
    digest = digest_weights("mobilefacenet", state)
    entry = next((e for e in MODELS.values() if e.weights == digest), None)
    if entry and entry.preprocessing:
        return net, Description("mobilefacenet", entry.preprocessing, entry.sha256, entry.licence)
    channels = state["conv1.conv.weight"].shape[1]
    preprocessing = for_pictures(*net.image_size, channels, mirror=True)
    return net, Description("mobilefacenet", preprocessing, sha256_of(path))


def _trained(path: Path, stored: dict[str, Any]) -> Network:
    learner, spec = rebuild_model(path, stored)
    architecture = f"{spec.embedding}, norm {spec.norm}, {spec.channels}x{spec.image_size}"
    preprocessing = for_pictures(spec.image_size, spec.image_size, spec.channels)
    return Network(learner.embedding, preprocessing, name=path.stem, architecture=architecture)


def _backbone(name: str, weights: str | Path | None) -> Network:
    if weights is None or not Path(weights).is_file():
        raise ModelMissing(
            f"{name} needs the path of its weights, and weights={weights!r} is no file: without "
            "them it would be random"
        )
    net = Backbone(name.removeprefix("torchvision:"), "frozen", weights)
    return Network(
        net,
        for_pictures(*net.image_size, channels=3),
        name=f"{name} {Path(weights).name}",
        architecture=name,
    )
