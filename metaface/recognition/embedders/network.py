"""Embedding networks of MetaFace, frozen."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from metaface.nets import merge_low_rank, norm_mode
from metaface.nets.fold import fold_norms
from metaface.nets.weights import digest_weights
from metaface.recognition.embedders.base import CropEmbedder
from metaface.recognition.preprocess import CROP, Preprocessing


class Network(CropEmbedder):
    """An embedding network of MetaFace, frozen.

    A copy is made, in evaluation mode, with its normalisation folded into its convolutions; the
    network given is left as it is.

    Args:
        net: float ``[n, C, H, W]`` in 0..1 -> ``[n, D]``.
        preprocessing: what gives the network what it was trained on.
        name: what it is called.
        architecture: which network this is, for the digest: networks of the same tensors that
            compute something else need another.

    Attributes:
        network: the copy, not folded: what a learner may adapt.

    Raises:
        ValueError: a network that normalises by batch, or cannot take such pictures.

    Example:
        >>> import metaface as mf
        >>> import numpy as np
        >>> from metaface.recognition import Network, Preprocessing
        >>> small = Preprocessing(size=(28, 28))
        >>> embed = Network(mf.nets.Conv4(), small, name="toy", architecture="conv4")
        >>> embed(np.zeros((2, 112, 112, 3), np.uint8)).shape
        (2, 64)
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
        super().__init__(name, preprocessing, digest_weights(architecture, net.state_dict()))
        self.device = torch.device("cpu")
        net = merge_low_rank(copy.deepcopy(net).cpu().eval())
        self.network = net
        noise = np.random.default_rng(0).integers(0, 256, (2, CROP, CROP, 3), np.uint8)
        pictures = preprocessing(noise)
        try:
            self._net = fold_norms(net, pictures)
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
        features: Tensor = self._net(pictures)
        return features.float().cpu()
