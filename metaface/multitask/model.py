"""One trunk and several heads: everything about every face in one forward pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from metaface.multitask.backbone import SharedBackbone
from metaface.multitask.batch import Batch
from metaface.multitask.heads import HEADS, Alignment, Head, Loss
from metaface.multitask.heads.detection import cells, decoded
from metaface.multitask.roi import RoIHead, filled, frames_of, jittered
from metaface.nets import NormMode
from metaface.nets.weights import load_weights, read_weights, save_weights

FEATURES = 256  # of a face
_FORMAT = "metaface multitask 1"
_MOST = 64  # faces looked at in a picture
_OVERLAP = 0.45  # IoU from which two boxes are one face


@dataclass(frozen=True, eq=False)
class Predictions:
    """What was found in n pictures: F faces, those of a picture together, the surest first.

    Attributes:
        image: int64 ``[F]``: the picture of each.
        boxes: ``[F, 4]`` left, top, width, height in pixels.
        landmarks: ``[F, 5, 2]`` x, y in pixels.
        scores: ``[F]``, 0..1; 1 where the faces were given.
        heads: by the name of each head what it says: ``recognition`` embeddings ``[F, D]`` of unit
            length, ``pose`` ``[F, 3]`` degrees, ``expression`` and ``attributes`` logits;
            ``segmentation`` logits ``[n, H, W]``.
    """

    image: Tensor
    boxes: Tensor
    landmarks: Tensor
    scores: Tensor
    heads: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.image)

    def of(self, image: int) -> Predictions:
        """What was found in one picture."""
        rows = self.image == image
        said = {
            name: found[image : image + 1] if name == "segmentation" else found[rows]
            for name, found in self.heads.items()
        }
        return Predictions(
            self.image[rows], self.boxes[rows], self.landmarks[rows], self.scores[rows], said
        )


class MultiTask(nn.Module):
    """A shared network and the heads that read it; with one head, a single-task network.

    Args:
        heads: by the name of the task (see ``metaface.multitask.HEADS``) its options, such as
            ``{"detection": {}, "alignment": {}, "recognition": {"people": 500}}``.
        trunk: see :class:`SharedBackbone`.
        channels: of the shared map.
        features: of a face, as its heads share them.
        norm: see :class:`metaface.nets.Norm2d`. A ``frozen`` network needs its statistics
            refreshed after training, as ``fit`` does.
        weights: published ones, for the trunk.
        width: of the trunk's inside; see :class:`SharedBackbone`.

    Example::

        model = MultiTask({"detection": {}, "recognition": {"people": 500}})
        fit(model, draws(scenes, 32), minutes=10)
        found = model.predict(pictures(images))

    Raises:
        ValueError: an unknown head, trunk or norm, or no head.
        TypeError: an option that a head does not have.
    """

    def __init__(
        self,
        heads: Mapping[str, Mapping[str, Any]],
        trunk: str = "small",
        channels: int = 64,
        features: int = FEATURES,
        norm: NormMode = "group",
        weights: str | Path | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if not heads:
            raise ValueError(f"a network needs a head: one of {', '.join(HEADS)}")
        self.spec: dict[str, Any] = {
            "heads": {name: dict(options) for name, options in heads.items()},
            "trunk": trunk,
            "channels": channels,
            "features": features,
            "norm": norm,
        }
        if width != 1:
            self.spec["width"] = width
        self.trunk = SharedBackbone(trunk, channels, norm, weights, width)
        self.heads = nn.ModuleDict()
        self.towers = nn.ModuleDict()
        for name, options in heads.items():
            if name not in HEADS:
                raise ValueError(f"no head {name!r}: choose among {', '.join(HEADS)}")
            reads = options.get("reads", HEADS[name].reads)
            head = HEADS[name](channels if reads == "map" else features, **options)
            if head.reads != "map" and head.reads not in self.towers:
                self.towers[head.reads] = RoIHead(channels, features, head.reads, norm)
            self.heads[name] = head

    def forward(self, images: Tensor) -> Tensor:
        """The shared map ``[n, C, ceil(H / 4), ceil(W / 4)]`` of float ``[n, 3, H, W]``, 0..1."""
        found: Tensor = self.trunk(images)
        return found

    def head(self, name: str) -> Head:
        """The head of a task."""
        return cast(Head, self.heads[name])

    # -- learning -----------------------------------------------------------------------------

    def losses(self, batch: Batch, maps: Tensor | None = None) -> dict[str, Loss]:
        """The loss of each head, of what is known; faces are read where they truly are, with a
        little jitter (by torch's own generator) while training.

        Args:
            maps: what :meth:`forward` gave of the batch's images, if that is there already.
        """
        maps = self(batch.images) if maps is None else maps
        faces = batch.readable.nonzero()[:, 0]
        image, places, marks = batch.image[faces], batch.places[faces], batch.marks[faces]
        features = {}
        for reading, tower in self.towers.items():
            frames = frames_of(reading, places, marks)
            frames = jittered(frames) if self.training else frames
            features[reading] = tower(maps, image, frames) if len(faces) else None
        found: dict[str, Loss] = {}
        for name, module in self.heads.items():
            head = cast(Head, module)
            given = maps if head.reads == "map" else features[head.reads]
            if given is None:  # no face to read
                found[name] = Loss(maps.new_zeros(()), 0)
            else:
                found[name] = head.loss(head(given), batch, faces)
        return found

    # -- looking ------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(
        self, images: Tensor, least: float = 0.3, maps: Tensor | None = None
    ) -> Predictions:
        """The faces in pictures, and what every head says of them, in one forward pass.

        Args:
            images: float ``[n, 3, H, W]`` in 0..1.
            least: the smallest score that counts as a face.
            maps: as for :meth:`losses`.

        Raises:
            ValueError: there is no detection head: give the faces to :meth:`describe`.
        """
        if "detection" not in self.heads:
            raise ValueError("this network has no detection head: describe() takes given faces")
        maps = self(images) if maps is None else maps
        found = self.heads["detection"](maps)
        score, image, y, x = _peaks(found[:, 0].sigmoid(), least)
        ends = decoded(found[image, 1:, y, x], y, x)
        limits = ends.new_tensor([images.shape[-1], images.shape[-2]] * 2)
        ends = torch.minimum(ends.clamp_min(0), limits)
        kept = batched_nms(ends, score, image, _OVERLAP)
        kept = kept[torch.argsort(image[kept], stable=True)]  # by picture, then by score
        ends, image, y, x = ends[kept], image[kept], y[kept], x[kept]
        boxes = torch.cat([ends[:, :2], (ends[:, 2:] - ends[:, :2]).clamp_min(1)], 1)
        return self._describe(maps, images, image, boxes, None, score[kept], (y, x))

    @torch.no_grad()
    def describe(
        self,
        images: Tensor,
        image: Tensor,
        boxes: Tensor,
        landmarks: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> Predictions:
        """What every head says of faces that are known already.

        Args:
            images: float ``[n, 3, H, W]`` in 0..1.
            image: int64 ``[F]``, ascending: the picture of each face.
            boxes: ``[F, 4]`` left, top, width, height in pixels.
            landmarks: ``[F, 5, 2]`` to read the faces by; None: the network's own, or those of a
                mean face in the box where it has no alignment head.
            maps: as for :meth:`losses`.
        """
        maps = self(images) if maps is None else maps
        scores, at = boxes.new_ones(len(boxes)), cells(boxes, maps.shape)
        return self._describe(maps, images, image, boxes, landmarks, scores, at)

    def _describe(
        self,
        maps: Tensor,
        images: Tensor,
        image: Tensor,
        boxes: Tensor,
        landmarks: Tensor | None,
        scores: Tensor,
        at: tuple[Tensor, Tensor],
    ) -> Predictions:
        own = landmarks
        if "alignment" in self.heads:
            alignment = cast(Alignment, self.heads["alignment"])
            own = alignment.landmarks(alignment(maps), images, image, *at)
        if own is None:
            own = filled(boxes, boxes.new_full((len(boxes), 5, 2), torch.nan))[1]
        by = own if landmarks is None else landmarks
        features = {
            reading: tower(maps, image, frames_of(reading, boxes, by))
            for reading, tower in self.towers.items()
            if len(image)
        }
        said: dict[str, Tensor] = {}
        for name, module in self.heads.items():
            head = cast(Head, module)
            if head.reads != "map":
                nobody = maps.new_zeros(0, self.spec["features"])
                said[name] = head(features.get(head.reads, nobody))
            elif name not in ("detection", "alignment"):
                said[name] = head(maps)
        if "recognition" in said:
            said["recognition"] = F.normalize(said["recognition"], dim=1)
        if "segmentation" in said:
            height, width = images.shape[-2:]
            said["segmentation"] = said["segmentation"][:, 0, :height, :width]
        return Predictions(image, boxes, own, scores, said)

    def embedding(self) -> Embedding:
        """The recognition part as an embedding network, which shares its weights with this."""
        return Embedding(self)

    # -- files --------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the network to a safetensors file, whole or not at all."""
        notes = {"format": _FORMAT, "spec": json.dumps(self.spec)}
        save_weights(path, self.state_dict(), notes)

    def start(self, path: str | Path) -> MultiTask:
        """Take over from :meth:`save`'s file of another network what fits: its trunk, and of its
        heads and towers what has the same name and shape; the rest stays fresh.

        Returns:
            This network.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, or of another trunk.
        """
        other = MultiTask.load(path)
        for key in ("trunk", "channels", "norm", "width"):
            if other.spec.get(key) != self.spec.get(key):
                raise ValueError(
                    f"{path} has another trunk than this network, {key}={other.spec.get(key)!r}: "
                    f"give one with {key}={self.spec.get(key)!r}"
                )
        own = self.state_dict()
        fits = {n: v for n, v in other.state_dict().items() if n in own}
        self.load_state_dict(own | {n: v for n, v in fits.items() if own[n].shape == v.shape})
        return self

    @classmethod
    def load(cls, path: str | Path) -> MultiTask:
        """The network that :meth:`save` wrote, in evaluation mode.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is truncated, or not such a network.
        """
        state, notes = read_weights(path)
        if notes.get("format") != _FORMAT:
            raise ValueError(
                f"{path} holds no multi-task network: give what MultiTask.save or metaface "
                "multitask wrote"
            )
        model = cls(**json.loads(notes["spec"]))
        load_weights(model, state, path)
        return model.eval()


class Embedding(nn.Module):
    """The recognition part of a :class:`MultiTask`, of pictures that a face's crop fills: where a
    meta-learner may start from.

    Shape:
        float ``[n, 1 or 3, H, W]`` in 0..1, aligned as ``metaface.faces.alignment`` does (for a
        network that reads by box, cropped to 1.2 times the box) -> ``[n, D]``, of any length.

    Raises:
        ValueError: a network without recognition.
    """

    def __init__(self, model: MultiTask) -> None:
        super().__init__()
        if "recognition" not in model.heads:
            raise ValueError("this network has no recognition head to embed faces with")
        head = model.head("recognition")
        self.trunk = model.trunk
        self.tower = cast(RoIHead, model.towers[head.reads])
        self.layer = cast(nn.Linear, head.layer)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.trunk(images.expand(-1, 3, -1, -1))
        found: Tensor = self.layer(self.tower.crops(maps))
        return found


def _peaks(heat: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The local maxima of ``[n, h, w]`` from ``least`` on, at most ``_MOST`` a picture, surest
    first: score, picture, row and column."""
    n, _, width = heat.shape
    top = F.max_pool2d(heat[:, None], 3, 1, 1)[:, 0]
    score, place = (heat * (heat == top)).flatten(1).topk(min(_MOST, heat[0].numel()), 1)
    image = torch.arange(n, device=heat.device)[:, None].expand_as(score)
    kept = score >= least
    place = place[kept]
    return score[kept], image[kept], place // width, place % width
