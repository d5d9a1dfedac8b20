"""Any torchvision classification network as an embedding."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from metaface.nets.norm import Norm2d, NormMode


class Backbone(nn.Module):
    """A torchvision network without its classifier: the input of its last linear layer.

    Batch normalisation becomes :class:`metaface.nets.Norm2d` in the mode asked for; dropout and
    stochastic depth are taken out, so that adapting twice gives the same answer.

    Args:
        name: a name of ``torchvision.models.list_models()``, such as ``resnet18``.
        norm: see :class:`metaface.nets.Norm2d`.
        weights: a torchvision weights name (``"DEFAULT"``), which torchvision downloads, or None.

    Shape:
        float ``[n, 1 or 3, H, W]`` in 0..1 -> ``[n, D]``, H and W as the network takes them.

    Raises:
        ValueError: an unknown name, or a network that does not end in a linear layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str = "resnet18", norm: NormMode = "frozen", weights: str | None = None
    ) -> None:
        super().__init__()
        if name not in torchvision.models.list_models(module=torchvision.models):
            raise ValueError(
                f"torchvision has no classification network {name!r}: "
                "see torchvision.models.list_models()"
            )
        self.net = torchvision.models.get_model(name, weights=weights)
        linears = [n for n, m in self.net.named_modules() if isinstance(m, nn.Linear)]
        if not linears:
            raise ValueError(f"{name} has no linear classifier to take off: choose another network")
        self.net.set_submodule(linears[-1], nn.Identity())
        for path, module in list(self.net.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                self.net.set_submodule(path, _converted(module, norm))
            elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
                self.net.set_submodule(path, _Mean())  # vmap has no rule for the pooling
            elif isinstance(module, nn.Dropout | torchvision.ops.StochasticDepth):
                self.net.set_submodule(path, nn.Identity())
        # of ImageNet, which torchvision's weights expect
        self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1))
        self.register_buffer("std", torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        rgb = images.expand(-1, 3, -1, -1)
        features: Tensor = self.net((rgb - self.mean) / self.std)
        return features


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1), keepdim=True)


def _converted(old: nn.BatchNorm2d, mode: NormMode) -> Norm2d:
    new = Norm2d(old.num_features, mode)
    new.load_state_dict(old.state_dict(), strict=mode == "frozen")
    return new
