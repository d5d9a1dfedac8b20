"""The domain matrix: who is tested where, tasks across domains, rows, resuming, the page."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import patterns, tiny, train, validate_on_few
from PIL import Image

import metaface as mf
from metaface import FaceSet
from metaface.checkpoint import CheckpointError
from metaface.cli import main
from metaface.data.domain_split import (
    SIDES,
    join_domains,
    limit_queries,
    list_sides,
    name_people,
    paired_domains,
    split_together,
)
from metaface.episodes.across_domains import AcrossDomains, find_partners
from metaface.evaluation.domain_matrix import (
    embed_faceset,
    make_rows,
    measure,
    rank1,
    tar_at_far,
)
from metaface.experiments import cross_domain, job
from metaface.experiments.cross_domain import load_domains
from metaface.learners import MAML, Prototypical
from metaface.options import CrossDomainSettings, parse_domains
from metaface.options.jobs import DOMAIN_PROTOCOLS

REQUIRED = {
    "train",
    "test",
    "learner",
    "ways",
    "shots",
    "queries",
    "accuracy",
    "ci95",
    "rank1",
    "tar_at_far",
    "drop",
    "seconds",
    "trainable_parameters",
}
PARTS = ("train", "val", "test")

pytestmark = pytest.mark.usefixtures("few_renders", "few_validations", "no_drawings")


def named(names: list[str], name: str, photos: int = 4, seed: int = 0, **given) -> FaceSet:
    """People of these names; photographs are noise."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (len(names) * photos, 8, 8, 3)).astype(np.uint8)
    who = np.repeat(np.arange(len(names)), photos)
    return FaceSet.from_arrays(images, who, people=names, name=name, **given)


def people_of(faces: FaceSet) -> set[str]:
    called = name_people(faces)
    return {called[p] for p in faces.person_ids}


def in_light(dark: bool) -> FaceSet:
    """The same people in two lights, as two domains of one set."""
    faces = patterns(20, 16)
    return FaceSet.from_arrays(
        (faces.store * (0.5 if dark else 1)).astype(np.uint8), faces.person, name="lights"
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """``--domains``: the two lights of one CSV, and a folder of other people, some the same."""
    root = tmp_path_factory.mktemp("sources")
    lines = ["path,person,domain"]
    for light, factor in (("day", 1.0), ("night", 0.6)):
        faces = patterns(20, 6)
        for row, person in zip(faces.rows, faces.person, strict=True):
            path = root / f"{light}-{row}.png"
            Image.fromarray((faces.store[row] * factor).astype(np.uint8)).save(path)
            lines.append(f"{path.name},p{person},{light}")
    (root / "lights.csv").write_text("\n".join(lines))
    others = patterns(20, 6, seed=5)
    for row, person in zip(others.rows, others.person, strict=True):
        folder = root / "others" / f"p{person + 15}"  # p15 to p19 are in the CSV, too
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(others.store[row]).save(folder / f"{row}.png")
    csv = root / "lights.csv"
    return [f"day={csv}:day", f"night={csv}:night", f"others={root / 'others'}"]


def small(sources: list[str], **given) -> CrossDomainSettings:
    settings = {
        "learners": ("prototypical", "fomaml"),
        "image_size": 16,
        "ways": (3,),
        "shots": (1,),
        "queries": 2,
        "episodes": 20,
        "iterations": 2,
        "embedding": "conv4-32",
    }
    return CrossDomainSettings(domains=parse_domains(sources), **settings | given)


@pytest.fixture(scope="module")
def results(sources, tmp_path_factory):
    """A small matrix by every protocol, and its folder."""
    out = tmp_path_factory.mktemp("matrix") / "all"
    settings = small(sources, protocols=DOMAIN_PROTOCOLS, across=True)
    with pytest.MonkeyPatch.context() as patch:
        validate_on_few(patch)
        return cross_domain.run(settings, out, progress=False), out


# -- who is tested -----------------------------------------------------------------------------


def test_nobody_tested_anywhere_was_trained_on_anywhere(sources):
    settings = small(sources)
    domains = split_together(load_domains(settings, progress=False), seed=3, queries=2)
    assert set(domains) == {"day", "night", "others"}
    everywhere = {p: [people_of(getattr(d, p)) for d in domains.values()] for p in PARTS}
    together = {part: set.union(*found) for part, found in everywhere.items()}
    for a, b in pairwise([*PARTS, "train"]):
        assert not together[a] & together[b]
    assert set.union(*together.values()) == {f"p{n}" for n in range(35)}  # nobody is lost
    for part, (day, night, others) in everywhere.items():
        assert day == night
        assert len(others) == {"train": 14, "val": 2, "test": 4}[part] == len(day)


def test_a_split_by_source_alone_would_not_have_been_disjoint(sources):
    """The test above can fail: split one by one, five shared people end up on both sides."""
    loaded = load_domains(small(sources), progress=False)
    overlaps = [
        people_of(loaded["day"].split(seed)[0]) & people_of(loaded["others"].split(seed)[2])
        for seed in range(10)
    ]
    assert any(overlaps)


def test_procedural_people_are_nobody_elses():
    numbers = [str(n) for n in range(20)]
    sets = {
        "a": named(numbers, "synthetic:frontal"),
        "b": named(numbers, "synthetic:profile", seed=1),
        "real": named(numbers, "numbered", seed=2),
    }
    parts = split_together(sets, seed=0)
    assert people_of(parts["a"].test) == people_of(parts["b"].test)
    assert not people_of(parts["a"].test) & people_of(parts["real"].test)
    both = join_domains({n: parts[n].train for n in sets})
    assert len(both.person_ids) == 28  # 14 procedural people, in two domains, and 14 others
    assert find_partners(both) == {"a": ("b",), "b": ("a",), "real": ()}
    # a checkpoint trained on them says whom evaluate must leave out
    seen = {"data": both.name, "people": list(both.people)}
    left = sets["b"].unseen(**seen)
    assert people_of(left) == people_of(sets["b"]) - people_of(parts["b"].train)


def test_people_with_enough_photographs_are_tested_first():
    plenty = named([f"n{n}" for n in range(10)], "set", photos=6)
    scarce = named([f"m{n}" for n in range(20)], "set", photos=2, seed=1)
    both = FaceSet.join({"plenty": plenty, "scarce": scarce})
    tested = split_together({"one": both}, queries=5)["one"].test
    assert people_of(tested) <= people_of(plenty) and len(tested.person_ids) == 6


def test_too_few_people_are_named():
    with pytest.raises(ValueError, match="domain 'few'.*3 people leave 0 for train"):
        split_together({"few": named(["a", "b", "c"], "small")})


# -- tasks across domains ------------------------------------------------------------------------


def test_tasks_cross_domains_where_people_are_shared():
    day, night = in_light(False), in_light(True)
    alone = named([f"x{n}" for n in range(4)], "alone", photos=8)
    alone = FaceSet.from_arrays(
        alone.images.repeat(2, 1).repeat(2, 2), alone.person, people=alone.people
    )
    faces = join_domains({"day": day, "night": night, "alone": alone})
    sampler = AcrossDomains(faces, ways=6, shots=2, queries=3, seed=1)
    assert sampler.turns == [[("day", "night")], [("night", "day")], [("alone", "alone")]]
    for k in range(9):
        tasks = sampler.batch(k, 4)
        wanted = sampler.turns[k % 3][0]
        assert (tasks.support_domain, tasks.query_domain) == wanted
        for side, rows_of in zip(wanted, (tasks.support_rows, tasks.query_rows), strict=True):
            assert (faces.domain[rows_of] == faces.domains.index(side)).all()
            shown = faces.person[rows_of].reshape(4, tasks.ways, -1)
            assert (shown == tasks.people.numpy()[..., None]).all()
        assert tasks.ways == (4 if k % 3 == 2 else 6)  # only four people there
        for left, right in zip(tasks.support_rows, tasks.query_rows, strict=True):
            assert not set(left.tolist()) & set(right.tolist())
        again = AcrossDomains(faces, ways=6, shots=2, queries=3, seed=1).batch(k, 4, slice(1, 3))
        assert torch.equal(again.support, tasks.support[1:3])


def test_partners_take_turns():
    names = [f"n{n}" for n in range(6)]
    faces = join_domains({d: named(names, "set", seed=i) for i, d in enumerate("abc")})
    sampler = AcrossDomains(faces, ways=3, shots=1, queries=1)
    met = {(e.support_domain, e.query_domain) for e in (sampler.batch(k) for k in range(6))}
    assert len(met) == 6 and all(s != q for s, q in met)


def test_a_domain_that_makes_no_task_is_named():
    faces = join_domains(
        {d: named(["x", "y", "z"], "set", photos=2, seed=i) for i, d in enumerate("ab")}
    )
    with pytest.raises(ValueError, match="domain 'a'.*fewer shots or queries"):
        AcrossDomains(faces, ways=2, shots=3, queries=1)


def test_training_across_resumes_and_is_not_taken_for_the_other(tmp_path):
    faces = join_domains({"day": in_light(False), "night": in_light(True)})
    options = {"iterations": 4, "ways": 4, "queries": 2, "out": tmp_path, "progress": False}

    def learner() -> Prototypical:
        return Prototypical(tiny())

    whole, plain = learner(), learner()
    train(whole, faces, across=True, **options | {"out": None})
    train(plain, faces, **options | {"out": None})
    differ = [
        not torch.equal(a, b) for a, b in zip(whole.parameters(), plain.parameters(), strict=True)
    ]
    assert any(differ)
    train(learner(), faces, across=True, **options)
    with pytest.raises(CheckpointError, match="across"):
        train(learner(), faces, resume=True, **options)


# -- a domain of two sources ---------------------------------------------------------------------


def test_two_sides_are_of_the_people_in_both():
    photos, sketches = named(list("abcdx"), "photos"), named(list("ydcba"), "sketches", 2, seed=1)
    faces = paired_domains(photos, sketches)
    assert people_of(faces) == set("abcd") and len(faces) == 4 * (4 + 2)
    assert list_sides(faces) == {"support_domain": SIDES[0], "query_domain": SIDES[1]}
    for side, given in zip(SIDES, (photos, sketches), strict=True):
        for person in "abcd":
            mine = faces.of_domains(side).of_people([faces.people.index(person)])
            wanted = given.of_people([given.people.index(person)])
            assert np.array_equal(mine.images, wanted.images)
    assert limit_queries(faces, 5) == 2 and limit_queries(faces, 1) == 1
    assert list_sides(photos) == {} and limit_queries(photos, 9) == 9


def test_procedural_sides_are_known_elsewhere():
    """A person keeps one identity in a set of two sides, in others, and when all are joined."""
    numbers = [str(n) for n in range(20)]
    front = named(numbers, "synthetic:frontal")
    sketch = named(numbers, "synthetic:sketch", seed=1)
    sets = {"drawn": paired_domains(front, sketch), "front": named(numbers, "synthetic", seed=2)}
    assert people_of(sets["drawn"]) == people_of(front)
    parts = split_together(sets)
    assert people_of(parts["drawn"].test) == people_of(parts["front"].test)
    both = join_domains({n: p.train for n, p in parts.items()})
    assert len(both.person_ids) == 14 and list_sides(both) == {}
    assert find_partners(both) == {
        "drawn/support": ("drawn/query", "front"),
        "drawn/query": ("drawn/support", "front"),
        "front": ("drawn/support", "drawn/query"),
    }
    assert join_domains({"drawn": parts["drawn"].train}) is parts["drawn"].train


def test_domains_by_file_name(sources, tmp_path):
    csv = sources[0].partition("=")[2].removesuffix(":day")
    given = [
        f"day={csv}@^day-",
        f"late={csv}:night@-[0-9]*[02468].png",
        sources[1],
        f"dusk={csv}@day>{csv}:night@[13579]\\.png",
        f"whole={csv}",
    ]
    found = load_domains(small(given), progress=False)
    assert {n: len(f) for n, f in found.items()} == {
        "day": 120,
        "late": 60,
        "night": 120,
        "dusk": 180,
        "whole": 240,
    }
    whole = found["whole"]
    assert np.array_equal(found["day"].images, whole.of_domains("day").images)
    assert np.array_equal(found["late"].images, whole.of_domains("night").images[::2])
    assert np.array_equal(found["dusk"].of_domains(SIDES[1]).images, found["night"].images[1::2])
    Image.fromarray(whole.images[0]).save(tmp_path / "x.png")
    odd = tmp_path / "odd@home>"  # a name that looks like a pattern is a name
    for row, person in enumerate(("a", "b")):
        (odd / person).mkdir(parents=True)
        Image.fromarray(whole.images[row]).save(odd / person / "x.png")
    assert len(load_domains(small([f"odd={odd}"]), progress=False)["odd"]) == 2


@pytest.mark.parametrize("name", ["me@home", "a:b", "x>y", "a@b:c>d"])
def test_a_path_may_hold_what_divides_sources(name, tmp_path):
    """And what comes after the longest path that is there divides them as ever."""
    faces, folder = iter(patterns(2, 3).images), tmp_path / name
    for person in ("p", "q"):
        (folder / "photos" / person).mkdir(parents=True)
        for photo in (1, 2, 3):
            Image.fromarray(next(faces)).save(folder / "photos" / person / f"{photo}.png")
    rows = [
        f"photos/{p}/{n}.png,{p},{'day' if n > 1 else 'night'}" for p in "pq" for n in (1, 2, 3)
    ]
    (folder / "s.csv").write_text("\n".join(["path,person,domain", *rows]))
    photos, listed = folder / "photos", folder / "s.csv"
    want = {
        f"{photos}": 6,
        f"{photos}@1[.]png": 2,
        f"{photos}@[12][.]p:?": 4,
        f"{listed}:day": 4,
        f"{listed}:day,night": 6,
        f"{listed}:day@2": 2,
        f"{listed}@p/|@": 3,
        f"{photos}@1>{listed}:day": 6,
        f"{photos}@(?P<a>1)>{listed}:day@[23]": 6,
        f"{listed}:night>{photos}@(?P<a>2)": 4,
    }
    for text, count in want.items():
        (faces,) = load_domains(small([f"d={text}"]), progress=False).values()
        assert len(faces) == count, text
    for wrong in (f"{photos}>{photos}>{photos}", f"{photos}>", f">{photos}"):
        with pytest.raises(ValueError, match="write two sources as SUPPORT>QUERY"):
            load_domains(small([f"d={wrong}"]), progress=False)
    with pytest.raises(FileNotFoundError, match="d=.*other@1: no such folder"):
        load_domains(small([f"d={folder / 'other'}@1"]), progress=False)


def test_sides_that_cannot_be_are_refused():
    photos = named(list("abc"), "photos")
    with pytest.raises(ValueError, match="photos and others have 1 people.*a, b, c.*c, d"):
        paired_domains(photos, named(["c", "d"], "others", seed=1))
    with pytest.raises(ValueError, match="numbers have 0 people.*synthetic/0"):
        paired_domains(named(["0", "1"], "synthetic:sketch"), named(["0", "1"], "numbers", seed=1))
    with pytest.raises(ValueError, match="12 photographs are on both.*of a,.*its own query"):
        paired_domains(photos, photos)


def test_people_with_too_few_queries_are_tested_last():
    names = [f"n{n:02}" for n in range(20)]
    many = FaceSet.join({"a": named(names[:8], "s", 3, seed=1), "b": named(names[8:], "s", 1, 2)})
    faces = paired_domains(named(names, "photos", 9), many)  # 10 photographs or more of everybody
    parts = split_together({"one": faces}, queries=3)["one"]
    assert people_of(parts.test) <= set(names[:8]) and limit_queries(parts.test, 3) == 3


def test_validation_where_few_have_more_queries_than_one():
    """Three of four people have two: enough for most, and not for a task of all."""
    names = list("abcd")
    asked = FaceSet.join({"x": named(names, "s", 1), "y": named(names[:3], "s", 1, seed=1)})
    val = paired_domains(named(names, "photos", 2, seed=2), asked)
    people = paired_domains(
        named(list("efgh"), "photos", 2, seed=3), named(list("hgfe"), "s", seed=4)
    )
    people, val = (
        replace(faces, store=faces.store.repeat(2, 1).repeat(2, 2)) for faces in (people, val)
    )
    options = {"ways": 3, "shots": 1, "queries": 2, "iterations": 1, "progress": False}
    history = train(Prototypical(tiny()), people, val, val_ways=4, **options, **list_sides(people))
    assert "val_accuracy" in history.rows[-1]


def test_tasks_and_figures_of_two_sides(monkeypatch):
    """Against what is drawn by hand from the two sources."""
    day, night = in_light(False), in_light(True)
    faces = paired_domains(day, night.take(np.arange(len(night)) % 16 < 3))
    learner = Prototypical(tiny())
    options = {"ways": (3,), "episodes": 20, "progress": False}
    drawn = []
    real = mf.EpisodeSampler.rows

    def noted(self, *args):
        drawn.append(real(self, *args))
        return drawn[-1]

    monkeypatch.setattr(mf.EpisodeSampler, "rows", noted)
    found = measure(learner, faces, queries=5, **options)
    assert found["episodes"][0]["queries"] == 3
    for _, support, query in drawn:
        assert (faces.domain[support] == 0).all() and (faces.domain[query] == 1).all()
    features = embed_faceset(learner, faces)
    assert found["rank1"] == rank1(features, faces.person, faces.domain == 0)
    assert found["tar_at_far"] == tar_at_far(features, faces.person, faces.domain == 0)


def test_rank1_and_tar_between_two_sides_against_a_loop():
    """Each person's photographs lie together, and those of a side lie together more."""
    random = np.random.default_rng(0)
    person, known = np.repeat(np.arange(40), 8), np.tile(np.arange(8) < 5, 40)
    features = random.normal(size=(40, 8))[person] + 0.6 * random.normal(size=(320, 8))
    features += 6 * (random.normal(size=8) * known[:, None])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    scores = features[~known] @ features[known].T
    same = person[~known][:, None] == person[known]
    right = []
    for _ in range(300):  # galleries of one known photograph a person
        gallery = [random.choice(np.flatnonzero(person[known] == p)) for p in range(40)]
        right.append((scores[:, gallery].argmax(1) == person[~known]).mean())
    assert rank1(features, person, known, galleries=300) == pytest.approx(np.mean(right), abs=0.01)
    tars = tar_at_far(features, person, known)
    assert set(tars) == {"0.1", "0.01", "0.001"}
    for far, tar in tars.items():
        threshold = np.quantile(scores[~same], 1 - float(far))
        assert tar == pytest.approx((scores[same] >= threshold).mean(), abs=0.05)
    # and pairs of any two, or galleries of any, are others
    assert abs(rank1(features, person) - np.mean(right)) > 0.05
    assert abs(tar_at_far(features, person)["0.1"] - tars["0.1"]) > 0.1


def test_figures_between_two_sides_of_known_answers():
    person, known = np.array([0, 1, 2, 0, 1, 2]), np.arange(6) < 3
    swapped = np.eye(3)[[0, 1, 2, 0, 2, 1]]  # on the second side, only person 0 is as on the first
    assert rank1(swapped, person, known) == rank1(swapped, person, ~known) == pytest.approx(1 / 3)
    many = np.tile(np.arange(40), 2)
    assert set(tar_at_far(np.eye(40)[many], many, np.arange(80) < 40).values()) == {1.0}
    assert tar_at_far(np.eye(3)[[0, 1, 0]], np.array([0, 1, 0]), np.arange(3) < 2) is None


def test_a_domain_of_two_sources_in_every_protocol(sources, tmp_path, caplog, monkeypatch):
    day, night = (s.partition("=")[2] for s in sources[:2])
    given = [f"dusk={day}>{night}", sources[0], sources[2]]
    settings = small(
        given, learners=("prototypical",), queries=9, protocols=DOMAIN_PROTOCOLS, across=True
    )
    drawn = {}
    real = mf.training.meta._MetaTraining.step

    def noted(self):
        sampler = self.sampler
        turns = getattr(sampler, "turns", [[]])
        pair = (getattr(sampler, "support_domain", None), getattr(sampler, "query_domain", None))
        drawn.setdefault(self.seen["data"], set()).update({pair}, *turns)
        return real(self)

    monkeypatch.setattr(mf.training.meta._MetaTraining, "step", noted)
    with pytest.raises(ValueError, match="domain day: .*at least 10 photographs"):
        cross_domain.run(settings, tmp_path / "m", progress=False)  # six photographs of each
    settings = small(given, learners=("prototypical",), protocols=DOMAIN_PROTOCOLS, across=True)
    found = cross_domain.run(settings, tmp_path / "m", progress=False)
    met = {(r["train"], r["test"]): r for r in found["rows"]}
    assert {t for t in met if "dusk" in t} == {
        ("dusk", "dusk"),
        ("dusk", "day"),
        ("dusk", "others"),
        ("day", "dusk"),
        ("others", "dusk"),
        ("all-but-dusk", "dusk"),
        ("all", "dusk"),
    }
    assert all(0 <= r["rank1"] <= 1 and r["drop"] is not None for r in met.values())
    assert SIDES in drawn["lights"] and (None, None) in drawn["lights"]
    across = drawn["lights + others"]
    assert {("dusk/support", "dusk/query"), ("dusk/query", "dusk/support")} <= across


def test_queries_are_as_many_as_there_are(tmp_path, caplog):
    """As of CUFS: one photograph and one sketch a person."""
    for side, factor in (("photos", 1.0), ("sketches", 0.5)):
        faces = patterns(20, 2)
        for row, person in zip(faces.rows, faces.person, strict=True):
            if row % 2 == (side == "photos"):
                folder = tmp_path / side / f"p{person}"
                folder.mkdir(parents=True)
                Image.fromarray((faces.store[row] * factor).astype(np.uint8)).save(folder / "1.png")
    given = f"sketch={tmp_path / 'photos'}>{tmp_path / 'sketches'}"
    settings = small([given], learners=("prototypical",), queries=4)
    with caplog.at_level(logging.WARNING):
        found = cross_domain.run(settings, tmp_path / "m", progress=False)
    assert "domain sketch: tested with 1 of 4 queries" in caplog.text
    (row,) = found["rows"]
    assert row["queries"] == 1 and row["rank1"] is not None
    result = json.loads((tmp_path / "m/sketch+prototypical-seed0/result.json").read_text())
    assert (result["recipe"]["shots"], result["recipe"]["queries"]) == (1, 1)
    with pytest.raises(ValueError, match=r"domain sketch: .*5 \+ 1 photographs"):
        cross_domain.run(small([given], shots=(5,)), tmp_path / "n", progress=False)


# -- what is measured ----------------------------------------------------------------------------


def test_rank1_against_a_loop():
    random = np.random.default_rng(0)
    person = np.repeat([3, 5, 9, 11], [4, 3, 5, 1])
    centres = random.normal(size=(12, 6))
    features = centres[person] + random.normal(size=(13, 6))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found = rank1(features, person, galleries=2000)
    right = []  # every choice of a gallery of one photograph each
    ids = [np.flatnonzero(person == p) for p in (3, 5, 9, 11)]
    for gallery in np.array(np.meshgrid(*ids)).reshape(4, -1).T:
        for probe in set(range(13)) - set(gallery):
            nearest = max(gallery, key=lambda g: features[g] @ features[probe])
            right.append(person[nearest] == person[probe])
    assert 0.5 < np.mean(right) < 1
    assert found == pytest.approx(np.mean(right), abs=0.01)
    assert rank1(np.eye(3), np.arange(3)) is None  # nobody has a second photograph


def test_tar_at_far_of_features_that_tell_all_or_nothing():
    person = np.repeat(np.arange(40), 10)
    perfect = np.eye(40)[person]
    assert set(tar_at_far(perfect, person)) == {"0.1", "0.01", "0.001"}
    assert set(tar_at_far(perfect, person).values()) == {1.0}
    random = np.random.default_rng(0).normal(size=(400, 8))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    for far, tar in tar_at_far(random, person).items():
        assert tar == pytest.approx(float(far), abs=0.03)
    assert tar_at_far(np.eye(3), np.arange(3)) is None


def test_features_only_where_nothing_below_the_head_adapts():
    faces = patterns(6, 5)
    options = {"ways": (3,), "queries": 2, "episodes": 5, "progress": False}
    found = measure(Prototypical(tiny()), faces, **options)
    assert found["rank1"] is not None and found["tar_at_far"]
    for learner in (MAML(tiny()), Prototypical(tiny("batch"))):
        found = measure(learner, faces, **options)
        assert found["rank1"] is None and found["tar_at_far"] is None
    features = embed_faceset(Prototypical(tiny()), faces)
    alone = tiny()(torch.from_numpy(faces.store[7]).permute(2, 0, 1)[None] / 255)[0].detach()
    assert np.allclose(features[7], alone / alone.norm(), atol=1e-5)


def test_drops_are_paired():
    def unit(train: str, accuracies: dict[str, list[float]]) -> dict:
        task = {"ways": 5, "shots": 1, "queries": 5, "norm": "group", "transductive": False}
        tests = {
            test: {
                "episodes": [task | {"accuracies": a}],
                "rank1": None,
                "tar_at_far": None,
                "seconds": 1.0,
            }
            for test, a in accuracies.items()
        }
        return {
            "train": train,
            "learner": "x",
            "seed": 0,
            "trainable_parameters": 7,
            "train_seconds": 2.0,
            "tests": tests,
        }

    first = unit("a", {"a": [0.9, 0.7, 0.8], "b": [0.5, 0.4, 0.6]})
    second = unit("b", {"a": [0.7, 0.5, 0.6], "b": [0.8, 0.8, 0.8]})
    many = unit("all-but-a", {"a": [0.8, 0.7, 0.7]})
    found = {(r["train"], r["test"]): r for r in make_rows([first, second, many])}
    assert found["a", "a"]["drop"] == 0
    assert found["b", "a"]["drop"] == pytest.approx(0.2)
    assert found["b", "a"]["drop_ci95"] == pytest.approx(0)  # 0.2 in each episode
    assert found["a", "b"]["drop"] == pytest.approx(0.3)
    assert found["all-but-a", "a"]["drop"] == pytest.approx(0.2 / 3)
    assert all(r["drop"] is None for r in make_rows([many]))


def test_learners_or_what_makes_them():
    tests = {"one": patterns(8, 5), "two": patterns(8, 5, seed=1)}
    options = {"ways": (3,), "queries": 2, "episodes": 10, "progress": False}
    learner = Prototypical(tiny())
    found = mf.evaluation.cross_domain(
        {"one": {"p": learner, "q": lambda: learner}}, tests, **options
    )
    assert [(r["train"], r["test"], r["learner"]) for r in found] == [
        ("one", "one", "p"),
        ("one", "two", "p"),
        ("one", "one", "q"),
        ("one", "two", "q"),
    ]
    plain = mf.evaluate(learner, tests["two"], ways=3, queries=2, episodes=10, progress=False)
    assert found[1]["accuracy"] == found[3]["accuracy"] == pytest.approx(plain.accuracy, abs=1e-6)


def test_all_tests_of_all_domains_are_checked_before_the_first_learner_is_made():
    made = []
    tests = {"one": patterns(8, 5), "two": patterns(4, 5, seed=1)}
    with pytest.raises(ValueError, match="5-way 1-shot 2-query tasks need 5 people"):
        mf.evaluation.cross_domain(
            {"one": {"p": lambda: made.append(1)}}, tests, ways=(3, 5), queries=2, episodes=2
        )
    assert not made


# -- the job ---------------------------------------------------------------------------------------


def test_rows_are_complete(results):
    found, out = results
    names = ("day", "night", "others")
    wanted = {(a, b) for a in names for b in names}
    wanted |= {(f"all-but-{n}", n) for n in names} | {("all", n) for n in names}
    for learner in ("prototypical", "fomaml"):
        mine = {(r["train"], r["test"]): r for r in found["rows"] if r["learner"] == learner}
        assert set(mine) == wanted
        for (source, test), row in mine.items():
            assert set(row) >= REQUIRED
            assert 0 <= row["accuracy"] <= 1 and 0 <= row["ci95"] < 1 and row["seconds"] > 0
            assert row["trainable_parameters"] > 1000
            inside = mine[test, test]["accuracy"]
            assert row["drop"] == pytest.approx(inside - row["accuracy"], abs=1e-9)
            assert (row["rank1"] is None) == (row["tar_at_far"] is None) == (learner == "fomaml")
            assert source != test or row["drop"] == 0
    assert len(found["rows"]) == 2 * 15
    assert json.loads((out / "results.json").read_text())["rows"] == found["rows"]


def test_the_page_is_one_self_contained_file(results):
    found, out = results
    page = (out / "report.html").read_text()
    fetched = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            fetched.extend(v for k, v in attributes if k in ("src", "href") and tag != "use")

    Reader().feed(page)
    assert fetched and all(s.startswith(("data:", "#")) for s in fetched)
    assert page.count("<svg") == 2 and page.count("in domain") == 6
    for row in found["rows"]:
        assert f"{100 * row['accuracy']:.1f} ± {100 * row['ci95']:.1f}" in page


def test_all_start_from_given_weights_and_skip_who_was_seen(sources, tmp_path, monkeypatch, caplog):
    day = load_domains(small(sources), progress=False)["day"]
    spec = mf.ModelSpec("prototypical", embedding="conv4-32", image_size=16)
    first = spec.build(7)
    seen = {"p1", "p3", "p4", "p8"}
    some = day.of_people([day.people.index(p) for p in seen])
    options = {"ways": 2, "queries": 1, "iterations": 1, "progress": False}
    train(first, some, out=tmp_path / "first", spec=spec, **options)
    start = str(tmp_path / "first" / "checkpoint.pt")
    begun = []
    real = job.train

    def noted(learner, *args, **given):
        begun.append({n: t.clone() for n, t in learner.embedding.state_dict().items()})
        return real(learner, *args, **given)

    monkeypatch.setattr(job, "train", noted)
    settings = small(sources, start=start, queries=1, ways=(2,), iterations=1, seed=1)
    plain = split_together(load_domains(settings, progress=False), 1, queries=1)
    assert people_of(plain["day"].test) & seen  # or nothing would be left out
    with caplog.at_level(logging.WARNING):
        found = cross_domain.run(settings, tmp_path / "m", progress=False)
    assert len(begun) == 6
    for state in begun:
        for name, tensor in first.embedding.state_dict().items():
            assert torch.equal(state[name], tensor)
    assert found["settings"]["start"] == start
    assert start in (tmp_path / "m" / "report.html").read_text()
    left = len(people_of(plain["day"].test) - seen)
    assert f"lights: {left} people" in found["data"]["day"]["test"]
    assert found["data"]["others"]["test"] == plain["others"].test.describe()  # another source
    assert "were seen in training, and are left out" in caplog.text
    with pytest.raises(FileExistsError, match="start was"):
        cross_domain.run(replace(settings, start=None), tmp_path / "m", resume=True)
    with pytest.raises(ValueError, match=r"checkpoint.pt does not fit the network conv4:"):
        cross_domain.run(replace(settings, embedding="conv4"), tmp_path / "n", progress=False)


def test_people_of_a_joined_set_are_known_again():
    """Seen in one source, or in several, people are not tested in a set of two sides."""
    photos, sketches = named(list("abcd"), "photos"), named(list("abcd"), "sketches", seed=1)
    both = paired_domains(photos, sketches)
    assert people_of(both.unseen("photos", ["a"])) == set("bcd")
    assert people_of(both.unseen("sketches + others", ["b", "c"])) == set("ad")
    assert both.unseen("others", ["a"]) is both
    drawn = paired_domains(
        named(["0", "1", "2"], "synthetic:frontal"), named(["0", "1", "2"], "synthetic", seed=1)
    )
    assert people_of(drawn.unseen("synthetic:profile", ["1"])) == {"synthetic/0", "synthetic/2"}
    left = drawn.unseen("synthetic + lfw", ["synthetic/0", "1"])  # the other is LFW's
    assert people_of(left) == {"synthetic/1", "synthetic/2"}
    assert people_of(drawn.unseen("synthetic + lfw", ["0", "1"])) == {"synthetic/2"}


def test_procedural_and_other_people_of_one_number_train_and_validate_together():
    numbers = [str(n) for n in range(20)]
    others = named([*numbers, *"abcdef"], "numbered", seed=2)
    sets = {"a": named(numbers, "synthetic"), "real": others}
    parts = split_together(sets, seed=0)
    faces, val = (
        join_domains({n: getattr(p, part) for n, p in parts.items()}) for part in PARTS[:2]
    )
    bare = [name.removeprefix("synthetic/") for name in people_of(faces)]
    assert {name.removeprefix("synthetic/") for name in people_of(val)} & {*bare}
    assert not val.known(**faces.seen())


def test_interrupted_matrix_goes_on_to_identical_rows(sources, tmp_path, monkeypatch):
    settings = small(sources[1:], learners=("prototypical",), protocols=("pairs", "all"))
    whole = cross_domain.run(settings, tmp_path / "whole", progress=False)
    real, calls = cross_domain.measure, []

    def stop_at_fourth(*args, **given):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **given)

    monkeypatch.setattr(cross_domain, "measure", stop_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        cross_domain.run(settings, tmp_path / "cut", progress=False)
    with pytest.raises(FileExistsError, match="--resume"):
        cross_domain.run(settings, tmp_path / "cut", progress=False)
    monkeypatch.setattr(cross_domain, "measure", real)
    calls.clear()
    resumed = cross_domain.run(settings, tmp_path / "cut", resume=True, progress=False)
    timed = {"seconds", "test_seconds"}
    kept = [
        [{k: v for k, v in r.items() if k not in timed} for r in found["rows"]]
        for found in (whole, resumed)
    ]
    assert kept[0] == kept[1]


def test_a_finished_matrix_is_shown_and_others_are_refused(results, sources, caplog):
    found, out = results
    settings = small(sources, protocols=DOMAIN_PROTOCOLS, across=True)
    with caplog.at_level(logging.WARNING):
        again = cross_domain.run(settings, out, resume=True, progress=False)
    assert again["rows"] == found["rows"] and "finished domain matrix" in caplog.text
    with pytest.raises(FileExistsError, match="across was True"):
        cross_domain.run(small(sources, protocols=DOMAIN_PROTOCOLS), out, resume=True)


def test_the_command_prints_the_matrix(sources, tmp_path, capsys):
    command = [
        "cross-domain",
        "--domains",
        *sources[:2],
        "--learners",
        "prototypical",
        "--iterations",
        "1",
        "--ways",
        "3",
        "--queries",
        "2",
        "--episodes",
        "10",
        "--image-size",
        "16",
        "--embedding",
        "conv4-32",
        "--quiet",
    ]
    assert main([*command, "--out", str(tmp_path / "m")]) == 0
    said = capsys.readouterr().out.splitlines()
    header = next(i for i, line in enumerate(said) if line.startswith("prototypical, 3-way 1-shot"))
    assert said[header].split()[-2:] == ["day", "night"]
    assert [line.split()[0] for line in said[header + 1 : header + 3]] == ["day", "night"]
    assert (tmp_path / "m" / "report.html").is_file()


@pytest.mark.parametrize(
    ("domains", "extra", "said"),
    [
        (["lfw.zip"], [], "domain 'lfw.zip': write it as NAME=SOURCE"),
        (["a=x.zip", "a=y.zip"], [], "domain 'a' is given twice"),
        (["a=nowhere.zip"], [], "domain a=nowhere.zip: no such folder"),
        (["a=nowhere.zip:dark"], [], "domain a=nowhere.zip:dark: no such folder"),
        (["a=synthetic@x"], [], "domain a=synthetic@x: only='x' is for the file names"),
        (["a=x.zip@[>y"], [], "domain a=x.zip@[>y: no such folder"),
        (["a=x.zip>"], [], "domain a=x.zip>: write two sources as SUPPORT>QUERY"),
        (["a=x>y>z"], [], "domain a=x>y>z: write two sources as SUPPORT>QUERY"),
        (["a=y.zip>synthetic"], [], "domain a=y.zip>synthetic: no such folder"),
        (["a=synthetic:dusk"], [], "domain a=synthetic:dusk: unknown domain 'dusk'"),
        (["a/b=synthetic"], [], "domain 'a/b'"),
        (["all=synthetic"], [], "domain 'all'"),
        (["a=synthetic"], ["--protocols", "leave-one-out"], "two domains"),
        (["a=synthetic", "b=synthetic"], ["--across"], "protocols leave-one-out or all"),
    ],
)
def test_bad_input_is_one_clear_line(domains, extra, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["cross-domain", "--domains", *domains, "--quiet", *extra]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and len(error.splitlines()) == 1


def test_an_unknown_domain_of_a_file_is_named(sources, tmp_path, capsys):
    wrong = sources[0].replace(":day", ":dusk")
    out = str(tmp_path / "m")
    assert main(["cross-domain", "--domains", wrong, "--quiet", "--out", out]) == 2
    error = capsys.readouterr().err
    assert "no domain 'dusk'" in error and "'day', 'night'" in error


def test_a_pattern_that_finds_nothing_is_named(sources, tmp_path, capsys):
    csv = sources[0].partition("=")[2].removesuffix(":day")
    for pattern, said in (("dawn", "none of its 240 paths"), ("(", "not a regular expression")):
        command = ["cross-domain", "--domains", f"a={csv}@{pattern}", "--quiet"]
        assert main([*command, "--out", str(tmp_path / "m")]) == 2
        error = capsys.readouterr().err
        assert f"domain a={csv}@{pattern}: " in error and said in error and repr(pattern) in error


def test_too_few_test_people_is_said_before_training(sources, tmp_path, capsys):
    out = tmp_path / "m"
    command = ["cross-domain", "--domains", *sources, "--ways", "15", "--queries", "2", "--quiet"]
    assert main([*command, "--out", str(out)]) == 2
    assert "domain day: " in capsys.readouterr().err
    assert not out.exists()  # and the folder is free for a better attempt
