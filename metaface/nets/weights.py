"""Published weights: read from a torch checkpoint or a safetensors file, and put into a network."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from metaface import _torch_file
from metaface._atomic import replacing
from metaface._digest import content_digest
from metaface.nets.mobilefacenet import MobileFaceNet

_DIGEST = "metaface_sha256"  # in the metadata of safetensors files that MetaFace writes
_BEFORE = ({"metaface"}, {"format", "spec"})  # all the metadata there was, when there was no digest


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by name, without running any code it may hold.

    Args:
        path: a safetensors file, or a torch checkpoint (told apart by content): a bare state dict,
            or one under ``net_state_dict`` or ``state_dict``.

    Returns:
        The tensors, on the CPU, and the safetensors metadata (empty for a torch checkpoint).

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, damaged, of another format, not finite, or a pickle that needs code
            to run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give the path of a file of weights")
    state, notes = _safetensors(path) if is_safetensors(path) else (_checkpoint(path), {})
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ValueError(f"{path}: {name} is no plain tensor: save state_dict() of a network")
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} holds infinite numbers or NaN; get the file again")
    return state, notes


def find_not_finite(module: nn.Module) -> str | None:
    """The name of a weight or buffer that holds infinite numbers or NaN; None: all are finite.

    Example:
        >>> import torch
        >>> from metaface import nets
        >>> net = nets.Conv4()
        >>> print(nets.find_not_finite(net))
        None
        >>> _ = torch.nn.init.constant_(net.convs[0].weight, torch.nan)
        >>> nets.find_not_finite(net)
        'convs.0.weight'
    """
    held = {n: t.detach() for n, t in module.state_dict().items() if t.numel()}
    tensors = {n: t for n, t in held.items() if t.is_floating_point()}
    if not tensors or nn.utils.get_total_norm(list(tensors.values()), math.inf).isfinite():
        return None
    return next(name for name, tensor in tensors.items() if not tensor.isfinite().all())


def is_safetensors(path: str | Path) -> bool:
    """By its ending, or its first bytes: the header's length, then its JSON."""
    with open(path, "rb") as file:
        return Path(path).suffix == ".safetensors" or file.read(9)[8:] == b"{"


def read_format(path: str | Path) -> str:
    """What a safetensors file says it holds, from its header alone; "" where it does not say.

    Raises:
        ValueError: truncated, or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format", "")
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: SafetensorError) -> ValueError:
    return ValueError(
        f"{path} is truncated or not a safetensors file ({error}): get or import it again"
    )


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118 - not a dict
            notes = dict(file.metadata() or {})
    except SafetensorError as error:
        raise _unreadable(path, error) from error
    digest = notes.pop(_DIGEST, None)
    if digest is None:
        ours = "metaface" in notes or notes.get("format", "").startswith("metaface")
        always = notes.get("format") == "metaface learner"  # was never without a digest
        damaged = ours and (always or set(notes) not in _BEFORE)
    else:
        damaged = digest != content_digest([state, notes])
    if damaged:
        raise ValueError(
            f"{path} was damaged after it was written: its checksum does not fit its content; get, "
            "import or train it again"
        )
    return state, notes


def save_weights(path: str | Path, state: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write a safetensors file with a checksum of its tensors and metadata, whole or not at all.

    Args:
        path: the file.
        state: tensors by name.
        notes: the metadata.

    Raises:
        OSError: the folder cannot be written, or is full; ``path`` is as it was.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    data = to_bytes(plain, {**notes, _DIGEST: content_digest([plain, notes])})
    size = 8 + int.from_bytes(data[:8], "little")
    # safetensors writes its metadata in any order, and equal weights are to be equal files
    header = json.dumps(json.loads(data[8:size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    with replacing(Path(path)) as file:
        file.write(len(header).to_bytes(8, "little") + header + data[size:])


def _checkpoint(path: Path) -> dict[str, Tensor]:
    loaded = read_checkpoint(path)
    for key in ("net_state_dict", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(
            f"{path} holds no state dict (names and their tensors): save state_dict() alone"
        )
    return {str(name): tensor for name, tensor in loaded.items()}


def read_checkpoint(path: str | Path) -> Any:
    """What a torch checkpoint holds, on the CPU (``weights_only=True``).

    Raises:
        ValueError: truncated, of another format, or a pickle that needs code to run.
    """
    try:
        return _torch_file.read(path)
    except _torch_file.Unsafe as error:
        raise ValueError(
            f"{path} is a pickle that needs more than tensors, numbers and strings, which may "
            f"run any code; it is not loaded ({error}). Save its state_dict() alone"
        ) from error
    except (_torch_file.Unreadable, OSError) as error:
        raise ValueError(
            f"{path} is truncated or not a file of weights ({error}): get it again"
        ) from error


def load_weights(net: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Put tensors into ``net``, every one in its place.

    Raises:
        ValueError: what is missing, unknown or of another shape, by name; ``path`` is named.
    """
    own = net.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    shapes = [
        f"{name} is {list(state[name].shape)} and not {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    faults = [
        f"{what}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if names[3:] else "")
        for what, names in (("missing", missing), ("unknown", unknown), ("other shape", shapes))
        if names
    ]
    if faults:
        raise ValueError(f"{path} does not fit {type(net).__name__} ({'; '.join(faults)})")
    net.load_state_dict(dict(state))


def pretrained(path: str | Path) -> MobileFaceNet:
    """A MobileFaceNet with published weights, by path.

    Args:
        path: a torch checkpoint, a bare state dict or one under ``net_state_dict``, in the key
            names of Xiaoccer/MobileFaceNet_Pytorch; or the safetensors file that
            ``metaface models import`` made of it. No code in it is run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no such checkpoint, by name, with what did not fit.

    Example:
        >>> import torch
        >>> from metaface import nets
        >>> torch.save(nets.MobileFaceNet(image_size=(112, 96)).state_dict(), "mobilefacenet.pt")
        >>> net = nets.pretrained("mobilefacenet.pt")
        >>> net.image_size, net.features
        ((112, 96), 128)
    """
    return build_mobilefacenet(read_weights(path)[0], path)


def build_mobilefacenet(state: Mapping[str, Tensor], path: str | Path) -> MobileFaceNet:
    """A MobileFaceNet of the size that the tensors ``state`` of the file ``path`` have."""
    try:
        last = state["linear7.conv.weight"].shape[-2:]
        net = MobileFaceNet(
            state["conv1.conv.weight"].shape[1],
            (int(last[0]) * 16, int(last[1]) * 16),
            features=len(state["linear1.conv.weight"]),
        )
        load_weights(net, state, path)
    except KeyError as error:
        raise ValueError(
            f"{path} is not a MobileFaceNet checkpoint: no tensor {error} in it"
        ) from error
    except Exception as error:  # shapes that no network can have
        raise ValueError(f"{path} is not a MobileFaceNet checkpoint: {error}") from error
    return net.eval()


def digest_weights(architecture: str, state: Mapping[str, Tensor]) -> str:
    """sha256 of a network: its architecture and its tensors, whatever file they came in.

    Counters of batches seen are left out: they change no output.
    """
    digest = hashlib.sha256(architecture.encode())
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):
            continue
        array: np.ndarray = state[name].detach().cpu().contiguous().numpy()
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
