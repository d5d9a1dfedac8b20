"""Any torchvision or timm classification network as an embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from metaface.nets.norm import Norm2d, NormMode
from metaface.nets.weights import load_weights, read_weights

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Backbone(nn.Module):
    """A torchvision or timm network without its classifier: what its last linear layer takes.

    Batch normalisation becomes :class:`metaface.nets.Norm2d` in the mode asked for; dropout and
    stochastic depth are taken out, so that adapting twice gives the same answer.

    Args:
        name: a name of ``torchvision.models.list_models()``, such as ``resnet18``; or ``timm:``
            and one of ``timm.list_models()`` (needs ``pip install 'metaface[timm]'``).
        norm: see :class:`metaface.nets.Norm2d`.
        weights: None; the path of a state dict (torch checkpoint or safetensors) of the whole
            network or of all but its classifier; or a name, which torchvision or timm
            *downloads*: torchvision's weights name or, for timm, ``"DEFAULT"``.

    Shape:
        float ``[n, 1 or 3, H, W]`` in 0..1 -> ``[n, D]``, H and W as the network takes them;
        ``image_size`` is what its published weights were trained at.

    Raises:
        ValueError: an unknown name, a network that does not end in a linear layer, or weights
            that do not fit.
        ImportError: timm is asked for and missing.

    Example:
        >>> import torch
        >>> from metaface.nets import Backbone
        >>> net = Backbone("resnet18")  # random weights; weights="DEFAULT" downloads torchvision's
        >>> net(torch.rand(2, 3, 64, 64)).shape, net.image_size
        (torch.Size([2, 512]), (224, 224))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str = "resnet18", norm: NormMode = "frozen", weights: str | Path | None = None
    ) -> None:
        super().__init__()
        path = Path(weights) if weights is not None and Path(weights).is_file() else None
        named = str(weights) if weights is not None and path is None else None
        make = _make_timm if name.startswith("timm:") else _make_torchvision
        self.net, classifier, self.image_size, (mean, std) = make(name, named)
        if path is not None:
            _load(self.net, classifier, path)
        self.net.set_submodule(classifier, nn.Identity())
        make_adaptable(self.net, norm)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        rgb = images.expand(-1, 3, -1, -1)
        features: Tensor = self.net((rgb - self.mean) / self.std)
        return features


def make_adaptable(net: nn.Module, norm: NormMode = "frozen") -> nn.Module:
    """``net``, changed in place, as learners take it: adapting twice gives the same answer.

    ``nn.BatchNorm2d`` becomes :class:`metaface.nets.Norm2d` of its weights and statistics; dropout
    and stochastic depth are taken out. Other batch normalisation stays, and learners refuse it.

    Args:
        net: float ``[n, C, H, W]`` in 0..1 -> ``[n, D]``.
        norm: see :class:`metaface.nets.Norm2d`.

    Returns:
        ``net`` itself.

    Example:
        >>> import torch
        >>> from metaface import nets
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Flatten())
        >>> type(nets.make_adaptable(net)[1]).__name__, nets.norm_mode(net)
        ('Norm2d', 'frozen')
        >>> net(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 288])
    """
    for place, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            net.set_submodule(place, _convert(module, norm))
        elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            net.set_submodule(place, _Mean())  # vmap has no rule for the pooling
        elif isinstance(module, _DropoutNd) or type(module).__name__ in _DEPTH:
            net.set_submodule(place, _NoDropout())
        elif isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0
    return net


_DEPTH = ("StochasticDepth", "DropPath")  # torchvision's (a second to import) and timm's

# network, name of its classifier, size (height, width) and (mean, std) its weights were trained at
_Made = tuple[nn.Module, str, tuple[int, int], tuple[tuple[float, ...], tuple[float, ...]]]


def _make_torchvision(name: str, weights: str | None) -> _Made:
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"torchvision has no classification network {name!r}: "
            "see torchvision.models.list_models()"
        )
    known = [w.name for w in torchvision.models.get_model_weights(name)]
    if weights not in (None, "DEFAULT", *known):
        raise ValueError(
            f"weights={weights!r}: no such file, and torchvision has DEFAULT, {', '.join(known)}"
        )
    net = torchvision.models.get_model(name, weights=weights)
    linears = [n for n, m in net.named_modules() if isinstance(m, nn.Linear)]
    if not linears:
        raise ValueError(f"{name} has no linear classifier to take off: choose another network")
    return net, linears[-1], (224, 224), _IMAGENET


def _make_timm(name: str, weights: str | None) -> _Made:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"{name} needs timm: pip install 'metaface[timm]'") from error
    if weights not in (None, "DEFAULT"):
        raise ValueError(f"weights={weights!r}: no such file; give a path, or 'DEFAULT' for timm's")
    plain = name.removeprefix("timm:")
    if not timm.is_model(plain):
        raise ValueError(f"timm has no network {plain!r}: see timm.list_models()")
    net: Any = timm.create_model(plain, pretrained=weights is not None)
    about = net.pretrained_cfg
    classifier = about.get("classifier")
    if not isinstance(classifier, str) or not isinstance(
        dict(net.named_modules()).get(classifier), nn.Linear
    ):
        raise ValueError(f"{name} has no linear classifier to take off: choose another network")
    return net, classifier, tuple(about["input_size"][1:]), (about["mean"], about["std"])


def _load(net: nn.Module, classifier: str, path: Path) -> None:
    """Weights of the whole network; the classifier's own, of whatever size, are not needed."""
    state, _ = read_weights(path)
    mark = classifier + "."
    own = {n: t for n, t in net.state_dict().items() if n.startswith(mark)}
    load_weights(net, {n: t for n, t in state.items() if not n.startswith(mark)} | own, path)


class _NoDropout(nn.Identity):
    p = 0.0  # timm's attention asks for it


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1), keepdim=True)


def _convert(old: nn.BatchNorm2d, mode: NormMode) -> nn.Module:
    new = Norm2d(old.num_features, mode, affine=old.affine)
    state = old.state_dict() if old.affine else old.state_dict() | {"bias": new.bias.detach()}
    new.load_state_dict(state, strict=mode in ("frozen", "pinned"))
    if mode in ("frozen", "pinned"):
        new.running_var += old.eps - 1e-5  # the one eps of ours: the same number under the root
    act = getattr(old, "act", None)  # timm's normalisation with an activation in it
    return new if act is None else nn.Sequential(new, act)
