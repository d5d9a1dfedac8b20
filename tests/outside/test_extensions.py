"""What other packages add is found by name, checked, saved and loaded; files import nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Row, patterns, portrait, squares, tiny
from PIL import Image

import metaface as mf
from metaface import _extensions, cli, learners, nets
from metaface.checkpoint import CheckpointError
from metaface.faces.detections import Detections
from metaface.learners import FeatureLearner
from metaface.recognition import GalleryError, Recognizer, embedders
from metaface.recognition.gallery.gallery import Gallery
from metaface.recognition.recognizer import load_detector

MODULE = '''
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from metaface.faces.detections import Detections
from metaface.learners import FeatureLearner


class Ridge(FeatureLearner):
    """Ridge regression onto one-hot labels, in closed form."""

    def __init__(self, embedding, strength=1.0):
        super().__init__(embedding)
        self.strength = strength

    def fit_head(self, features, labels, ways):
        features = F.normalize(features, dim=-1)
        truth = F.one_hot(labels, ways).to(features) - 1 / ways
        kernel = features @ features.mT
        kernel = kernel + self.strength * torch.eye(features.shape[1]).to(features)
        return {"weight": features.mT @ torch.linalg.solve(kernel, truth)}

    def score_head(self, state, features):
        return 10 * F.normalize(features, dim=-1) @ state["weight"]


class Means(nn.Module):
    def __init__(self, in_channels, image_size, norm):
        super().__init__()
        self.last = nn.Linear(in_channels * 16, 16)

    def forward(self, images):
        return self.last(nn.functional.adaptive_avg_pool2d(images - 0.5, 4).flatten(1))


class Flat:
    name, digest, dim = "flat", "0" * 64, 48

    def __init__(self, text=""):
        self.text = text

    def __call__(self, crops):
        if crops.shape[1:] != (112, 112, 3) or crops.dtype != np.uint8:
            raise ValueError(f"crops {crops.shape}")
        small = crops.reshape(-1, 4, 28, 4, 28, 3).mean((2, 4)).reshape(-1, 48) - 127.3
        return (small / np.linalg.norm(small, axis=1, keepdims=True)).astype(np.float32)


class Whole:
    name = "whole"

    def __call__(self, picture):
        side = np.array([picture.shape[1], picture.shape[0]], np.float32)
        points = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
        box = np.concatenate([0 * side, side])[None]
        return Detections(box, (points * side)[None].astype(np.float32), np.ones(1, np.float32))


class Coloured:
    """People who are a colour each."""

    def __init__(self, people="8"):
        self.classes = [f"colour {n}" for n in range(int(people))]

    def __len__(self):
        return 6 * len(self.classes)

    def __getitem__(self, i):
        random = np.random.default_rng(i)
        colour = np.random.default_rng(10**6 + i // 6).integers(60, 196, 3)
        noise = random.integers(-40, 40, (32, 32, 3))
        return (colour + noise).astype(np.uint8), i // 6


def face_set():
    from metaface import FaceSet

    return FaceSet.from_arrays(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1]))


def three(channels, size, norm):
    return 3


number = 3
'''
ENTRIES = """[metaface.learners]
ridge = stranger.parts:Ridge
broken = stranger.missing:Learner

[metaface.nets]
means = stranger.parts:Means

[metaface.embedders]
flat = stranger.parts:Flat

[metaface.detectors]
whole = stranger.parts:Whole

[metaface.sources]
coloured = stranger.parts:Coloured
"""


def install(folder: Path, package: str, entries: str) -> None:
    """A package as pip leaves it in a folder of packages."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(entries)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of a package ``stranger`` that is importable, and registers nothing."""
    folder = tmp_path / "packages"
    (folder / "stranger").mkdir(parents=True)
    (folder / "stranger" / "parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(_extensions, "_named", set())
    monkeypatch.chdir(tmp_path)
    yield folder
    for name in [n for n in sys.modules if n.split(".")[0] == "stranger"]:
        del sys.modules[name]


@pytest.fixture
def installed(package):
    install(package, "stranger", ENTRIES)
    return package


def metaface(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    path = os.pathsep.join([str(folder), str(Path(mf.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-m", "metaface", *words],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# -- names ---------------------------------------------------------------------------------------


def test_nothing_is_imported_before_it_is_named(installed):
    assert _extensions.registered("learners") == ["broken", "ridge"]
    with pytest.raises(ValueError, match="no learner 'rigde': choose one of maml, .*, ridge; or"):
        learners.build("rigde", tiny())
    assert not [n for n in sys.modules if n.split(".")[0] == "stranger"]
    assert learners.build("ridge", tiny(), strength=2).strength == 2


def test_unknown_names_are_answered_with_what_there_is(installed):
    for call, said in (
        (
            lambda: nets.build("mean"),
            "no network 'mean': .*timm:<model>, means; or package.module:",
        ),
        (lambda: embedders.load("fat"), "no embedder fat: .*mobilefacenet_casia, .*, flat; or"),
        (lambda: load_detector("hole"), "no detector 'hole': choose one of yunet, cascade, whole;"),
        (lambda: mf.data.load("colour"), "no such folder, zip or CSV: colour .*packages: coloured"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            call()


def test_a_place_in_a_module_is_a_name(package):
    ridge = learners.build("stranger.parts:Ridge", nets.build("stranger.parts:Means"), strength=3)
    assert ridge.strength == 3 and type(ridge.embedding).__name__ == "Means"
    assert embedders.load("stranger.parts:Flat").text == ""
    assert embedders.load("stranger.parts:Flat:a text").text == "a text"
    assert load_detector("stranger.parts:Whole").name == "whole"
    assert len(mf.data.load("stranger.parts:Coloured", progress=False)) == 48
    assert len(mf.data.load("stranger.parts:Coloured:5", progress=False)) == 30


@pytest.mark.parametrize(
    "name, error, said",
    [
        ("stranger.parts:Rigde", ImportError, "stranger.parts has no 'Rigde'"),
        ("stranger.part:Ridge", ImportError, "No module named 'stranger.part'.*PYTHONPATH"),
        ("broken", ImportError, "broken, which the package stranger has registered, cannot be imp"),
        ("stranger.parts:number", ValueError, "number is a int: name a class or a function"),
        ("stranger.parts:Flat", ValueError, "makes a Flat, not a metaface.learners.MetaLearner"),
        ("ridge:2", ValueError, "no learner 'ridge:2'"),
        ("stranger.parts:Ridge:2", ValueError, "no learner 'stranger.parts:Ridge:2'"),
    ],
)
def test_what_cannot_be_had_is_said(installed, name, error, said):
    with pytest.raises(error, match=said):
        learners.build(name, tiny())


def test_other_kinds_are_refused_by_what_they_are(package):
    for call, said in (
        (lambda: nets.build("stranger.parts:Whole"), "not made from .*: too many positional"),
        (lambda: nets.build("stranger.parts:three"), "makes a int, not a torch.nn.Module"),
        (lambda: embedders.load("stranger.parts:Whole"), "a Whole, which is no embedder.*digest"),
        (lambda: load_detector("stranger.parts:Coloured"), "a Coloured, which is no detector"),
        (lambda: mf.data.load("stranger.parts:face_set"), "returns a FaceSet, which has a size"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            call()


def test_a_name_that_two_packages_register_is_refused(installed):
    install(
        installed, "other", "[metaface.learners]\nridge = other.parts:Ridge\nmaml = os:system\n"
    )
    with pytest.raises(ValueError, match="twice, by the package (stranger|other)"):
        learners.build("ridge", tiny())
    assert isinstance(learners.build("maml", tiny()), learners.MAML)  # what is built in stays


def test_a_file_of_a_registered_name_is_not_confused_with_it(installed):
    Path("coloured").mkdir()
    with pytest.raises(
        ValueError, match="'coloured' is a file or folder .*stranger.parts:Coloured"
    ):
        mf.data.load("coloured")
    Path("flat").write_bytes(b"")
    with pytest.raises(ValueError, match="'flat' is a file or folder"):
        embedders.load("flat")
    Path("stranger.parts:Coloured").mkdir()  # as always, a folder that is there is what is meant
    with pytest.raises(ValueError, match="no usable person"):
        mf.data.load("stranger.parts:Coloured")


# -- files ---------------------------------------------------------------------------------------


def saved(spec: mf.ModelSpec) -> Path:
    path = Path("checkpoint.pt").absolute()
    mf.save_model(path, spec.build(), spec)
    return path


def test_a_checkpoint_of_registered_parts_loads_in_another_process(installed):
    path = saved(mf.ModelSpec("ridge", {"strength": 2.0}, "means", image_size=16))
    words = ("evaluate", str(path), "--data", "coloured:9", "--episodes", "5", "--queries", "3")
    done = metaface(installed, *words, "--quiet")
    assert done.returncode == 0 and "ridge, 5-way 1-shot: 0.9" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "spec",
    [
        mf.ModelSpec("stranger.parts:Ridge", image_size=16),
        mf.ModelSpec("prototypical", embedding="stranger.parts:Means", image_size=16),
    ],
    ids=["learner", "network"],
)
def test_a_checkpoint_imports_no_module_that_was_not_named(package, monkeypatch, spec):
    path = saved(spec)
    loaded, _ = mf.load_model(path)  # it was named in this process
    monkeypatch.setattr(_extensions, "_named", set())
    for module in ("stranger.parts", "stranger"):
        del sys.modules[module]
    kind, name = ("nets", spec.embedding) if ":" in spec.embedding else ("learners", spec.learner)
    with pytest.raises(CheckpointError, match=rf"checkpoint.pt: the file names {name}, .*{kind}.f"):
        mf.load_model(path)
    with pytest.raises(CheckpointError, match="the file names"):
        mf.ModelSpec("maml", image_size=16).build(start=path)
    with pytest.raises(CheckpointError, match="the file names"):
        embedders.load(path)
    assert "stranger" not in sys.modules
    monkeypatch.setenv("METAFACE_EXTENSIONS", f"another.module:Name {name}")
    again, _ = mf.load_model(path)
    monkeypatch.delenv("METAFACE_EXTENSIONS")
    monkeypatch.setattr(_extensions, "_named", set())
    getattr(mf, kind).find(name)
    mf.load_model(path)
    images, labels = torch.rand(6, 3, 16, 16), torch.arange(3).repeat(2)
    assert torch.equal(again.adapt(images, labels)(images), loaded.adapt(images, labels)(images))


def test_a_stranger_may_not_name_what_is_imported_already(tmp_path):
    spec = mf.ModelSpec("prototypical", embedding="pixels")
    for change in ({"learner": "os:system"}, {"embedding": "subprocess:run"}):
        path = tmp_path / "hostile.pt"
        state = {"spec": {**vars(spec), **change}, "learner": spec.build().state_dict()}
        mf.checkpoint.save(path, state)
        with pytest.raises(CheckpointError, match="a file does not decide which code is imported"):
            mf.load_model(path)


def test_a_gallery_imports_no_module_that_was_not_named(package, tmp_path, monkeypatch):
    path = tmp_path / "a.gallery"
    with Recognizer(Row(), squares()) as people:
        for person in range(4):
            people.enroll(f"person {person}", [portrait(person, n) for n in range(3)])
        strangers = [portrait(100 + n // 2, n) for n in range(60)]
        people.calibrate(strangers, 0.05, progress=False)
        assert people.adapt("stranger.parts:Ridge").kept
        want = people.identify(portrait(2, 9))
        people.save(path)

    def identified():
        with Recognizer(Row(), squares(), Gallery.open(path)) as again:
            return again.identify(portrait(2, 9))

    assert identified() == want
    monkeypatch.setattr(_extensions, "_named", set())
    with pytest.raises(ImportError, match="the file names stranger.parts:Ridge, .*METAFACE_EXTEN"):
        identified()
    learners.find("stranger.parts:Ridge")
    assert identified() == want


def test_a_gallery_does_not_choose_its_embedder(package, tmp_path):
    flat = embedders.load("stranger.parts:Flat")
    flat.name = "stranger.parts:Flat"
    with Recognizer(Row(), flat) as people:
        people.save(tmp_path / "a.gallery")
    with pytest.raises(GalleryError, match=r"is no plain name: name the weights yourself"):
        Recognizer.load(tmp_path / "a.gallery", detector="stranger.parts:Whole")
    named = {"weights": "stranger.parts:Flat", "detector": "stranger.parts:Whole"}
    with Recognizer.load(tmp_path / "a.gallery", **named) as people:
        assert people.embedder.dim == 48 and people.detector.name == "whole"


# -- the command line ----------------------------------------------------------------------------


@pytest.mark.usefixtures("few_validations", "no_drawings")
def test_every_command_takes_the_names(installed, capsys, monkeypatch, tmp_path):
    given = ["--data", "coloured:30", "--image-size", "16", "--iterations", "1", "--quiet"]
    given += ["--device", "cpu", "--episodes", "3", "--queries", "2", "--shots", "1"]
    own = ["--learners", "ridge", "stranger.parts:Ridge", "--embedding", "means", "--option"]
    assert cli.main(["benchmark", *own, "stranger.parts:Ridge.strength=2", *given]) == 0
    said = capsys.readouterr().out
    assert "\nridge " in said and "\nstranger.parts:Ridge " in said
    assert cli.main(["benchmark", "--option", "rigde.strength=2", *given]) == 2
    assert "no learner 'rigde'" in capsys.readouterr().err
    path = next(Path("results").glob("stranger*/checkpoint.pt"))
    refused = metaface(installed, "evaluate", str(path), "--quiet")
    assert refused.returncode == 2 and "METAFACE_EXTENSIONS=stranger.parts" in refused.stderr

    for person in ("Ana", "Bo"):
        (tmp_path / "people" / person).mkdir(parents=True)
        for photo in range(2):
            random = np.random.default_rng([photo, len(person)])
            base = np.random.default_rng(len(person)).integers(0, 200, (8, 8, 3))
            pixels = base.repeat(20, 0).repeat(20, 1) + random.integers(0, 55, (160, 160, 3))
            path = tmp_path / "people" / person / f"{photo}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    models = ["--weights", "flat", "--detector", "whole", "--quiet"]
    assert cli.main(["enroll", "people", *models]) == 0
    assert "enrolled; 2 people" in capsys.readouterr().out
    photo = "people/Ana/0.png"
    assert cli.main(["identify", photo, "--detector", "stranger.parts:Whole"]) == 0
    assert cli.main(["identify", photo, "--detector", "hole"]) == 2
    assert "no detector 'hole': choose one of yunet, cascade, whole" in capsys.readouterr().err


# -- what the checks find ------------------------------------------------------------------------


def test_a_package_of_its_own_passes_all_checks(installed):
    mf.testing.check_learner("ridge")
    mf.testing.check_network("means", 16)
    mf.testing.check_embedder(embedders.load("flat"))
    mf.testing.check_detector(load_detector("whole"))
    mf.testing.check_source("coloured:9")


class Honest(FeatureLearner):
    """Nearest mean."""

    def fit_head(self, features, labels, ways):
        member = torch.nn.functional.one_hot(labels, ways).to(features)
        return {"means": member.mT @ features / member.sum(1)[..., None]}

    def score_head(self, state, features):
        return -(features[:, :, None] - state["means"][:, None]).square().sum(-1)


class Favours(Honest):
    def score_head(self, state, features):
        scores = super().score_head(state, features)
        return scores + torch.arange(scores.shape[-1]).to(scores)


class Draws(Honest):
    def fit_head(self, features, labels, ways):
        state = super().fit_head(features, labels, ways)
        return {"means": state["means"] + 0.1 * torch.rand_like(state["means"])}


class Remembers(Honest):
    def __init__(self, embedding):
        super().__init__(embedding)
        self.register_buffer("seen", torch.zeros(()))

    def fit_head(self, features, labels, ways):
        self.seen += 1
        return super().fit_head(features, labels, ways)


class Fixed(Honest):
    def fit_head(self, features, labels, ways):
        return super().fit_head(features, labels, 3)


class Mixes(Honest):
    def score_head(self, state, features):
        return super().score_head({"means": state["means"].mean(0, keepdim=True)}, features)


class Centres(Honest):
    def score_head(self, state, features):
        return super().score_head(state, features - features.mean(1, keepdim=True))


class Frozen(Honest):
    def fit_head(self, features, labels, ways):
        return super().fit_head(features.detach(), labels, ways)

    def score_head(self, state, features):
        return super().score_head(state, features.detach())


class Hides(Honest):
    def __init__(self, embedding):
        super().__init__(embedding)
        self.turn = torch.randn(1)

    def score_head(self, state, features):
        return super().score_head(state, features) * (1 + self.turn.abs().to(features))


class Accepts(Honest):
    def meta_step(self, episodes):
        return {}


@pytest.mark.parametrize(
    "learner, said",
    [
        (Favours, "numbering the people otherwise permutes.*Start|start the head from zero"),
        (Draws, "numbering the people otherwise|adapting twice"),
        (Remembers, "adapt leaves all weights. Found: others in seen"),
        (Fixed, "adapts to any number of people, with unequal shots.*ways is an argument of fit"),
        (Mixes, "a batch of tasks gives what its tasks give one by one.*leads with the task"),
        (
            Centres,
            "a learner whose queries see each other says so, and no.*transductive",
        ),
        (Frozen, "training with another seed gives other weights.*reach the parameters"),
        (Hides, "state_dict is loaded into a fresh one.*must be a parameter or a buffer"),
        (Accepts, "tensors of a wrong shape are refused by name. Found: no error"),
    ],
)
def test_a_broken_rule_of_a_learner_is_named(learner, said):
    with pytest.raises(AssertionError, match=f"^broken rule: .*(?:{said})"):
        mf.testing.check_learner(learner)


def test_broken_rules_of_others_are_named(package):
    class Long:
        name, digest, dim = "long", "1", 3

        def __call__(self, crops):
            return crops.mean((1, 2)).astype(np.float32)

    class Reversed:
        name = "reversed"

        def __call__(self, picture):
            boxes = np.array([[0, 0, 9, 9], [1, 1, 9, 9]], np.float32)
            return Detections(boxes, np.zeros((2, 5, 2), np.float32), np.float32([0.1, 0.9]))

    def maps(channels, size, norm):
        return torch.nn.Conv2d(channels, 8, 3)

    for call, said in (
        (lambda: mf.testing.check_embedder(Long()), "embeddings are finite and of unit length"),
        (
            lambda: mf.testing.check_detector(Reversed()),
            "scores are in 0..1, the surest face first",
        ),
        (lambda: mf.testing.check_network(maps, 16), r"give finite floats \[n, D\].*nn.Flatten"),
        (lambda: mf.testing.check_source(lambda: patterns(4)), "a source returns a folder, zip"),
    ):
        with pytest.raises(AssertionError, match=f"^broken rule: .*{said}"):
            call()
