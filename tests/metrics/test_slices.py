"""Error rates by group, against loops; attributes from a CSV."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from helpers import portrait, squares
from PIL import Image

from metaface import metrics
from metaface.cli import main
from metaface.data.attributes import read_attributes, read_column
from metaface.experiments.protocols import AlignedFaces
from metaface.metrics.group_names import bin_numbers, name_groups
from metaface.metrics.groups import MOST, Errors, draw_matched, draw_pairs_within
from metaface.report.groups import draw_group_rates, format_slices, write_slices

BOTH = pytest.mark.parametrize("measure", [metrics.verify_by_group, metrics.identify_by_group])
ASKED = {metrics.verify_by_group: {"fmr": 0.05}, metrics.identify_by_group: {"fpir": 0.1}}


def crowd(people=60, photos=5, spread=0.5, bias=0.0, dim=16, seed=0):
    """Unit embeddings; people of the group "b" are ``bias`` alike."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), photos)
    group = np.array(["a", "b"], dtype="U8")[person % 2]
    common = random.normal(size=dim)
    centre = random.normal(size=(people, dim))
    centre[1::2] = (1 - bias) * centre[1::2] + bias * common
    e = centre[person] + spread * random.normal(size=(len(person), dim))
    order = random.permutation(len(person))
    e = (e / np.linalg.norm(e, axis=1, keepdims=True)).astype(np.float32)
    return e[order], person[order] * 7, group[order]


def test_verification_by_loops():
    e, person, group = crowd(20, 4)
    group[::9] = ""
    got = metrics.verify_by_group(e, person, group, fmr=0.05)
    assert (got.kind, got.asked, [g.name for g in got.groups]) == ("verification", 0.05, ["a", "b"])
    for found, name in ((got.overall, None), *((g, g.name) for g in got.groups)):
        rows = [i for i in range(len(person)) if name in (None, group[i])]
        # few enough photographs that every pair is drawn
        counts = {True: [0, 0], False: [0, 0]}
        for i, j in combinations(rows, 2):
            same = bool(person[i] == person[j])
            accepted = float(np.dot(e[i].astype(float), e[j])) >= got.threshold
            counts[same][0] += 1
            counts[same][1] += accepted != same
        assert found.people == len({person[i] for i in rows})
        assert [found.false_positive.trials, found.false_positive.errors] == counts[False]
        assert [found.false_negative.trials, found.false_negative.errors] == counts[True]
        exact, (rate, low, high) = found.false_negative.exact, found.false_negative.rate
        assert exact == metrics.clopper_pearson(counts[True][1], counts[True][0])
        assert low <= exact.low <= rate == exact.value <= exact.high <= high
    reached = got.overall.false_positive
    assert reached.errors == math.floor(0.05 * reached.trials)  # as many as may be


def test_matched_pairs_of_groups_are_everybodys():
    """More pairs a person than are drawn: what is missed in the groups is what everybody misses."""
    e, person, group = crowd(40, 12, spread=0.8)
    got = metrics.verify_by_group(e, person, group, fmr=0.05)
    every, parts = got.overall.false_negative, [g.false_negative for g in got.groups]
    assert every.trials == sum(p.trials for p in parts) == 400
    assert every.errors == sum(p.errors for p in parts) > 0


def test_people_in_two_groups_have_as_many_pairs_in_each():
    """Glasses that are worn on half of the photographs: ten pairs with, ten without."""
    person = np.repeat(np.arange(20), 12)
    group = np.array(["on", "off", ""])[np.r_[[0] * 5, [1] * 6, 2].tolist() * 20]
    rows, everybodys, inside = draw_matched(person, group, np.random.default_rng(0))
    same = draw_pairs_within(person)
    np.testing.assert_array_equal(rows[everybodys], same[0][same[1]])
    for name in ("on", "off"):
        mine = rows[inside & (group[rows] == name).all(1)]
        assert np.bincount(person[mine[:, 0]]).tolist() == [10] * 20
        assert len({tuple(sorted(pair)) for pair in mine.tolist()}) == len(mine)
    assert (group[rows[inside]][:, 0] == group[rows[inside]][:, 1]).all()
    assert not (group[rows[inside]] == "").any()


def test_identification_by_loops():
    e, person, group = crowd(30, 4, spread=0.8)
    group[::9] = ""
    got = metrics.identify_by_group(e, person, group, shots=2, fpir=0.1, seed=3)
    random = np.random.default_rng(3)
    people = sorted(set(person.tolist()))
    first = {people[k] for n, k in enumerate(random.permutation(30)) if n % 2 == 0}
    place = {}
    for p in people:
        mine = np.flatnonzero(person == p)
        place |= dict(zip(mine.tolist(), random.permutation(len(mine)).tolist(), strict=True))
    searches = []
    for enrolled in (first, set(people) - first):
        means = {}
        for p in enrolled:
            mean = sum(e[i].astype(float) for i in np.flatnonzero(person == p) if place[i] < 2)
            means[p] = mean / np.linalg.norm(mean)
        for i in range(len(person)):
            if person[i] in enrolled and place[i] < 2:
                continue
            scores = {p: float(mean @ e[i]) for p, mean in means.items()}
            best = max(scores, key=scores.get)
            searches.append((i, person[i] in enrolled, best == person[i], scores[best]))
    for found in (got.overall, *got.groups):
        mine = [s for s in searches if found is got.overall or group[s[0]] == found.name]
        strange = [s for s in mine if not s[1]]
        known = [s for s in mine if s[1]]
        wrong = sum(s[3] >= got.threshold for s in strange)
        missed = sum(not (s[2] and s[3] >= got.threshold) for s in known)
        assert found.false_positive == Errors(len(strange), wrong, found.false_positive.over_people)
        assert (found.false_negative.trials, found.false_negative.errors) == (len(known), missed)
    assert got.overall.false_positive.errors == math.floor(0.1 * 120)


@BOTH
def test_a_biased_embedding_is_flagged(measure):
    fair = measure(*crowd(160, 4, seed=1), **ASKED[measure])
    biased = measure(*crowd(160, 4, bias=0.45, seed=1), by="kind", **ASKED[measure])
    assert not fair.differs("false_positive") and not fair.differs("false_negative")
    assert fair.ratio("false_positive") < 2
    assert biased.differs("false_positive") and biased.ratio("false_positive") > 2
    a, b = biased.groups
    assert b.false_positive.rate.value > biased.asked > a.false_positive.rate.value
    assert "the groups differ" in format_slices(biased)


def test_a_few_alike_people_are_no_proof():
    """Two people who look alike make many wrong pairs, and say little about their group."""
    e, person, group = crowd(40, 12, spread=0.2, dim=32)
    twins = [p for p in np.unique(person) if (p // 7) % 2][:2]
    e[person == twins[1]] = e[person == twins[0]]
    got = metrics.verify_by_group(e, person, group, fmr=0.005)
    a, b = (g.false_positive for g in got.groups)
    assert b.exact.low > a.exact.high  # of these very people, it is true
    assert b.over_people.low < a.exact.high
    assert not got.differs("false_positive")


@pytest.mark.parametrize("alike", [False, True])
def test_what_is_printed_and_written_is_the_interval_that_decides(alike, tmp_path):
    """Whoever reads two intervals that do not meet reads that the groups differ, and only then."""
    e, person, group = crowd(40, 12, spread=0.2, dim=32)
    twins = [p for p in np.unique(person) if (p // 7) % 2][: 2 if alike else 12]
    for twin in twins[1:]:
        e[person == twin] = e[person == twins[0]]
    got = metrics.verify_by_group(e, person, group, fmr=0.005 if alike else 0.02)
    assert got.differs("false_positive") == (not alike)

    write_slices(tmp_path / "report.html", [got])
    page = (tmp_path / "report.html").read_text()
    a, b = (row["false_positive"] for row in got.rows()[1:])
    for found, errors in ((a, got.groups[0].false_positive), (b, got.groups[1].false_positive)):
        printed = f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
        assert f"FMR {printed} of" in format_slices(got)
        assert f"{100 * found['low']:.2f} to {100 * found['high']:.2f}" in page
        assert found["interval"] == (found["low"], found["high"])
        assert found["clopper_pearson"] == tuple(errors.exact[1:])
    assert (b["low"] > a["high"]) == (not alike)


def test_intervals_over_people_of_matched_pairs_are_the_cluster_bootstraps():
    e, person, group = crowd(40, 5, spread=0.8)
    got = metrics.verify_by_group(e, person, group, fmr=0.05).overall.false_negative
    rows, same = draw_pairs_within(person)
    scores = np.einsum("nd,nd->n", e[rows[:, 0]], e[rows[:, 1]], dtype=np.float64)
    cut = metrics.verify_by_group(e, person, group, fmr=0.05).threshold
    missed = np.array(
        [((person[rows[:, 0]] == p) & same & (scores < cut)).sum() for p in np.unique(person)]
    )
    spread = (missed / 10).std() / math.sqrt(40)  # everybody has ten pairs
    half = (got.over_people.high - got.over_people.low) / 2
    assert half == pytest.approx(1.96 * spread, rel=0.15)
    assert got.over_people.value == pytest.approx(got.rate.value)


@BOTH
def test_repeatable(measure):
    e, person, group = crowd()
    got = measure(e, person, group, seed=2, **ASKED[measure])
    assert got == measure(e, person, group, seed=2, **ASKED[measure])
    assert got.overall != measure(e, person, group, seed=4, **ASKED[measure]).overall or (
        measure is metrics.verify_by_group
    )


def test_groups_that_cannot_be_measured():
    e, person, group = crowd(30, 4)
    group[person == 0] = "lone"
    got = metrics.verify_by_group(e, person, group, fmr=0.05)
    lone = got.groups[-1]
    assert lone.name == "lone" and lone.people == 1 and lone.false_positive.trials == 0
    assert math.isnan(lone.false_positive.rate.value)
    assert got.ratio("false_positive") < 3 and not got.differs("false_positive")
    rows = json.loads(json.dumps(got.rows()))
    assert rows[0]["group"] is None and rows[-1]["false_positive"]["interval"] is None


def test_ratio_of_errorless_groups():
    e, person, group = crowd(40, 4, spread=0.01, dim=64)
    got = metrics.verify_by_group(e, person, group, fmr=0.05)
    assert math.isnan(got.ratio("false_negative"))
    e[person == 7] = np.eye(64, dtype=np.float32)[: (person == 7).sum()]
    assert metrics.verify_by_group(e, person, group, fmr=0.05).ratio("false_negative") == math.inf


def test_draw_within():
    person = np.random.default_rng(0).permutation(np.repeat(np.arange(90), [1, 9] * 45))
    rows, same = draw_pairs_within(person)
    who = person[rows]
    np.testing.assert_array_equal(who[:, 0] == who[:, 1], same)
    assert np.bincount(who[same, 0], minlength=90).tolist() == [0, 10] * 45
    assert (~same).sum() == MOST
    for each in (rows, draw_pairs_within(np.arange(500))[0]):
        assert len({tuple(sorted(r)) for r in each.tolist()}) == len(each)
    many, alike = draw_pairs_within(np.arange(500) // 2)  # by drawing, not by listing
    assert len(many) == MOST + 250 and alike.sum() == 250
    assert np.bincount(many[~alike].ravel(), minlength=500).min() > 40


@BOTH
@pytest.mark.parametrize(
    "change,message",
    [
        (
            {"group": ["a"] * 300},
            "^kind has the value 'a' alone: to compare takes two groups, so leave kind out",
        ),
        (
            {"group": ["a"] * 280 + [""] * 20},
            "^kind has the value 'a' alone .20 of 300 are blank: unknown, and in no group.: to",
        ),
        ({"group": [""] * 300}, "^kind has no value .300 of 300 are blank"),
        ({"group": ["a", "b"]}, "group \\[2\\]: need \\[n, D\\], \\[n\\] and \\[n\\]"),
        ({"embeddings": np.full((300, 4), np.nan)}, "not a number"),
        ({"fmr": 1e-5, "fpir": 1e-5}, "a rate of 1e-05 is not measured on .* ask for "),
        ({"fmr": 1.5, "fpir": 1.5}, "=1.5: a rate between 0 and 1"),
    ],
)
def test_slices_refuse(measure, change, message):
    e, person, group = crowd()
    given = {"embeddings": e, "person": person, "group": group, "by": "kind", **change}
    given.pop("fpir" if measure is metrics.verify_by_group else "fmr", None)
    with pytest.raises(ValueError, match=message):
        measure(**given)


def test_identification_refuses():
    e, person, group = crowd(people=20, photos=2)
    with pytest.raises(ValueError, match="0 people have more than shots=2"):
        metrics.identify_by_group(e, person, group, shots=2)
    with pytest.raises(ValueError, match="shots=0"):
        metrics.identify_by_group(e, person, group, shots=0)


# ---------------------------------------------------------------- attributes


def test_bins():
    values = np.r_[np.arange(30.0), np.nan]
    got = bin_numbers(values)
    assert got[-1] == "" and got[0] == "1: 0 to 9" and got[29] == "3: 20 to 29"
    assert [int((got == n).sum()) for n in sorted(set(got) - {""})] == [10, 10, 10]
    assert len(set(bin_numbers(np.array([0, 0, 0, 0, 1.0])))) == 1  # a mass that no bin divides
    for bins, numbers in ((1, [1, 2]), (3, [2, 2])):
        with pytest.raises(ValueError, match=f"bins={bins} of "):
            bin_numbers(np.array(numbers, float), bins)


@pytest.mark.parametrize("bins", [2, 3, 7])
def test_a_number_is_in_the_range_of_its_own_bin_alone(bins):
    ages = np.array([21, 21, 25, 30, 34, 34, 34, 41, 47, 52, 58, 60, -3], float)
    for name, age in zip(bin_numbers(ages, bins), ages, strict=True):
        assert [n for n in set(bin_numbers(ages, bins)) if covers(n, age)] == [name]
    assert set(bin_numbers(np.arange(21.0, 61))) == {"1: 21 to 33", "2: 34 to 46", "3: 47 to 60"}
    halves = bin_numbers(np.arange(21, 61) / 2, 2)
    assert set(halves) == {"1: 10.5 to below 20.2", "2: 20.2 to 30"}
    close = bin_numbers(np.array([1.0, 20.22, 20.28, 30.5]), 2)  # "20.2" would be below 20.22
    assert close.tolist() == ["1: 1 to below 20.25"] * 2 + ["2: 20.25 to 30.5"] * 2
    assert set(bin_numbers(np.array([0.0, 0, 0, 1, 1, 1]), 2)) == {"1: 0", "2: 1"}


def covers(name, number):
    low, *high = name.split(": ")[1].split(" to ")
    return float(low) <= number <= float(high[0] if high else low)


def test_as_groups():
    assert name_groups("cap", np.array([True, False])).tolist() == ["cap", "not cap"]
    assert name_groups("n", np.array([1.0, 2, math.nan])).tolist() == ["1", "2", ""]
    assert name_groups("n", ["3", "", "04"]).tolist() == ["3", "", "04"]
    assert name_groups("n", ["x", "", "4"]).tolist() == ["x", "", "4"]
    numbers = name_groups("n", [str(i) for i in range(24)] + [""], 2)
    assert set(numbers) == {"1: 0 to 11", "2: 12 to 23", ""} and numbers[-1] == ""


CSV = "person,sex,age\nAna,f,31\n\nBo , m,\nCy,f,50\n"


def written(tmp_path, text):
    path = tmp_path / "attributes.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("text", [CSV, "\ufeff" + CSV, CSV.replace("\n", "\r\n")])
def test_read_attributes(tmp_path, text):
    key, found = read_attributes(written(tmp_path, text))
    assert key == "person" and list(found) == ["Ana", "Bo", "Cy"]
    assert found["Bo"] == {"sex": "m", "age": ""}
    assert read_column(found, "sex", ["Cy", "Bo", "Cy"]).tolist() == ["f", "m", "f"]


def test_read_attributes_of_photographs(tmp_path):
    text = "path,person,light\nAna/1.jpg,Ana,hard\nAna/2.jpg,Ana\n"
    key, found = read_attributes(written(tmp_path, text))
    assert key == "path" and found["Ana/1.jpg"] == {"person": "Ana", "light": "hard"}
    assert found["Ana/2.jpg"]["light"] == ""


@pytest.mark.parametrize(
    "text,message",
    [
        ("", "the columns are \\[\\]: give person"),
        ("name,sex\nAna,f\n", "columns are \\['name', 'sex'\\]: give person \\(or path\\)"),
        ("person\nAna\n", "at least one attribute"),
        ("person,sex,sex\nAna,f,m\n", "a column is there twice"),
        ("person,sex\n", "no row below"),
        ("person,sex\nAna,f\n,m\n", "line 3 names no person"),
        ("person,sex\nAna,f\nBo,m\nAna,f\n", "line 4: person 'Ana' is there twice"),
        (b"person,sex\n\xff\xfe,f\n", "is not a CSV in UTF-8"),
    ],
)
def test_read_attributes_refuses(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"attributes.csv.*{message}"):
        read_attributes(written(tmp_path, text))


def test_columns_refuse(tmp_path):
    _, found = read_attributes(written(tmp_path, CSV))
    with pytest.raises(ValueError, match="no column 'beard': there are sex, age"):
        read_column(found, "beard", ["Ana"])
    with pytest.raises(ValueError, match="no attributes of Di, Ed, Flo and 1 more: of 5 names"):
        read_column(found, "sex", ["Ana", "Flo", "Gus", "Di", "Ed", "Di"])


# ---------------------------------------------------------------- page and command


def test_page(tmp_path):
    found = [measure(*crowd(), by="<sex>", **ASKED[measure]) for measure in ASKED]
    write_slices(tmp_path / "page.html", found)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4 and page.count("<h2>") == 2 and "by &lt;sex&gt;" in page
    for rate in ("FMR", "FNMR", "FPIR", "FNIR"):
        assert page.count(f"<td>{rate}, ") == 3
    value = found[0].groups[1].false_negative.rate.value
    assert f"<td>{100 * value:.2f}</td>" in page
    other = metrics.verify_by_group(*crowd(seed=9), fmr=0.05)
    assert len(draw_group_rates(found[0], "false_negative")) != len(
        draw_group_rates(other, "false_positive")
    )


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("metaface.recognition.embedders.loading.load", lambda *given: squares())

    def run(*words):
        capsys.readouterr()
        status = main(
            [
                "slices",
                "--people",
                "12",
                "--photos",
                "4",
                "--fmr",
                "0.1",
                "--fpir",
                "0.3",
                "--quiet",
                "--out",
                str(tmp_path / "out"),
                *words,
            ]
        )
        return status, *capsys.readouterr()

    return run


def test_command_on_procedural_faces(command, tmp_path):
    status, out, _ = command("--by", "female", "skin_tone")
    assert status == 0 and "verification by female" in out and "not female" in out
    found = json.loads((tmp_path / "out/results.json").read_text())["slices"]
    assert [(s["kind"], s["by"]) for s in found] == [
        ("verification", "female"),
        ("identification", "female"),
        ("verification", "skin_tone"),
        ("identification", "skin_tone"),
    ]
    assert len(found[2]["rows"]) == 4
    status, _, error = command("--by", "height")
    assert status == 2 and "knows nothing of 'height': it has glasses" in error


def test_command_with_attributes(command, tmp_path):
    rows = [f"{p},{'even' if p % 2 == 0 else 'odd'}" for p in range(12)]
    path = written(tmp_path, "\n".join(["person,parity", *rows]))
    status, out, _ = command("--by", "parity", "--attributes", str(path))
    assert status == 0 and "verification by parity" in out and "  odd " in out
    written(tmp_path, "\n".join(["person,parity", *rows[:-1]]))
    status, _, error = command("--by", "parity", "--attributes", str(path))
    assert status == 2 and "attributes.csv: no attributes of 11: of 12 names" in error


def test_command_on_photographs(command, tmp_path, monkeypatch):
    e, person, group = crowd(12, 4)
    crops = np.random.default_rng(0).integers(0, 256, (48, 112, 112, 3), dtype=np.uint8)
    paths = tuple(f"{p}/{i}.jpg" for i, p in enumerate(person))
    names = tuple(map(str, sorted(set(person.tolist()))))
    monkeypatch.setattr("metaface.cli.weak_spots.load_models", lambda o: (None, squares()))
    made = AlignedFaces("set", crops, e, person // 7, names, paths, ())
    monkeypatch.setattr("metaface.experiments.protocols.align_people", lambda *a, **k: made)
    rows = [f"{path},{g}" for path, g in zip(paths, group, strict=True)]
    path = written(tmp_path, "\n".join(["path,kind", *rows]))
    status, out, _ = command("--data", "x.zip", "--by", "kind", "--attributes", str(path))
    assert status == 0 and "verification by kind" in out
    assert command("--data", "x.zip", "--by", "kind")[2].strip().endswith("FILE.csv")


@pytest.fixture
def unseen(tmp_path, monkeypatch):
    """A folder of six people whose photographs must not be detected."""

    def detector(image):
        raise AssertionError("a photograph was detected before the arguments were checked")

    monkeypatch.setattr("metaface.cli.weak_spots.load_models", lambda o: (detector, squares()))
    for person in range(6):
        folder = tmp_path / "photos" / f"p{person}"
        folder.mkdir(parents=True)
        for photo in range(2):
            Image.fromarray(portrait(person, photo)).save(folder / f"{photo}.png")
    return ["--data", str(tmp_path / "photos"), "--quiet", "--out", str(tmp_path / "out")]


PEOPLE = "person,sex,country\n" + "".join(f"p{i},{'fm'[i % 2]},{'x'[i % 2 :]}\n" for i in range(6))


@pytest.mark.parametrize(
    "text,by,message",
    [
        (PEOPLE, "sex Sex", "attributes.csv: no column 'Sex': there are sex, country"),
        (PEOPLE.replace("p3,", "q3,"), "sex", "attributes.csv: no attributes of p3: of 6 names"),
        (PEOPLE, "sex country", "attributes.csv: country has the value 'x' alone (6 of 12 are"),
        ("path,sex\np9/0.png,f\n", "sex", "no attributes of p0/0.png, p0/1.png"),
        ("path,sex\np0/0.png,f\np1/1.png,\n", "sex", "sex has the value 'f' alone (1 of 2"),
        (None, "sex", "photos knows nothing of 'sex': give --attributes"),
    ],
)
def test_groups_are_checked_before_photographs(unseen, tmp_path, capsys, text, by, message):
    given = ["--attributes", str(written(tmp_path, text))] if text else []
    assert main(["slices", *unseen, *given, "--by", *by.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words,message",
    [
        (["--nuisances", "blurr"], "no corruption 'blurr': choose of"),
        (["--dials", "--nuisances", "blurr"], "no steps of a dial 'blurr': choose of"),
        (["--ways", "20", "--queries", "1"], "but only 6 of 6 have them"),
        (["--ways", "5"], "but only 0 of 6 have them"),
    ],
)
def test_robustness_is_checked_before_photographs(unseen, capsys, words, message):
    assert main(["robustness", *unseen, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words,message",
    [
        (["robustness", "--people", "6", "--ways", "20"], "but only 6 of 6 have them"),
        (["robustness", "--people", "6", "--ways", "20", "--dials"], "but only 6 of 6 have them"),
        (["slices", "--by", "height"], "synthetic knows nothing of 'height': it has glasses"),
    ],
)
def test_arguments_are_checked_before_faces_are_rendered(
    monkeypatch, tmp_path, capsys, words, message
):
    def load(*given):
        raise AssertionError("the network was loaded before the arguments were checked")

    monkeypatch.setattr("metaface.recognition.embedders.loading.load", load)
    assert main([*words, "--quiet", "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
