"""Which part of a pretrained network learns, and going part of the way."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import patterns, tiny, train
from torch import nn

import metaface as mf
from metaface import nets
from metaface.nets.norm import refresh_statistics

WAYS = ("full", "norm", "last", "last:1", "lora", "lora:2", "bottleneck:4", "none")


def pinned() -> nn.Module:
    """A small network with the statistics of some people's photographs."""
    frozen = tiny("frozen")
    tasks = mf.EpisodeSampler(patterns(), 10, 1, 3).batch(0, 4)
    refresh_statistics(frozen.train(), iter([tasks.support.flatten(0, 1)]))
    net = tiny("pinned")
    net.load_state_dict(frozen.state_dict())
    return net


def width(net: nn.Module) -> int:
    with torch.no_grad():
        return int(net(torch.zeros(2, 3, 16, 16)).shape[1])


IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("how", WAYS)
def test_it_answers_as_before_until_it_learns(how):
    net = pinned()
    before = net(IMAGES).detach()
    tuned = nets.set_trainable(copy.deepcopy(net), how, width(net))
    torch.testing.assert_close(tuned(IMAGES), before)
    counts = {
        way: nets.count_trainable(nets.set_trainable(pinned(), way, width(net))) for way in WAYS
    }
    assert counts["none"] == 0 < counts["norm"] < counts["full"]
    assert counts["last:1"] < counts["last"] <= counts["full"] and counts["lora:2"] < counts["lora"]


@pytest.mark.parametrize("how", WAYS)
def test_only_what_is_tuned_moves(how):
    learner = mf.learners.Prototypical(nets.set_trainable(pinned(), how, width(pinned())))
    frozen = {n for n, p in learner.named_parameters() if not p.requires_grad}
    before = copy.deepcopy(learner.state_dict())
    if how == "none":
        return
    faces = patterns()
    train(learner, faces, ways=5, shots=1, queries=2, iterations=3, lr=0.05, progress=False)
    moved = {n for n, t in learner.state_dict().items() if not torch.equal(t, before[n])}
    assert moved and not moved & frozen
    assert not any("running" in name for name in moved)  # the population's statistics


@pytest.mark.parametrize("how", ("full", "norm", "last", "lora:2", "bottleneck:4"))
def test_a_tuned_network_descends(how):
    net = nets.set_trainable(pinned(), how, width(pinned()))
    learner = mf.learners.Prototypical(net, "cosine").train()
    tasks = mf.EpisodeSampler(patterns(), 10, 1, 3).batch(0, 2)
    learned = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, 3e-3)
    losses = []
    for _ in range(12):
        losses.append(learner.meta_step(tasks)["loss"])
        optimizer.step()
    assert losses[-1] < 0.99 * losses[0]


def test_pinned_statistics_stay():
    net = pinned()
    want = net.eval()(IMAGES[:1])
    torch.testing.assert_close(net.train()(IMAGES)[:1], want)  # alone or in company
    refresh_statistics(net, iter([IMAGES]))
    torch.testing.assert_close(net(IMAGES[:1]), want)
    frozen = tiny("frozen")
    frozen.load_state_dict(net.state_dict())  # the same buffers by the same names
    torch.testing.assert_close(frozen.eval()(IMAGES[:1]), want)
    assert nets.norm_mode(net) == "pinned"
    learner = mf.learners.Prototypical(net)
    assert learner.sees_single_images and not learner.transductive


def test_low_rank_changes_are_what_they_say_and_merge():
    net = nets.set_trainable(pinned(), "lora:2", width(pinned()))
    for name, parameter in net.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(parameter)
    plain = pinned().state_dict()
    want = net(IMAGES)
    merged = nets.merge_low_rank(copy.deepcopy(net))
    torch.testing.assert_close(merged(IMAGES), want)
    assert set(merged.state_dict()) == set(plain)
    changes = [
        merged.state_dict()[n] - plain[n]
        for n, t in plain.items()
        if n.endswith("weight") and t.ndim == 4
    ]
    assert changes
    for change in changes:
        assert 0 < torch.linalg.matrix_rank(change.flatten(1), rtol=1e-4) <= 2


def test_going_part_of_the_way():
    before, after = pinned(), nets.set_trainable(pinned(), "lora:2", width(pinned()))
    for name, parameter in after.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(parameter)
    kept = copy.deepcopy(after.state_dict())
    torch.testing.assert_close(nets.interpolate_weights(before, after, 0.0)(IMAGES), before(IMAGES))
    torch.testing.assert_close(nets.interpolate_weights(before, after, 1.0)(IMAGES), after(IMAGES))
    half = nets.interpolate_weights(before, after, 0.5).state_dict()
    ends = nets.merge_low_rank(copy.deepcopy(after)).state_dict()
    for name, tensor in before.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(half[name], (tensor + ends[name]) / 2)
    assert all(torch.equal(t, kept[n]) for n, t in after.state_dict().items())


@pytest.mark.parametrize("how", ("lora:0", "lora:x", "adapter"))
def test_a_wrong_way_is_named(how):
    with pytest.raises(ValueError, match="choose one of full, norm"):
        nets.set_trainable(pinned(), how, 8)


def test_a_spec_starts_from_weights_and_comes_back(tmp_path):
    spec = mf.ModelSpec("prototypical", embedding="conv4-32", image_size=16)
    first = spec.build(3)
    mf.save_model(tmp_path / "first.pt", first, spec)
    tuned = mf.ModelSpec(
        "prototypical",
        {"distance": "cosine", "tune": "lora:2"},
        embedding="conv4-32",
        image_size=16,
    )
    second = tuned.build(0, start=tmp_path / "first.pt")
    torch.testing.assert_close(second.embedding(IMAGES), first.embedding(IMAGES))
    train(second, patterns(), ways=5, shots=1, queries=2, iterations=2, progress=False)
    mf.save_model(tmp_path / "second.pt", second, tuned)
    third, spec_found = mf.load_model(tmp_path / "second.pt")
    assert spec_found == tuned
    torch.testing.assert_close(third.eval().embedding(IMAGES), second.embedding(IMAGES))
    wide = mf.ModelSpec("prototypical", embedding="conv4", image_size=16)
    with pytest.raises(ValueError, match=r"first.pt does not fit the network conv4"):
        wide.build(0, start=tmp_path / "first.pt")


def test_training_across_domains_sees_each_on_its_side(monkeypatch):
    faces = mf.FaceSet.join({"photo": patterns(photos=2), "sketch": patterns(photos=2, seed=1)})
    seen = []
    learner = mf.learners.Prototypical(tiny())
    meta_gradient = type(learner).meta_gradient
    monkeypatch.setattr(
        type(learner),
        "meta_gradient",
        lambda self, tasks: seen.append(tasks) or meta_gradient(self, tasks),
    )
    train(
        learner,
        faces,
        ways=5,
        shots=1,
        queries=1,
        iterations=2,
        progress=False,
        augment=None,
        support_domain="photo",
        query_domain="sketch",
    )
    assert seen
    photos, sketches = (
        {image.tobytes() for image in faces.of_domains(name).images} for name in ("photo", "sketch")
    )
    assert photos.isdisjoint(sketches)
    for tasks in seen:
        assert raw(tasks.support) <= photos and raw(tasks.query) <= sketches


def raw(images: torch.Tensor) -> set[bytes]:
    """Pictures as a FaceSet stores them."""
    pixels = (images.flatten(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return {image.contiguous().numpy().tobytes() for image in pixels}
