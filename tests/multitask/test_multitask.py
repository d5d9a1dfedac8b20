"""One shared network, many tasks: each head against an oracle, and all of them together."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers import fit, patterns, train
from PIL import Image
from shared_scenes import scenes
from torch import nn
from torch.nn import functional as F
from torchvision.ops import box_convert

from metaface import checkpoint
from metaface.cli import main
from metaface.experiments import protocols
from metaface.faces.alignment import SIDE, TEMPLATE, fit_similarity
from metaface.faces.choose import pick_all
from metaface.faces.detections import overlaps
from metaface.learners import LEARNERS
from metaface.learners.spec import ModelSpec, save_model
from metaface.multitask import (
    HEADS,
    Batch,
    FaceAnnotations,
    MultiTask,
    PCGrad,
    SharedBackbone,
    Uncertainty,
    Weighting,
    draws,
    measure,
    to_tensor,
)
from metaface.multitask.heads.alignment import heat_map_loss, soft_argmax
from metaface.multitask.heads.detection import (
    decode_boxes,
    find_cells_around,
    find_inside,
    focal_loss,
    giou_loss,
    make_heat_map,
)
from metaface.multitask.heads.recognition import Recognition
from metaface.multitask.roi import (
    PATCH,
    box_frames,
    fill_missing,
    jitter,
    landmark_frames,
    make_frames,
    resample,
    roi_align,
    to_frames,
    to_pixels,
)
from metaface.multitask.training import refresh
from metaface.nets import MobileFaceNet, NormMode
from metaface.recognition import Recognizer, detectors
from metaface.recognition.embedded_faces import EmbeddedFaces, embed_faces
from metaface.recognition.embedders.shared import JointFace
from metaface.training import Interrupted

ALL = {
    "detection": {},
    "alignment": {},
    "segmentation": {},
    "recognition": {"people": 4},
    "pose": {},
    "expression": {"classes": 2},
    "attributes": {"count": 2},
}


def forgotten(labelled: FaceAnnotations, but: str = "") -> FaceAnnotations:
    """``labelled`` with nothing known but the pictures, and ``but``."""
    nothing = {
        "boxes": np.full_like(labelled.boxes, np.nan),
        "landmarks": np.full_like(labelled.landmarks, np.nan),
        "pose": np.full_like(labelled.pose, np.nan),
        "person": np.full_like(labelled.person, -1),
        "expression": np.full_like(labelled.expression, -1),
        "attributes": np.full_like(labelled.attributes, np.nan),
        "masks": np.full_like(labelled.masks, 255),
        "complete": np.zeros_like(labelled.complete),
    }
    return replace(labelled, **{n: v for n, v in nothing.items() if n not in but.split()})


def small(heads: dict | None = None, seed: int = 0, **options: object) -> MultiTask:
    torch.manual_seed(seed)
    return MultiTask(ALL if heads is None else heads, channels=16, features=32, **options)


# -- the backbone --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["small", "mobilefacenet", "conv4", "torchvision:shufflenet_v2_x0_5"]
)
def test_trunks_give_a_map_at_stride_4(name: str) -> None:
    trunk = SharedBackbone(name, 8).eval()
    with torch.no_grad():
        assert trunk(torch.rand(2, 3, 64, 48)).shape == (2, 8, 16, 12)
        assert trunk(torch.rand(1, 3, 37, 50)).shape == (1, 8, 10, 13)


def test_a_picture_is_seen_alone() -> None:
    trunk = SharedBackbone(channels=8).train()
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(trunk(images)[1:2], trunk(images[1:2]), atol=1e-5)
    with pytest.raises(ValueError, match="beside it"):
        SharedBackbone(norm="batch")


def test_cells_lie_over_their_pixels() -> None:
    torch.manual_seed(0)
    trunk = SharedBackbone("small", 8, norm="pinned").double().eval()
    for side in trunk.sides[1:]:  # the finest map alone
        nn.init.zeros_(side.weight)
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    for row, column in ((5, 9), (8, 3)):
        (slope,) = torch.autograd.grad(trunk(image)[0, :, row, column].sum(), image)
        mass = slope.abs().sum((0, 1))
        y = float((mass.sum(1) * (torch.arange(64) + 0.5)).sum() / mass.sum())
        x = float((mass.sum(0) * (torch.arange(64) + 0.5)).sum() / mass.sum())
        assert abs(y - (4 * row + 2)) < 2 and abs(x - (4 * column + 2)) < 2


@pytest.mark.parametrize("norm", ["pinned", "group"])
def test_published_weights_start_the_trunk(norm: NormMode, tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = MobileFaceNet(image_size=(112, 96)).eval()
    torch.save(published.state_dict(), tmp_path / "net.pt")
    trunk = SharedBackbone("mobilefacenet", 8, norm, tmp_path / "net.pt").eval()
    images = torch.rand(1, 3, 112, 96)
    with torch.no_grad():
        x = published.dw_conv1(published.conv1((images * 255 - 127.5) / 128))
        same = torch.allclose(trunk.body(images)[-1], published.blocks(x), atol=1e-5)
    assert same == (norm == "pinned")
    assert torch.equal(trunk.body.first[0].conv.weight, published.conv1.conv.weight)
    with pytest.raises(ValueError, match="none for a backbone 'small'"):
        SharedBackbone("small", weights=tmp_path / "net.pt")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no backbone 'smal'.*small"):
        SharedBackbone("smal")
    with pytest.raises(ValueError, match="no head 'poses'.*pose"):
        MultiTask({"poses": {}})
    with pytest.raises(ValueError, match="needs a head"):
        MultiTask({})
    with pytest.raises(ValueError, match="reads='nose'.*landmarks"):
        MultiTask({"pose": {"reads": "nose"}})


# -- reading faces ----------------------------------------------------------------------------


def test_upright_frames_read_as_roi_align_does() -> None:
    torch.manual_seed(0)
    maps = torch.rand(2, 3, 16, 20)
    boxes = torch.tensor(
        [[20.5, 8.2, 24.0, 24.0], [12.0, 10.0, 30.0, 30.0], [30.0, 20.0, 9.0, 12.0]]
    )
    image = torch.tensor([0, 1, 1])
    frames = box_frames(boxes)
    ends = torch.cat([frames[:, :2] - frames[:, 2:3], frames[:, :2] + frames[:, 2:3]], 1)
    want = torchvision.ops.roi_align(
        maps, torch.cat([image[:, None].float(), ends], 1), 7, 1 / 4, 2, aligned=True
    )
    assert torch.allclose(roi_align(maps, image, frames, 7), want, atol=1e-5)


def test_landmark_frames_are_those_of_the_aligned_crops() -> None:
    points = torch.from_numpy(scenes().landmarks.astype(np.float64))
    found = landmark_frames(points)
    matrix = np.concatenate(
        [fit_similarity(points.numpy()), np.tile([[[0, 0, 1.0]]], (len(points), 1, 1))], 1
    )
    back = np.linalg.inv(matrix)
    middle = back @ np.array([SIDE / 2, SIDE / 2, 1])
    right = back @ np.array([SIDE, SIDE / 2, 1])
    assert np.allclose(found[:, :2], middle[:, :2])
    assert np.allclose(found[:, 2:], (right - middle)[:, :2])


def test_reading_by_landmarks_undoes_a_turn() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    turn = 0.4
    ramp = ((x - 16) * math.cos(turn) + (y - 16) * math.sin(turn))[None, None]
    template = torch.tensor(TEMPLATE, dtype=torch.float32) / SIDE * 40 - 20
    cos, sin = math.cos(turn), math.sin(turn)
    points = template @ torch.tensor([[cos, sin], [-sin, cos]]) + 66
    patch = roi_align(ramp, torch.tensor([0]), landmark_frames(points[None]), 4)[0, 0]
    assert torch.allclose(patch, patch[0].expand(4, 4), atol=1e-4)  # the same in every row
    assert torch.allclose(patch[0].diff(), torch.full((3,), 40 / 4 / 4), atol=1e-4)


def test_whole_maps_are_read_as_by_their_frame() -> None:
    maps = torch.rand(2, 3, 28, 28)
    frames = torch.tensor([[56.0, 56.0, 56.0, 0.0]]).expand(2, 4)
    inner = roi_align(maps, torch.arange(2), frames, 14)[
        ..., 1:-1, 1:-1
    ]  # beyond it read sees zero
    assert torch.allclose(resample(maps, 14)[..., 1:-1, 1:-1], inner, atol=1e-5)


def test_what_is_not_known_is_looked_for_where_it_lies() -> None:
    labelled = scenes()
    boxes, points = torch.from_numpy(labelled.boxes), torch.from_numpy(labelled.landmarks)
    nan_boxes, nan_points = torch.full_like(boxes, math.nan), torch.full_like(points, math.nan)
    assert all(
        torch.equal(a, b) for a, b in zip(fill_missing(boxes, points), (boxes, points), strict=True)
    )
    guess = fill_missing(nan_boxes, points)[0]
    overlap = torchvision.ops.box_iou(
        box_convert(guess, "xywh", "xyxy"), box_convert(boxes, "xywh", "xyxy")
    ).diagonal()
    assert float(overlap.mean()) > 0.6
    away = (fill_missing(boxes, nan_points)[1] - points).norm(dim=2) / boxes[:, 2:].mean(1)[:, None]
    assert float(away.mean()) < 0.15
    assert fill_missing(nan_boxes, nan_points)[0].isnan().all()


def test_jitter_is_small_and_comes_from_the_seed() -> None:
    frames = torch.tensor([[50.0, 40.0, 20.0, 5.0]]).expand(2000, 4)
    torch.manual_seed(1)
    first = jitter(frames)
    torch.manual_seed(1)
    assert torch.equal(first, jitter(frames))
    assert torch.allclose(first.mean(0), frames[0], atol=0.2)
    assert 0.5 < float(first[:, 0].std()) < 2
    wide = (jitter(frames, 3.0) - frames).norm(dim=1)
    assert 1.2 < float(wide.mean() / (first - frames).norm(dim=1).mean()) < 1.8  # 0 to 3 times
    assert float(wide.min()) < 0.02


def test_points_in_a_frame_go_along_its_axes() -> None:
    labelled = scenes()
    points = labelled.landmarks.astype(np.float64)
    torch.manual_seed(0)
    frames = jitter(landmark_frames(torch.from_numpy(points)))
    assert np.allclose(to_pixels(frames, torch.from_numpy(_inside(frames, points))), points)
    assert np.allclose(to_frames(frames, torch.from_numpy(points)), _inside(frames, points))
    template = torch.from_numpy(TEMPLATE * 2 / SIDE - 1).expand(len(points), 5, 2)
    assert np.allclose(landmark_frames(to_pixels(frames, template)), frames)


def _inside(frames: torch.Tensor, points: np.ndarray) -> np.ndarray:
    """Where ``landmarks`` lie in ``frames``, -1..1. As complex numbers a frame is z -> middle +
    half * z, which is turned round by a division."""
    middle, half = (frames.numpy()[:, i] + 1j * frames.numpy()[:, i + 1] for i in (0, 2))
    there = (points[..., 0] + 1j * points[..., 1] - middle[:, None]) / half[:, None]
    return np.stack([there.real, there.imag], 2)


# -- heads, each against an oracle ------------------------------------------------------------


def test_giou_against_torchvision() -> None:
    torch.manual_seed(0)
    a, b = (box_convert(torch.rand(50, 4) * 40 + 1, "xywh", "xyxy") for _ in range(2))
    want = torchvision.ops.generalized_box_iou_loss(a, b)
    assert torch.allclose(giou_loss(a, b), want, atol=1e-5)


def test_focal_loss_by_hand() -> None:
    logits = torch.logit(torch.tensor([[[0.2, 0.7, 0.4]]]))
    heat = torch.tensor([[[1.0, 0.5, 0.0]]])
    at = -(0.8**2) * math.log(0.2)
    near, far = -(0.5**4) * 0.7**2 * math.log(0.3), -(0.4**2) * math.log(0.6)
    everywhere = torch.ones(1, 1, 3, dtype=torch.bool)
    assert float(focal_loss(logits, heat, everywhere)) == pytest.approx(at + near + far, rel=1e-5)
    assert float(focal_loss(logits, heat, ~everywhere)) == pytest.approx(at, rel=1e-5)


def test_the_heat_map_is_one_at_each_centre() -> None:
    boxes = torch.tensor([[8.0, 4.0, 24.0, 32.0], [20.0, 30.0, 12.0, 12.0]])
    heat = make_heat_map(boxes, torch.tensor([0, 0]), torch.Size((2, 5, 16, 16)))
    assert {tuple(p) for p in (heat == 1).nonzero().tolist()} == {(0, 5, 5), (0, 9, 6)}
    assert heat[1].sum() == 0 and 0 < heat[0, 5, 6] < heat[0, 6, 5] < 1  # taller than wide
    inside = find_inside(boxes, torch.tensor([0, 1]), torch.Size((2, 5, 16, 16)))
    assert inside[0].sum() == 6 * 8 and inside[1].sum() == 3 * 2


def test_a_perfect_prediction_decodes_to_its_box() -> None:
    boxes = torch.tensor([[9.0, 4.0, 24.0, 32.0], [1.0, 2.0, 5.0, 5.0]])
    image, row, y, x = find_cells_around(boxes, torch.tensor([0, 3]), torch.Size((4, 5, 16, 16)))
    assert set(image[row == 1].tolist()) == {3} and (row == 0).sum() == 9
    ends = box_convert(boxes, "xywh", "xyxy")[row]
    centre = torch.stack([x * 4 + 2, y * 4 + 2], 1)
    far = torch.cat([centre - ends[:, :2], ends[:, 2:] - centre], 1)
    assert (far > 0).all()
    assert torch.allclose(decode_boxes((far / 16).log(), y, x), ends, atol=1e-4)


def _pointing(points: np.ndarray) -> np.ndarray:
    """How likely each cell is, ``[F, 5, PATCH, PATCH]``, where the mean is ``points`` (-1..1)."""
    cells = np.arange(PATCH)
    x, y = (
        np.maximum(0, 1 - abs(((points[..., i] + 1) * (PATCH / 2) - 0.5)[..., None] - cells))
        for i in (0, 1)
    )
    return y[..., :, None] * x[..., None, :]


def test_the_mean_of_a_heat_map_is_the_point_it_learns() -> None:
    points = scenes().landmarks.astype(np.float64)
    torch.manual_seed(3)
    frames = jitter(landmark_frames(torch.from_numpy(points)), 2.0)
    target = _pointing(_inside(frames, points))
    heat = torch.from_numpy(target).clamp_min(1e-12).log()
    assert np.allclose(soft_argmax(heat, frames), points, atol=1e-6)
    other = torch.randn(target.shape, dtype=torch.float64)
    want = F.cross_entropy(
        other.flatten(2).movedim(2, 1), torch.from_numpy(target).flatten(2).movedim(2, 1)
    )
    assert float(heat_map_loss(other, frames, torch.from_numpy(points))) == pytest.approx(
        float(want)
    )
    assert float(heat_map_loss(heat, frames, torch.from_numpy(points))) < float(want)


def test_points_outside_the_frame_or_unknown_are_not_learnt() -> None:
    frames = torch.tensor([[50.0, 40.0, 20.0, 0.0]])
    heat = torch.zeros(1, 5, PATCH, PATCH)
    points = torch.tensor(
        [[[50.0, 40.0], [90.0, 40.0], [50.0, -9.0], [math.nan, 40.0], [42.0, 51.0]]]
    )
    assert float(heat_map_loss(heat, frames, points)) == pytest.approx(math.log(PATCH**2))
    assert float(heat_map_loss(heat, frames, points[:, 1:4].repeat(1, 2, 1)[:, :5])) == 0


def test_the_closer_look_does_not_depend_on_the_light() -> None:
    batch = Batch.of(scenes())
    head = small({"alignment": {}}).heads["alignment"]
    maps = torch.rand(12, 42, 16, 16)
    frames = landmark_frames(batch.landmarks)
    with torch.no_grad():
        bright, dark = (
            soft_argmax(head.heat(maps, images, batch.image, frames), frames)
            for images in (batch.images, 0.5 * batch.images)
        )
    inside = (frames[:, :2] - frames[:, 2:].norm(dim=1, keepdim=True) * 1.5 > 0).all(1)
    assert torch.allclose(bright[inside], dark[inside], atol=0.2)


def test_the_closer_look_mends_wrong_frames() -> None:
    model = small({"alignment": {}})
    some = scenes(8)
    fit(model, draws(some, 12), lr=5e-3, iterations=120, progress=False, device="cpu")
    batch, head = Batch.of(some), model.heads["alignment"]
    torch.manual_seed(0)
    frames = jitter(landmark_frames(batch.landmarks), 4.0)
    template = torch.from_numpy(TEMPLATE * 2 / SIDE - 1).float().expand(len(frames), 5, 2)
    with torch.no_grad():
        heat = head.heat(head(model(batch.images)), batch.images, batch.image, frames)
    before, after = (
        float((points - batch.landmarks).norm(dim=2).mean())
        for points in (to_pixels(frames, template), soft_argmax(heat, frames))
    )
    assert after < before / 2


def test_arcface_and_cosface_by_formula() -> None:
    angles = torch.tensor([[0.3, 1.2, 2.0], [1.0, 2.9, 0.4]])
    person = torch.tensor([0, 1])
    plain = Recognition(4, 3, "softmax", scale=10).logits(angles.cos(), person)
    assert torch.allclose(plain, 10 * angles.cos())
    arc = Recognition(4, 3, "arcface", margin=0.5, scale=10).logits(angles.cos(), person)
    want = 10 * angles.cos()
    want[0, 0] = 10 * math.cos(0.3 + 0.5)
    want[1, 1] = 10 * (math.cos(2.9) - 0.5 * math.sin(0.5))  # past pi
    assert torch.allclose(arc, want, atol=1e-4)
    cosface = Recognition(4, 3, "cosface", margin=0.2, scale=10).logits(angles.cos(), person)
    want[0, 0], want[1, 1] = 10 * (math.cos(0.3) - 0.2), 10 * (math.cos(2.9) - 0.2)
    assert torch.allclose(cosface, want, atol=1e-4)
    with pytest.raises(ValueError, match="loss='arc'.*arcface"):
        Recognition(4, 3, "arc")


def test_the_center_loss_is_half_the_squared_distance() -> None:
    batch = Batch.of(scenes())
    torch.manual_seed(0)
    without = Recognition(4, 4, "softmax")
    besides = Recognition(4, 4, "softmax", center=0.5)
    besides.load_state_dict(without.state_dict(), strict=False)
    assert besides.centers is not None
    with torch.no_grad():
        besides.centers += torch.randn(4, 128)
    faces = torch.arange(12)
    rows = torch.randn(12, 128)
    away = F.normalize(rows, dim=1) - besides.centers[batch.person]
    more = besides.loss(rows, batch, faces).value - without.loss(rows, batch, faces).value
    assert float(more.detach()) == pytest.approx(
        float(0.5 * 0.5 * away.detach().square().sum(1).mean()), rel=1e-4
    )
    with pytest.raises(ValueError, match="people=4"):
        Recognition(4, 2).loss(rows, batch, faces)


def test_segmentation_loss_by_hand() -> None:
    labelled = replace(scenes(), masks=np.full((12, 64, 64), 255, np.uint8))
    labelled.masks[3, 0, :4] = (1, 1, 0, 0)
    head = HEADS["segmentation"](8)
    logits = torch.zeros(12, 1, 64, 64)
    logits[3, 0, 0, :4] = torch.logit(torch.tensor([0.9, 0.6, 0.2, 0.1]))
    found = head.loss(logits, Batch.of(labelled), torch.arange(0))
    entropy = -(math.log(0.9) + math.log(0.6) + math.log(0.8) + math.log(0.9)) / 4
    dice = 1 - (2 * 1.5 + 1) / (1.8 + 2 + 1)
    assert float(found.value) == pytest.approx(entropy + dice, rel=1e-5)
    assert found.count == 1


# -- what is not known ------------------------------------------------------------------------

_NEEDS = {
    "detection": "boxes complete",
    "alignment": "landmarks",
    "segmentation": "masks",
    "recognition": "person boxes",
    "pose": "pose boxes",
    "expression": "expression boxes",
    "attributes": "attributes boxes",
}


@pytest.mark.parametrize("task", ALL)
def test_a_task_learns_from_its_own_labels_alone(task: str) -> None:
    model = small().train()
    labels = forgotten(scenes(), _NEEDS[task])
    losses = model.losses(Batch.of(labels))
    assert losses[task].count > 0 and float(losses[task].value.detach()) > 0
    also = {"alignment", "detection"} if "boxes" in _NEEDS[task] else {"alignment"}
    for name, loss in losses.items():
        if name != task and name not in also:
            assert loss.count == 0 and float(loss.value) == 0 and not loss.value.requires_grad
    losses[task].value.backward()
    for name, head in model.heads.items():
        touched = any(p.grad is not None for p in head.parameters())
        assert touched == (name == task)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("task", ["pose", "recognition", "expression", "attributes", "alignment"])
def test_an_unknown_face_changes_nothing(task: str) -> None:
    labelled = scenes()
    label = {"recognition": "person", "alignment": "landmarks"}.get(task, task)
    partly = getattr(labelled, label).copy()
    partly[4] = -1 if partly.dtype == np.int64 else np.nan
    model = small().eval()
    some = model.losses(Batch.of(replace(labelled, **{label: partly})))[task]
    fewer = model.losses(Batch.of(labelled.take(np.delete(np.arange(12), 4))))[task]
    assert some.count == fewer.count == 11
    assert torch.allclose(some.value, fewer.value, rtol=1e-4)


def test_outside_the_boxes_of_an_incomplete_picture_nothing_is_learnt() -> None:
    labelled = scenes()
    model = small({"detection": {}})
    shape = (12, 5, 16, 16)
    for complete in (True, False):
        batch = Batch.of(replace(labelled, complete=np.full(12, complete)))
        maps = torch.zeros(shape, requires_grad=True)
        model.head("detection").loss(maps, batch, torch.arange(12)).value.backward()
        assert maps.grad is not None
        inside = find_inside(batch.boxes, batch.image, torch.Size(shape))
        outside = maps.grad[:, 0][
            ~inside & (make_heat_map(batch.boxes, batch.image, torch.Size(shape)) < 1)
        ]
        assert bool((outside > 0).all()) == complete and bool((outside == 0).all()) != complete


# -- learning ---------------------------------------------------------------------------------


def test_every_loss_falls() -> None:
    model = small()
    history = fit(model, draws(scenes(), 12), lr=1e-2, iterations=40, progress=False, device="cpu")
    first, last = history.rows[0], history.rows[-1]
    for task in ALL:
        assert last[f"loss/{task}"] < 0.8 * first[f"loss/{task}"], task
    assert not model.training


@pytest.mark.parametrize("weighting", [PCGrad, lambda: Uncertainty(list(ALL))])
def test_resumed_training_ends_the_same(
    weighting: type[Weighting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(out: Path | None, **options: object) -> MultiTask:
        model = small()
        fit(
            model,
            draws(scenes(), 3),
            weighting=weighting(),
            iterations=6,
            out=out,
            progress=False,
            device="cpu",
            cosines_every=2,
            **options,
        )
        return model

    whole_run = train(None).state_dict()
    real, steps = MultiTask.losses, []

    def stopped(self: MultiTask, batch: Batch) -> object:
        steps.append(1)
        if len(steps) == 4:
            import signal

            signal.raise_signal(signal.SIGINT)
        return real(self, batch)

    monkeypatch.setattr(MultiTask, "losses", stopped)
    with pytest.raises(Interrupted, match=r"step 4; go on with resume .*from .*checkpoint\.pt"):
        train(tmp_path)
    monkeypatch.undo()
    with pytest.raises(checkpoint.CheckpointError, match="there already"):
        train(tmp_path)
    resumed = train(tmp_path, resume=True).state_dict()
    assert all(torch.equal(resumed[n], t) for n, t in whole_run.items())
    with pytest.raises(checkpoint.CheckpointError, match="another run.*lr was"):
        train(tmp_path, resume=True, lr=1.0)
    loaded = MultiTask.load(tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(loaded[n], t) for n, t in whole_run.items())


def test_a_loss_that_is_not_finite_is_named() -> None:
    model = small({"pose": {}, "detection": {}})
    with torch.no_grad():
        next(iter(model.heads["pose"].parameters())).fill_(math.inf)
    with pytest.raises(FloatingPointError, match=r"the loss of pose is (inf|nan) at step 0"):
        fit(model, draws(scenes(), 4), iterations=2, progress=False, device="cpu")


def test_pictures_of_several_sizes() -> None:
    sizes = [draws(scenes(size=64), 4), draws(scenes(size=81), 4)]
    history = fit(
        small({"detection": {}}),
        lambda step: sizes[step % 2](step),
        iterations=4,
        progress=False,
        device="cpu",
    )
    assert history.images == 16


def test_frozen_statistics_are_of_the_population() -> None:
    model = small(norm="frozen")
    batch = Batch.of(scenes())
    refresh(model, [batch])
    model.eval()
    with torch.no_grad():
        alone = model(batch.images[:1])
        assert torch.allclose(alone, model(batch.images)[:1], atol=1e-4)
        at_hand = model.train()(batch.images)[:1]
    assert torch.allclose(alone, at_hand, atol=1e-3)  # of one batch they are the batch's own


# -- looking ----------------------------------------------------------------------------------


class _Answers(nn.Module):
    """A head that knows the answer."""

    def __init__(self, answer: torch.Tensor, reads: str = "map") -> None:
        super().__init__()
        self.answer, self.reads = answer, reads

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.answer


def _knowing() -> tuple[MultiTask, Batch, torch.Tensor]:
    """A network whose detection and alignment are right, and 3 pictures with 2, 0 and 1 faces."""
    boxes = torch.tensor(
        [[4.0, 4.0, 16.0, 20.0], [30.0, 32.0, 24.0, 24.0], [20.0, 8.0, 30.0, 30.0]]
    )
    image = torch.tensor([0, 0, 2])
    labelled = FaceAnnotations(
        images=np.zeros((3, 64, 64, 3), np.uint8),
        image=image.numpy(),
        boxes=boxes.numpy(),
        landmarks=fill_missing(boxes, torch.full((3, 5, 2), math.nan))[1].numpy(),
        pose=np.full((3, 3), np.nan, np.float32),
        person=np.array([0, 1, 0]),
        expression=np.full(3, -1),
        attributes=np.empty((3, 0), np.float32),
        masks=np.full((3, 64, 64), 255, np.uint8),
        complete=np.ones(3, bool),
        people=("a", "b"),
    )
    batch = Batch.of(labelled)
    maps, points = torch.full((3, 5, 16, 16), -9.0), torch.zeros(3, 10, 16, 16)
    maps[:, 0] += 8 * make_heat_map(boxes, image, maps.shape)  # one peak each
    where, row, y, x = find_cells_around(boxes, image, maps.shape)
    centre = torch.stack([x * 4 + 2, y * 4 + 2], 1)
    ends = box_convert(boxes, "xywh", "xyxy")[row]
    maps[where, 1:, y, x] = (torch.cat([centre - ends[:, :2], ends[:, 2:] - centre], 1) / 16).log()
    points[where, :10, y, x] = ((batch.landmarks[row] - centre[:, None]) / 16).flatten(1)
    maps[0, 0, 10, 10] = 3  # the second face is the surest
    maps[0, 0, 11, 10] = -9
    model = small({"detection": {}, "alignment": {}, "recognition": {"people": 2}})
    model.heads["detection"] = _Answers(maps)
    alignment = model.heads["alignment"]
    alignment.layers = _Answers(points)
    template = _pointing(np.tile(TEMPLATE * 2 / SIDE - 1, (3, 1, 1)))  # mean faces: it is right
    alignment.again = _Answers(torch.from_numpy(template).clamp_min(1e-12).log())
    return model.eval(), batch, labelled  # type: ignore[return-value]


def test_right_maps_are_read_as_the_true_faces() -> None:
    model, batch, labelled = _knowing()
    found = model.predict(batch.images, min_score=0.2)
    assert found.image.tolist() == [0, 0, 2] and found.scores[0] > found.scores[1]
    order = torch.tensor([1, 0, 2])
    assert torch.allclose(found.boxes, batch.boxes[order], atol=1e-3)
    assert torch.allclose(found.landmarks, batch.landmarks[order], atol=1e-3)
    assert torch.allclose(found.heads["recognition"].norm(dim=1), torch.ones(3), atol=1e-5)
    assert len(found.of(1)) == 0 and len(found.of(2)) == 1
    assert found.of(2).heads["recognition"].shape == (1, 128)
    given = model.describe(batch.images, batch.image, batch.boxes)
    assert torch.allclose(given.heads["recognition"][order], found.heads["recognition"], atol=1e-4)
    result = measure(model, labelled, min_score=0.2)  # type: ignore[arg-type]
    assert result["ap50"] == 1 and result["matched"] == 1 and result["nme"] < 1e-3


def test_no_faces() -> None:
    model = small().eval()
    found = model.predict(torch.rand(2, 3, 40, 40), min_score=1.0)
    assert len(found) == 0 and found.heads["pose"].shape == (0, 3)
    assert found.heads["segmentation"].shape == (2, 40, 40)
    with pytest.raises(ValueError, match="no detection head"):
        small({"pose": {}}).predict(torch.rand(1, 3, 32, 32))


def test_a_batch_says_what_single_pictures_say() -> None:
    model = small().eval()
    images = to_tensor(scenes().images[:3])
    together = model.predict(images, min_score=0.005)
    assert len(together) > 3
    for i in range(3):
        alone, one = model.predict(images[i : i + 1], min_score=0.005), together.of(i)
        assert torch.allclose(alone.boxes, one.boxes, atol=1e-3)
        for name in ALL:
            if name in alone.heads:
                assert torch.allclose(alone.heads[name], one.heads[name], atol=1e-3)


# -- as the start of few-shot learning --------------------------------------------------------


@pytest.mark.parametrize("reads", ["centre", "box", "landmarks"])
def test_the_embedding_reads_a_crop_as_the_face_in_it(reads: str) -> None:
    model = small({"recognition": {"people": 4, "reads": reads}}).eval()
    crops = torch.rand(2, 3, 112, 112)
    embedding = model.embedding()
    assert embedding(crops).shape == (2, 128)
    points = torch.tensor(TEMPLATE, dtype=torch.float32).expand(2, 5, 2)
    side = 112 / 1.2
    boxes = torch.tensor([[56 - side / 2, 56 - side / 2, side, side]]).expand(2, 4)
    same = model.describe(crops, torch.arange(2), boxes, points).heads["recognition"]
    assert (F.normalize(embedding(crops), dim=1) * same).sum(1).min() > 0.98
    assert make_frames(reads, boxes, points)[0].tolist() == pytest.approx([56, 56, 56, 0], abs=0.01)
    with pytest.raises(ValueError, match="no recognition head"):
        small({"pose": {}}).embedding()


@pytest.mark.parametrize("learner", ["maml", "prototypical", "reptile"])
def test_learners_start_from_the_embedding(learner: str) -> None:
    model = small({"recognition": {"people": 4}})
    faces = patterns(6, 6, 32)
    start = LEARNERS[learner](model.embedding())
    before = [p.detach().clone() for p in start.parameters()]
    train(
        start,
        faces,
        iterations=2,
        ways=3,
        shots=1,
        queries=1,
        meta_batch=2,
        augment=None,
        progress=False,
        device="cpu",
    )
    assert any(not torch.equal(a, b) for a, b in zip(before, start.parameters(), strict=True))
    assert start.adapt(torch.rand(3, 3, 32, 32), torch.arange(3)).predict(
        torch.rand(2, 3, 32, 32)
    ).shape == (2,)


# -- as detector and embedder at once ---------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a network that finds the faces of :func:`scenes`."""
    model = small({"detection": {}, "alignment": {}, "recognition": {"people": 4}})
    path = tmp_path_factory.mktemp("joint")
    fit(model, draws(scenes(), 12), lr=1e-2, iterations=80, out=path, progress=False, device="cpu")
    return path / "model.safetensors"


def test_one_network_finds_and_names_people(trained: Path) -> None:
    joint = JointFace.load(trained)
    assert measure(joint.model, scenes(), min_score=0.2)["ap50"] > 0.8
    looked = []
    joint._crops = lambda crops: looked.append(crops)  # type: ignore[assignment]
    people = Recognizer(joint, joint)
    labelled = scenes()
    enrolled = [i for i in range(12) if len(joint(labelled.images[i])) == 1]
    assert len(enrolled) >= 8
    seen = list(embed_faces([labelled.images[i] for i in enrolled], pick_all, joint, joint))
    for i, one in zip(enrolled, seen, strict=True):
        assert isinstance(one, EmbeddedFaces) and one.crops.shape == (1, 112, 112, 3)
        assert np.array_equal(one.embeddings, joint(labelled.images[i]).embeddings)
        assert np.allclose(np.linalg.norm(one.embeddings, axis=1), 1, atol=1e-5)
    assert not looked  # the pictures were seen once: no crop was embedded
    assert people.gallery.model == joint.digest
    assert all(0.6 <= joint(labelled.images[i]).scores[0] <= 1 for i in enrolled)
    faces = {i: joint(labelled.images[i]) for i in enrolled}
    large = [labelled.images[i] for i, f in faces.items() if f.boxes[:, 2:].min() >= 32]
    assert people.enroll("somebody", large).used >= 1
    assert not looked


def test_a_joint_network_is_pinned_by_all_its_weights(trained: Path) -> None:
    first, second = JointFace.load(trained), JointFace.load(trained)
    assert first.digest == second.digest and first.dim == 128 and first.name == "model"
    with torch.no_grad():
        next(second.model.heads["detection"].parameters()).add_(1)
    assert JointFace(second.model).digest != first.digest
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    assert np.allclose(np.linalg.norm(first(crops), axis=1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="no alignment head"):
        JointFace(small({"detection": {}, "recognition": {"people": 2}}))


def test_a_larger_picture_is_searched_at_halves(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "metaface.recognition.embedders.shared._SMALL", 64
    )  # the size it was trained at
    joint = JointFace.load(trained, min_score=0.2)
    one = scenes().images[0]
    small_faces, large = joint(one), joint(np.kron(one, np.ones((4, 4, 1), np.uint8)))
    assert len(small_faces) and len(large)
    overlap = overlaps(small_faces.boxes[:1] * 4, large.boxes)
    assert overlap.max() > 0.6
    assert large.landmarks.shape == (len(large), 5, 2) and (np.diff(large.scores) <= 0).all()


def test_the_detection_protocol_measures_the_detector_asked_for(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labelled, images = scenes(), []
    for i, image in enumerate(labelled.images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        boxes = labelled.boxes[labelled.image == i].tolist()
        images.append({"file": f"{i}.png", "faces": [{"bbox": box} for box in boxes]})
    (tmp_path / "annotations.json").write_text(json.dumps({"images": images}))
    nowhere, out = str(tmp_path / "no models"), tmp_path / "out"
    given = [
        "protocol",
        "detection",
        "--data",
        str(tmp_path),
        "--models",
        nowhere,
        "--quiet",
        "--out",
        str(out),
    ]
    assert main([*given, "--weights", str(trained)]) == 0
    (row,) = json.loads((out / "results.json").read_text())["rows"]
    least = JointFace.load(trained, min_score=0.02)
    want = protocols.measure_detection(tmp_path, least, progress=False)
    assert row["ap"] == want.ap._asdict() and want.ap.value > 0.5
    assert len(want.threshold) > len(
        protocols.measure_detection(tmp_path, JointFace.load(trained), progress=False).threshold
    )
    # nothing but YuNet needs its file, and what finds no faces is not taken for what does
    monkeypatch.setattr(detectors, "Cascade", lambda: least)
    assert main([*given, "--detector", "cascade"]) == 0
    spec = ModelSpec("prototypical", image_size=16, embedding="conv4-32")
    save_model(tmp_path / "embeds.pt", spec.build(0), spec)
    capsys.readouterr()
    assert main([*given, "--weights", str(tmp_path / "embeds.pt")]) == 2
    assert "embeds.pt finds no faces" in capsys.readouterr().err
    assert main(given) == 2 and "yunet" in capsys.readouterr().err


def test_a_network_starts_from_what_fits_of_another(tmp_path: Path) -> None:
    first = small()
    first.save(tmp_path / "first.safetensors")
    heads = ALL | {"recognition": {"people": 7}}
    second = small(heads, seed=1)
    before = {name: tensor.clone() for name, tensor in second.state_dict().items()}
    theirs = first.state_dict()
    for name, tensor in second.start(tmp_path / "first.safetensors").state_dict().items():
        fresh = name == "heads.recognition.people"  # seven people, not four
        assert torch.equal(tensor, before[name] if fresh else theirs[name]), name
    with pytest.raises(ValueError, match="first.safetensors has another backbone"):
        MultiTask(ALL, channels=24, features=32).start(tmp_path / "first.safetensors")
    with pytest.raises(ValueError, match="another backbone than this network, norm='group'"):
        small(norm="frozen").start(tmp_path / "first.safetensors")


def test_a_damaged_file_is_refused(trained: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(trained.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.safetensors is truncated"):
        MultiTask.load(cut)
    with pytest.raises(FileNotFoundError):
        JointFace.load(tmp_path / "none.safetensors")


def test_a_batch_without_a_label_of_any_head_changes_nothing() -> None:
    model = small({"pose": {}})
    before = {n: t.clone() for n, t in model.state_dict().items()}
    source = draws(forgotten(scenes(), "masks"), 4)
    history = fit(model, source, iterations=2, progress=False, device="cpu")
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert "loss/pose" not in history.rows[-1]
