"""Safe adaptation: adapted weights as far as they pay, and recorded once."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from helpers import patterns, tiny, train
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import metaface as mf
from metaface import checkpoint, data, nets
from metaface.cli import main
from metaface.training import weight_interpolation

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def at(weight: float) -> nn.Linear:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, weight)
    return net


def weight(net: nn.Module) -> float:
    return float(net.weight.detach())


@pytest.mark.parametrize(
    "gain,kept,share",
    [
        (lambda w: -w, [], 0),  # adapting hurts
        (lambda w: 0.9, [], 0),  # and this does nothing
        (weight, [], 1),
        (weight, [lambda w: 1 + w], 1),
        (weight, [lambda w: 0.8 - 0.01 * w], 0.4),  # half a point is lost at 0.5
        (weight, [lambda w: 0.8 - 0.01 * w, lambda w: 0.3 - 0.02 * w], 0.2),
        (weight, [lambda w: 0.8 - w], 0),
        (lambda w: -((w - 0.6) ** 2), [lambda w: 0.5], 0.6),
        (weight, [lambda w: 0.8 - w if 0 < w < 0.9 else 0.8], 1),  # those between are no proof
    ],
)
def test_the_share_that_is_chosen(gain, kept, share):
    def of(one):
        return one if one is weight else lambda net: one(weight(net))

    before, after = at(0), at(1)
    net, choice = weight_interpolation.interpolate(
        before, after, of(gain), [of(one) for one in kept]
    )
    assert choice.share == pytest.approx(share) and weight(net) == pytest.approx(share)
    assert (weight(before), weight(after)) == (0, 1)
    assert [step.share for step in choice.steps] == list(weight_interpolation.SHARES)
    assert ("not adapted" in str(choice)) == (share == 0)
    for step in choice.steps:
        assert step.kept == pytest.approx([one(step.share) for one in kept], abs=1e-6)
        assert step.allowed == all(one(step.share) >= one(0) - 0.005 for one in kept)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*2 * [st.floats(0, 1)]), min_size=3, max_size=3), st.floats(0, 0.5))
def test_never_worse_than_not_adapted(table, loss):
    """On what it was chosen by, whatever the measures are."""
    found = {round(share, 1): row for share, row in zip((0, 0.5, 1), table, strict=True)}
    first, second = (lambda net, i=i: found[round(weight(net), 1)][i] for i in range(2))
    _, choice = weight_interpolation.interpolate(
        at(0), at(1), first, [second], keep_loss=loss, shares=(0.5, 1)
    )
    assert choice.chosen.gained >= table[0][0]
    assert choice.chosen.kept[0] >= table[0][1] - loss
    rivals = [row[0] for row in table if row[1] >= table[0][1] - loss]
    assert choice.chosen.gained == max(rivals)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"shares": (0.5, 1.2)}, "0..1"),
        ({"keep_loss": -0.1}, "keep_loss=-0.1"),
        ({"measure": lambda net: float("nan")}, "finite"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        weight_interpolation.interpolate(at(0), at(1), **({"measure": weight} | change))


def learnt(embedding: nn.Module, people: mf.FaceSet) -> mf.learners.Prototypical:
    learner = mf.learners.Prototypical(embedding)
    train(learner, people, ways=8, iterations=200, lr=1e-2, progress=False, augment=None)
    return learner


@pytest.fixture(scope="module")
def parts():
    return patterns(80, 6).split(test=0, val=0.25)


@pytest.fixture(scope="module")
def able(parts):
    return learnt(tiny(), parts[0]).embedding


@pytest.mark.parametrize("tune", ["full", "norm", "lora:2", "bottleneck:4"])
def test_a_learner_that_only_forgot_is_as_before(tune, able, parts):
    embedding = copy.deepcopy(able)
    start = mf.learners.build("prototypical", embedding, tune=tune, features=8).embedding
    learner = mf.learners.Prototypical(copy.deepcopy(start))
    was = start(IMAGES).detach()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in learner.parameters():
            if p.requires_grad:
                p.add_(30 * torch.randn(p.shape, generator=noise))
    moving = {n for n, p in learner.named_parameters() if p.requires_grad}
    assert weight_interpolation.interpolate_learner(learner, start, parts[1]).share == 0
    torch.testing.assert_close(learner.embedding(IMAGES), was)
    assert {n for n, p in learner.named_parameters() if p.requires_grad} == moving


@pytest.mark.parametrize("tune", ["full", "lora:4"])
def test_a_learner_that_learnt_is_the_blend(tune, parts):
    start = nets.set_trainable(tiny(width=16), tune, 16)
    learner = learnt(copy.deepcopy(start), parts[0])
    end = nets.interpolate_weights(start, learner.embedding, 1)
    other = patterns(10, 12, seed=1)
    choice = weight_interpolation.interpolate_learner(
        learner, start, parts[1], [other], keep_loss=1
    )
    assert choice.share > 0 and choice.chosen.gained > choice.steps[0].gained + 0.1
    want = nets.interpolate_weights(start, end, choice.share)
    torch.testing.assert_close(learner.embedding(IMAGES), want(IMAGES))
    assert len(choice.chosen.kept) == 1 and 0 < choice.chosen.kept[0] <= 1


def test_one_photograph_a_person_cannot_judge():
    """And others' photographs can: so there is no verdict on these, but an error."""
    learner = mf.learners.Prototypical(tiny())
    with pytest.raises(ValueError, match="more people or photographs"):
        weight_interpolation.interpolate_learner(learner, tiny(), patterns(10, 1))


def test_the_end_of_training_comes_once_whatever_interrupts_it(tmp_path):
    faces = patterns(20, 6)
    people, val, _ = faces.split(test=0, val=0.3)
    calls = []

    def finish(learner):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        with torch.no_grad():
            next(learner.parameters()).zero_()
        return {"share": 0.4}

    def run(**options):
        learner = mf.learners.Prototypical(tiny())
        history = train(
            learner,
            people,
            val,
            ways=5,
            iterations=5,
            val_episodes=5,
            progress=False,
            out=tmp_path,
            resume=True,
            **options,
        )
        return learner, history

    with pytest.raises(KeyboardInterrupt):
        run(on_finish=finish)
    for _ in range(2):
        learner, history = run(on_finish=finish)
        assert len(calls) == 2 and history.finished == {"share": 0.4}
        assert not next(learner.parameters()).any()
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["history"]["finished"] == {"share": 0.4}
    assert not state["best"]["learner"]["embedding." + next(iter(tiny().state_dict()))].any()
    assert run()[1].finished == {"share": 0.4}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Procedural people: two folders, and a checkpoint trained on the first."""
    root = tmp_path_factory.mktemp("safe")
    for name, source in (("plain", "synthetic"), ("sketch", "synthetic:sketch")):
        faces = data.load(source, people=20, photos=6, image_size=16, progress=False)
        for i, (image, person) in enumerate(zip(faces.images, faces.person, strict=True)):
            path = root / name / f"{name}-{person}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(image)).save(path)
    command = train_command(root / "plain", root / "start", 30)
    assert main(command) == 0
    return root


def train_command(people, out, iterations):
    return [
        "train",
        "--data",
        str(people),
        "--image-size",
        "16",
        "--embedding",
        "conv4-32",
        "--ways",
        "5",
        "--iterations",
        str(iterations),
        "--quiet",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]


def test_the_command(sources, tmp_path, capsys):
    start = sources / "start" / "checkpoint.pt"
    command = train_command(sources / "sketch", tmp_path, 4)
    command += ["--start", str(start), "--blend", "--lr", "0.03"]
    keep = ["--keep", str(sources / "plain"), "--keep-loss", "0.01"]
    assert main([*command, *keep]) == 0
    said = capsys.readouterr().out
    assert "chosen" in said and str(sources / "plain") in said
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    found = state["history"]["finished"]
    assert len(found["steps"]) == len(weight_interpolation.SHARES) and found["keep"] == [
        str(sources / "plain")
    ]
    chosen = next(s for s in found["steps"] if s["share"] == found["share"])
    assert chosen["kept"][0] >= found["steps"][0]["kept"][0] - 0.01
    learner, _ = mf.load_model(tmp_path / "checkpoint.pt")
    before = mf.load_model(start)[0].embedding
    pictures = torch.rand(2, 3, 16, 16)
    same = torch.allclose(learner.embedding(pictures), before(pictures), atol=1e-5)
    assert same == (found["share"] == 0)
    assert main([*command, *keep, "--resume"]) == 0  # says it again, and blends nothing
    seconds = re.compile(r"\d+ s;")  # of this process, too
    assert seconds.sub("", capsys.readouterr().out) == seconds.sub("", said)
    again = checkpoint.load(tmp_path / "checkpoint.pt")
    for name, tensor in again["best"]["learner"].items():
        assert torch.equal(tensor, state["best"]["learner"][name])


@pytest.mark.parametrize(
    "options,message",
    [
        (["--keep", "x"], "--blend"),
        (["--keep-loss", "0.1"], "--blend"),
        (["--blend"], "--start"),
        (["--blend", "--start", "START", "--keep-loss", "0.1"], "--keep"),
    ],
)
def test_options_that_belong_together(sources, tmp_path, options, message, capsys):
    options = [o.replace("START", str(sources / "start" / "checkpoint.pt")) for o in options]
    assert main([*train_command(sources / "plain", tmp_path, 1), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "checkpoint.pt").exists()
