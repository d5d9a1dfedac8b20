"""The example that the design began with runs as it was printed, but for its long numbers."""

from __future__ import annotations

import pytest
from helpers import Row, group, portrait, squares
from PIL import Image

import metaface as mf
from metaface.recognition import Gallery, Match

LEARN = """
faces = mf.data.load("photos/")                 # identity folders, a zip, LFW, ... or "synthetic"
train, val, test = faces.split(seed=0)          # disjoint *people*
learner = mf.learners.MAML(mf.nets.Conv4(), inner_lr=0.1, inner_steps=5)
mf.train(learner, train, val, ways=5, shots=1, iterations=2000)
print(mf.evaluate(learner, test, ways=5, shots=1, episodes=1000))   # 0.874 ± 0.006
"""
RECOGNISE = """
people = mf.Recognizer.from_pretrained("...")   # detector + aligner + embedding + learner
people.enroll("Ana", ["a1.jpg", "a2.jpg"]); people.enroll("Bo", ["b1.jpg"])
found = people.identify("party.jpg")            # [Match("Ana", box, score), Match(unknown), ...]
people.forget("Bo"); people.save("office.gallery")
"""


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=98)


@pytest.mark.usefixtures("few_validations")
def test_learning(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for person in range(40):
        for photo in range(6):
            save(
                tmp_path / "photos" / f"p{person}" / f"{photo}.png",
                portrait(person, photo)[::4, ::4],
            )
    exec(LEARN.replace("2000", "3").replace("1000", "20"), {"mf": mf})
    accuracy, _, half = capsys.readouterr().out.split()[-3:]
    assert 0 < float(accuracy) <= 1 and float(half) < 0.2


def test_recognising(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a1.jpg", portrait(0, 1))
    save(tmp_path / "a2.jpg", portrait(0, 2))
    save(tmp_path / "b1.jpg", portrait(1, 1))
    save(tmp_path / "party.jpg", group(portrait(0, 3), portrait(7)))
    toy = squares()
    gallery = Gallery(model=toy.digest, model_name=toy.name, dim=toy.dim)
    monkeypatch.setattr(
        mf.Recognizer, "from_pretrained", lambda name: mf.Recognizer(Row(), toy, gallery)
    )
    names: dict = {"mf": mf}
    exec(RECOGNISE, names)
    first, second = names["found"]
    assert isinstance(first, Match) and first.name == "Ana" and second.name is None
    with Gallery.open(tmp_path / "office.gallery") as saved:
        assert saved.people() == {"Ana": 2}
    names["people"].close()


@pytest.mark.parametrize("name", ["task", "budget", "validation", "run"])
def test_what_is_no_such_option_says_what_to_write(name):
    kind = name.capitalize()
    with pytest.raises(ValueError, match=rf"{name} must be a {kind}, got a dict: write {name}="):
        mf.train(None, None, **{name: {"ways": 5}})


@pytest.mark.parametrize("name", ["meta_batch", "lr", "minutes", "patience", "seed", "val_ways"])
def test_a_keyword_of_before_says_where_it_is_now(name):
    with pytest.raises(TypeError, match=rf"train has no {name}= any more: write \w+=\w+\("):
        mf.train(None, None, **{name: 1})
