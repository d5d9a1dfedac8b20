"""One backbone and several heads: everything about every face in one forward pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.multitask.backbone import SharedBackbone
from metaface.multitask.batch import Batch
from metaface.multitask.heads import HEADS, Alignment, Head, Loss
from metaface.multitask.heads.detection import decode_boxes, find_cells
from metaface.multitask.roi import RoIHead, fill_missing, jitter, make_frames
from metaface.nets import NormMode
from metaface.nets.weights import load_weights, read_weights, save_weights

FEATURES = 256  # of a face
_FORMAT = "metaface multitask 1"
_MOST = 64  # faces of a picture
_OVERLAP = 0.45  # IoU from which two boxes are one face


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network predicts of n pictures: F faces, by picture, the surest first.

    Attributes:
        image: int64 ``[F]``: the picture of each.
        boxes: ``[F, 4]`` left, top, width, height in pixels.
        landmarks: ``[F, 5, 2]`` x, y in pixels.
        scores: ``[F]``, 0..1; 1 where the faces were given.
        heads: by the name of each head its predictions: ``recognition`` embeddings ``[F, D]`` of
            unit length, ``pose`` ``[F, 3]`` degrees, ``expression`` and ``attributes`` logits;
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
        """The predictions of one picture."""
        rows = self.image == image
        heads = {
            name: values[image : image + 1] if name == "segmentation" else values[rows]
            for name, values in self.heads.items()
        }
        return Predictions(
            self.image[rows], self.boxes[rows], self.landmarks[rows], self.scores[rows], heads
        )


class MultiTask(nn.Module):
    """A shared network and the heads that read it; with one head, a single-task network.

    Args:
        heads: by the name of the task (see ``metaface.multitask.HEADS``) its options, such as
            ``{"detection": {}, "alignment": {}, "recognition": {"people": 500}}``.
        backbone: see :class:`SharedBackbone`.
        channels: of the shared map.
        features: of a face, as its heads share them.
        norm: see :class:`metaface.nets.Norm2d`. A ``frozen`` network needs its statistics
            refreshed after training, as ``fit`` does.
        weights: published ones, for the backbone.
        width: of the backbone's inside; see :class:`SharedBackbone`.

    Raises:
        ValueError: an unknown head, backbone or norm, or no head.
        TypeError: an option that a head does not have.

    Example:
        >>> import metaface as mf
        >>> scenes = mf.multitask.compose(mf.multitask.FaceSprites.procedural(4, 2, 64), 8, size=96)
        >>> model = mf.multitask.MultiTask({"detection": {}, "pose": {}}, channels=16, features=32)
        >>> run = mf.training.Run(progress=False, device="cpu")
        >>> history = mf.multitask.fit(model, mf.multitask.draws(scenes, 4), iterations=2, run=run)
        >>> predictions = model.predict(mf.multitask.to_tensor(scenes.images))
        >>> predictions.boxes.shape[1], sorted(predictions.heads)
        (4, ['pose'])
    """

    def __init__(
        self,
        heads: Mapping[str, Mapping[str, Any]],
        backbone: str = "small",
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
            "trunk": backbone,
            "channels": channels,
            "features": features,
            "norm": norm,
        }
        if width != 1:
            self.spec["width"] = width
        # files, and the digests that galleries are pinned to, call the backbone "trunk"
        self.trunk = SharedBackbone(backbone, channels, norm, weights, width)
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

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> MultiTask:
        """A fresh network as another one's ``spec`` describes it."""
        options = {name: value for name, value in spec.items() if name != "trunk"}
        return cls(backbone=spec["trunk"], **options)

    def forward(self, images: Tensor) -> Tensor:
        """The shared map ``[n, C, ceil(H / 4), ceil(W / 4)]`` of float ``[n, 3, H, W]``, 0..1."""
        maps: Tensor = self.trunk(images)
        return maps

    def head(self, name: str) -> Head:
        """The head of a task."""
        return cast(Head, self.heads[name])

    # -- learning -----------------------------------------------------------------------------

    def losses(self, batch: Batch, maps: Tensor | None = None) -> dict[str, Loss]:
        """The loss of each head, of what is known; features are read where faces truly are, with a
        little jitter (by torch's own generator) while training.

        Args:
            maps: what :meth:`forward` gave of the batch's images, if that is there already.
        """
        maps = self(batch.images) if maps is None else maps
        faces = batch.located.nonzero()[:, 0]
        image, boxes = batch.image[faces], batch.filled_boxes[faces]
        features = {}
        for region, tower in self.towers.items():
            frames = make_frames(region, boxes, batch.filled_landmarks[faces])
            frames = jitter(frames) if self.training else frames
            features[region] = tower(maps, image, frames) if len(faces) else None
        losses: dict[str, Loss] = {}
        for name in self.heads:
            head = self.head(name)
            given = maps if head.reads == "map" else features[head.reads]
            no_face = Loss(maps.new_zeros(()), 0)
            losses[name] = no_face if given is None else head.loss(head(given), batch, faces)
        return losses

    # -- predicting ---------------------------------------------------------------------------

    @torch.no_grad()
    def predict(
        self, images: Tensor, min_score: float = 0.3, maps: Tensor | None = None
    ) -> Predictions:
        """The faces in pictures, and what every head predicts of them, in one forward pass.

        Args:
            images: float ``[n, 3, H, W]`` in 0..1.
            min_score: the smallest score that counts as a face.
            maps: as for :meth:`losses`.

        Raises:
            ValueError: there is no detection head: give the faces to :meth:`describe`.
        """
        from torchvision.ops import batched_nms, clip_boxes_to_image  # it takes a second

        if "detection" not in self.heads:
            raise ValueError("this network has no detection head: describe() takes given faces")
        maps = self(images) if maps is None else maps
        detected = self.heads["detection"](maps)
        score, image, y, x = _find_peaks(detected[:, 0].sigmoid(), min_score)
        ends = decode_boxes(detected[image, 1:, y, x], y, x)
        ends = clip_boxes_to_image(ends, images.shape[-2:])
        kept = batched_nms(ends, score, image, _OVERLAP)
        kept = kept[torch.argsort(image[kept], stable=True)]  # by picture, then by score
        ends, image, y, x = ends[kept], image[kept], y[kept], x[kept]
        boxes = torch.cat([ends[:, :2], (ends[:, 2:] - ends[:, :2]).clamp_min(1)], 1)
        own = self._landmarks(maps, images, image, boxes, (y, x))
        return Predictions(
            image, boxes, own, score[kept], self._read_heads(maps, images, image, boxes, own)
        )

    @torch.no_grad()
    def describe(
        self,
        images: Tensor,
        image: Tensor,
        boxes: Tensor,
        landmarks: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> Predictions:
        """What every head predicts of faces that are known already.

        Args:
            images: float ``[n, 3, H, W]`` in 0..1.
            image: int64 ``[F]``, ascending: the picture of each face.
            boxes: ``[F, 4]`` left, top, width, height in pixels.
            landmarks: ``[F, 5, 2]`` to read the faces by; None: the network's own, or those of a
                mean face in the box where it has no alignment head.
            maps: as for :meth:`losses`.

        Example:
            >>> import torch
            >>> from metaface.multitask import MultiTask
            >>> model = MultiTask({"recognition": {"people": 10}, "pose": {}}).eval()
            >>> boxes = torch.tensor([[10.0, 10, 40, 50]])
            >>> faces = model.describe(torch.rand(1, 3, 96, 96), torch.tensor([0]), boxes)
            >>> faces.heads["pose"].shape, faces.heads["recognition"].shape
            (torch.Size([1, 3]), torch.Size([1, 128]))
        """
        maps = self(images) if maps is None else maps
        own = self._landmarks(maps, images, image, boxes, find_cells(boxes, maps.shape))
        by = own if landmarks is None else landmarks
        heads = self._read_heads(maps, images, image, boxes, by)
        shown = own if "alignment" in self.heads else by
        return Predictions(image, boxes, shown, boxes.new_ones(len(boxes)), heads)

    def _landmarks(
        self,
        maps: Tensor,
        images: Tensor,
        image: Tensor,
        boxes: Tensor,
        cells: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Landmarks ``[F, 5, 2]`` of the faces with centres in ``cells``; without an alignment
        head those of a mean face in each box."""
        if "alignment" not in self.heads:
            return fill_missing(boxes, boxes.new_full((len(boxes), 5, 2), torch.nan))[1]
        alignment = cast(Alignment, self.heads["alignment"])
        return alignment.landmarks(alignment(maps), images, image, *cells)

    def _read_heads(
        self, maps: Tensor, images: Tensor, image: Tensor, boxes: Tensor, landmarks: Tensor
    ) -> dict[str, Tensor]:
        """What the heads beside detection and alignment predict."""
        features = {
            region: tower(maps, image, make_frames(region, boxes, landmarks))
            for region, tower in self.towers.items()
            if len(image)
        }
        predicted: dict[str, Tensor] = {}
        for name in self.heads:
            head = self.head(name)
            if head.reads != "map":
                nobody = maps.new_zeros(0, self.spec["features"])
                predicted[name] = head(features.get(head.reads, nobody))
            elif name not in ("detection", "alignment"):
                predicted[name] = head(maps)
        if "recognition" in predicted:
            predicted["recognition"] = F.normalize(predicted["recognition"], dim=1)
        if "segmentation" in predicted:
            height, width = images.shape[-2:]
            predicted["segmentation"] = predicted["segmentation"][:, 0, :height, :width]
        return predicted

    def embedding(self) -> Embedding:
        """The recognition part as an embedding network, which shares its weights with this."""
        return Embedding(self)

    # -- files --------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the network to a safetensors file, whole or not at all."""
        notes = {"format": _FORMAT, "spec": json.dumps(self.spec)}
        save_weights(path, self.state_dict(), notes)

    def start(self, path: str | Path) -> MultiTask:
        """Take over from :meth:`save`'s file of another network what fits: its backbone, and of its
        heads and towers what has the same name and shape; the rest stays fresh.

        Returns:
            This network.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, or of another backbone.
        """
        other = MultiTask.load(path)
        for key in ("trunk", "channels", "norm", "width"):
            if other.spec.get(key) != self.spec.get(key):
                name = "backbone" if key == "trunk" else key
                raise ValueError(
                    f"{path} has another backbone than this network, "
                    f"{name}={other.spec.get(key)!r}: give one with {name}={self.spec.get(key)!r}"
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
        model = cls.from_spec(json.loads(notes["spec"]))
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

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> model = mf.multitask.MultiTask({"recognition": {"people": 10}}).eval()
        >>> embedding = model.embedding()
        >>> embedding(torch.rand(2, 3, 112, 112)).shape
        torch.Size([2, 128])
        >>> learner = mf.learners.Prototypical(embedding)
    """

    def __init__(self, model: MultiTask) -> None:
        super().__init__()
        if "recognition" not in model.heads:
            raise ValueError("this network has no recognition head to embed faces with")
        head = model.head("recognition")
        self.trunk = model.trunk  # files call the backbone so
        self.tower = cast(RoIHead, model.towers[head.reads])
        self.layer = cast(nn.Linear, head.layer)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.trunk(images.expand(-1, 3, -1, -1))
        embeddings: Tensor = self.layer(self.tower.embed_crops(maps))
        return embeddings


def _find_peaks(heat: Tensor, min_score: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The local maxima of ``[n, h, w]`` from ``min_score`` on, at most ``_MOST`` a picture, surest
    first: score, picture, row and column."""
    n, _, width = heat.shape
    top = F.max_pool2d(heat[:, None], 3, 1, 1)[:, 0]
    score, place = (heat * (heat == top)).flatten(1).topk(min(_MOST, heat[0].numel()), 1)
    image = torch.arange(n, device=heat.device)[:, None].expand_as(score)
    kept = score >= min_score
    place = place[kept]
    return score[kept], image[kept], place // width, place % width
