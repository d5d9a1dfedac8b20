"""Aligned crops -> embeddings of unit length."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from metaface.model import load_model
from metaface.nets import norm_mode
from metaface.nets.backbones import Backbone
from metaface.nets.fold import folded
from metaface.nets.weights import mobilefacenet, read_checkpoint, read_weights, weights_digest
from metaface.recognition import _onnx_file
from metaface.recognition.describe import KEY, Description
from metaface.recognition.models import MODELS, ModelMissing, find, folder, model, sha256_of
from metaface.recognition.preprocess import CROP, Preprocessing, for_pictures

BATCH = 16  # pictures at once: what MobileFaceNet is fastest at on a CPU (docs/models.md)

__all__ = ["Embedder", "Network", "Onnx", "Preprocessing", "load"]


class Embedder(Protocol):
    """What turns aligned crops into embeddings.

    Attributes:
        name: such as ``mobilefacenet_casia``.
        digest: hex; the same weights with the same preprocessing have the same.
        dim: length D of an embedding.
    """

    name: str
    digest: str
    dim: int

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """float32 ``[n, D]``, rows of unit length, of uint8 ``[n, 112, 112, 3]`` RGB crops."""
        ...


class _CropEmbedder:
    """Preprocessing, batches of bounded size, the mirrored crops, and unit length."""

    def __init__(self, name: str, preprocessing: Preprocessing, weights: str) -> None:
        self.name = name
        self.preprocessing = preprocessing
        self.weights = weights  # digest of the weights alone
        parts = ("metaface embedder 1", weights, preprocessing.to_json())
        self.digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        self.dim = 0

    def features(self, pictures: Tensor) -> Tensor:
        """float32 ``[n, D]``, of any length, of preprocessed ``[n, C, H, W]``, n <= BATCH."""
        raise NotImplementedError

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """float32 ``[n, D]``, rows of unit length, of uint8 ``[n, 112, 112, 3]`` RGB crops.

        Raises:
            ValueError: crops of another shape or dtype, or that get no direction (an embedding
                that is zero or not finite), by their number.
        """
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (CROP, CROP, 3):
            raise ValueError(
                f"crops must be uint8 [n, {CROP}, {CROP}, 3] RGB, got {crops.dtype} "
                f"{list(crops.shape)}: align faces with metaface.recognition.align"
            )
        out = np.empty((len(crops), self.dim), np.float32)
        step = BATCH // 2 if self.preprocessing.mirror else BATCH
        for start in range(0, len(crops), step):
            out[start : start + step] = self._sums(crops[start : start + step]).numpy()
        lengths = np.linalg.norm(out, axis=1, keepdims=True)
        bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
        if len(bad):
            raise ValueError(
                f"{self.name} gives crop {bad[0]} an embedding of length {lengths[bad[0], 0]}, "
                "which has no direction: leave that crop out"
            )
        out /= lengths
        return out

    def _sums(self, crops: np.ndarray) -> Tensor:
        pictures = self.preprocessing(crops)
        if not self.preprocessing.mirror:
            return self.features(pictures)
        both = self.features(torch.cat([pictures, pictures.flip(-1)]))
        return both[: len(crops)] + both[len(crops) :]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.dim}-d, {self.digest[:12]})"


class Network(_CropEmbedder):
    """An embedding network of MetaFace, frozen.

    A copy is made, in evaluation mode, with its normalisation folded into its convolutions; the
    network given is left as it is.

    Args:
        net: float ``[n, C, H, W]`` in 0..1 -> ``[n, D]``.
        preprocessing: what gives the network what it was trained on.
        name: what it is called.
        architecture: which network this is, for the digest: networks of the same tensors that
            compute something else need another.

    Raises:
        ValueError: a network that normalises by batch, or cannot take such pictures.
    """

    def __init__(
        self, net: nn.Module, preprocessing: Preprocessing, *, name: str, architecture: str
    ) -> None:
        if norm_mode(net) == "batch":
            raise ValueError(
                f"{name} normalises by the statistics of the batch (norm batch, transductive): a "
                "face's embedding would depend on the faces beside it, and one photograph cannot "
                "be identified. Train with --norm group or frozen"
            )
        super().__init__(name, preprocessing, weights_digest(architecture, net.state_dict()))
        self.device = torch.device("cpu")
        net = copy.deepcopy(net).cpu().eval()
        noise = np.random.default_rng(0).integers(0, 256, (2, CROP, CROP, 3), np.uint8)
        pictures = preprocessing(noise)
        try:
            self._net = folded(net, pictures)
            features = self.features(pictures)
        except (RuntimeError, ValueError) as error:  # torch's for shapes that do not fit
            raise ValueError(
                f"{name} does not take pictures of {list(pictures.shape[1:])}, which its "
                f"preprocessing gives: {error}"
            ) from error
        if features.ndim != 2:
            raise ValueError(
                f"{name} must give features [n, D], and gives {list(features.shape)}: flatten them"
            )
        self.dim = features.shape[1]

    def to(self, device: torch.device | str) -> Network:
        """Move to a device; crops go in and embeddings come out as before. Returns itself."""
        self.device = torch.device(device)
        self._net.to(self.device)
        return self

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Tensor:
        pictures = pictures.to(self.device, memory_format=torch.channels_last)
        found: Tensor = self._net(pictures)
        return found.float().cpu()


class Onnx(_CropEmbedder):
    """An ONNX embedder in InsightFace's convention, run by onnxruntime on the CPU.

    One input, float ``[n, 3, H, W]`` with n free or fixed; the first output is ``[n, D]``. What the
    preprocessing beside the file (``NAME.json``, written by ``metaface models import``) does not
    say is InsightFace's: RGB, resized to the model's size, (x - 127.5) / 127.5, or grey levels
    as they are where the graph itself starts with a subtraction and a multiplication.

    Args:
        path: the file. One whose tensors lie in other files is refused: what such a file names
            need not be its own.
        preprocessing: instead of that beside the file.
        name: what it is called; by default the file's stem.

    Raises:
        FileNotFoundError: no such file.
        ImportError: onnxruntime is missing.
        ValueError: not such a model, by name and reason.
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
        try:
            inside = _onnx_file.inspect(path)
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
                str(path), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a dozen kinds, without a common one
            raise ValueError(f"{path} is no model that onnxruntime can run: {error}") from error
        self._input, height, width, self._fixed = _input(path, self._session.get_inputs())
        self._output = self._session.get_outputs()[0].name
        sha256 = sha256_of(path)
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
                part = np.concatenate(
                    [part, np.zeros_like(given, shape=(step - rows, *part.shape[1:]))]
                )
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
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise ValueError(f"{path} must take one float input [n, 3, H, W], and takes {found}")
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


def load(
    source: str | Path,
    given: str | Path | None = None,
    *,
    weights: str | Path | None = None,
) -> _CropEmbedder:
    """An embedder by name or path; nothing is fetched over the network.

    Args:
        source: a registered name (``mobilefacenet_casia``) or one imported into the models folder;
            the path of a MobileFaceNet checkpoint or safetensors file, of a checkpoint of
            ``metaface train`` (its embedding, on crops resized to its pictures; by nature best
            where those were aligned alike), or of an ONNX embedder; ``torchvision:<model>`` or
            ``timm:<model>``.
        given: the folder of models; see :func:`metaface.recognition.models.folder`.
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
        if model(text).kind != "embedder":
            raise ValueError(
                f"{text} is a {model(text).kind}: choose an embedder, such as mobilefacenet_casia"
            )
        return _file(find(text, given))
    root = folder(given)
    for path in (Path(source), root / f"{text}.safetensors", root / f"{text}.onnx"):
        if path.is_file():
            return _file(path)
    embedders = ", ".join(n for n, entry in MODELS.items() if entry.kind == "embedder")
    raise ModelMissing(
        f"no embedder {text}: there is no such file, nothing of that name was imported into "
        f"{root}, and it is not one of {embedders}, torchvision:<model>, timm:<model>"
    )


def _file(path: Path) -> _CropEmbedder:
    if path.suffix.lower() == ".onnx":
        return Onnx(path)
    notes: dict[str, str] = {}
    if path.suffix.lower() != ".safetensors":
        loaded = read_checkpoint(path)
        if isinstance(loaded, dict) and loaded.get("spec"):
            return _trained(path)
    state, notes = read_weights(path)
    net, description = described(path, state, notes)
    digest = weights_digest(description.architecture, state)
    named = [entry.name for entry in MODELS.values() if entry.weights == digest]
    return Network(
        net,
        description.preprocessing,
        name=named[0] if named else path.stem,
        architecture=description.architecture,
    )


def described(
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
        return mobilefacenet(state, path), description
    net = mobilefacenet(state, path)
    digest = weights_digest("mobilefacenet", state)
    entry = next((e for e in MODELS.values() if e.weights == digest), None)
    if entry and entry.preprocessing:
        return net, Description("mobilefacenet", entry.preprocessing, entry.sha256, entry.licence)
    channels = state["conv1.conv.weight"].shape[1]
    preprocessing = for_pictures(*net.image_size, channels, mirror=True)
    return net, Description("mobilefacenet", preprocessing, sha256_of(path))


def _trained(path: Path) -> Network:
    learner, spec = load_model(path)
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
