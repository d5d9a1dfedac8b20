"""Protocols of recognition against loops, closed forms and scipy."""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metaface import metrics
from metaface.data.wider import read_wider
from metaface.experiments.fitted_protocols import fit_few_shot, fit_open_set, fit_pairs
from metaface.experiments.protocols import AlignedFaces, find_pairs
from metaface.faces.detections import overlaps
from metaface.metrics.cohort import normalise
from metaface.metrics.intervals import bootstrap, estimate_share, estimate_share_over_seeds
from metaface.metrics.thresholds import calibrate
from metaface.report import recognition, write_recognition

# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("trials", [1, 2, 10, 300, 5000])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_clopper_pearson_is_scipys(trials, level):
    for hits in {0, 1, trials // 3, trials - 1, trials}:
        got = metrics.clopper_pearson(hits, trials, level)
        want = stats.binomtest(hits, trials).proportion_ci(level, method="exact")
        assert got == pytest.approx((hits / trials, want.low, want.high), abs=1e-9)


@pytest.mark.parametrize("hits,trials", [(-1, 3), (4, 3), (0, 0)])
def test_clopper_pearson_refuses(hits, trials):
    with pytest.raises(ValueError, match=f"{hits} hits of {trials}"):
        metrics.clopper_pearson(hits, trials)


def test_bootstrap_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(5, 2, 400)
    got = metrics.bootstrap(lambda w: w @ values / w.sum(1), 400)
    half = 1.96 * values.std() / 20
    assert got.value == pytest.approx(values.mean())
    assert got.high - values.mean() == pytest.approx(half, rel=0.1)
    assert values.mean() - got.low == pytest.approx(half, rel=0.1)


def test_bootstrap_keeps_clusters_together():
    """Ten copies of everything are no more evidence where they are in one cluster."""
    hits = np.random.default_rng(1).binomial(20, 0.3, 50)
    assert estimate_share(10 * hits, np.full(50, 200)) == pytest.approx(
        estimate_share(hits, np.full(50, 20))
    )


@pytest.mark.parametrize("of_person,of_seed", [(1, 0), (0, 1), (1, 1)])
def test_over_seeds_is_the_variance_of_both_kinds(of_person, of_seed):
    """Of a person's effect plus a seed's, the bootstrap's variance has a closed form."""
    random = np.random.default_rng(0)
    person = 10 + of_person * random.normal(size=(1, 300))
    seed = of_seed * random.normal(size=(40, 1))
    trials = np.full((40, 300), 7)
    got = estimate_share_over_seeds(7 * (person + seed), trials)
    half = 1.96 * math.sqrt(person.var() / 300 + seed.var() / 40)
    assert got.value == pytest.approx(float((person + seed).mean()))
    assert (got.high - got.low) / 2 == pytest.approx(half, rel=0.08)


def test_over_seeds_knows_people_it_meets_again():
    """Five seeds with the same people and answers are no more people; nor is an untested one."""
    hits = np.random.default_rng(1).binomial(20, 0.3, 50)
    trials = np.full(50, 20)
    alone = estimate_share(hits, trials)
    assert estimate_share_over_seeds(hits[None], trials[None]) == pytest.approx(alone)
    again = estimate_share_over_seeds(np.tile(hits, (5, 1)), np.tile(trials, (5, 1)))
    assert again == pytest.approx(alone)
    more = np.concatenate([hits, [0, 0]])[None], np.concatenate([trials, [0, 0]])[None]
    assert estimate_share_over_seeds(*more) == pytest.approx(alone)
    pairs = np.array([[3, 0, 2], [0, 4, 1]]), np.array([[5, 0, 5], [0, 5, 5]])
    assert estimate_share_over_seeds(*pairs).value == pytest.approx(10 / 20)


@pytest.mark.parametrize("fpir", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_rejection_is_counted_by_loops(fpir):
    random = np.random.default_rng(2)
    known, strangers = random.integers(0, 30, 80) / 4, random.integers(-10, 20, 60) / 4
    right = random.random(80) < 0.8
    below, named = metrics.measure_rejection(known, right, strangers, fpir)
    auroc = stats.mannwhitneyu(known, strangers).statistic / (80 * 60)
    assert below.mean() == pytest.approx(auroc)
    for score, share_below in zip(known, below, strict=True):
        lower = sum(s < score for s in strangers) + sum(s == score for s in strangers) / 2
        assert share_below == pytest.approx(lower / 60)
    cuts = [c for c in {*known, *strangers} if sum(s >= c for s in strangers) <= fpir * 60]
    want = [bool(cuts) and r and k >= min(cuts) for k, r in zip(known, right, strict=True)]
    assert named.tolist() == want
    with pytest.raises(ValueError, match="0 strangers"):
        metrics.measure_rejection(known, right, np.array([]))


def test_bootstrap_edges():
    one = estimate_share(np.array([3]), np.array([4]))
    assert one.value == 0.75 and math.isnan(one.low) and math.isnan(one.high)
    few = estimate_share(np.array([1, 0]), np.array([1, 0]))  # some resamples have no trial
    assert few == (1, 1, 1)
    with pytest.raises(ValueError, match="clusters=0"):
        metrics.bootstrap(lambda w: w.sum(1), 0)


# ---------------------------------------------------------------- pairs

LISTED = "2\t1\nAna\t1\t4\nAna\t2\tBo\t1\nCy_D\t1\t12\nBo\t3\tCy_D\t1\n"


def written(tmp_path, text, name="pairs.txt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", [LISTED, LISTED.replace("\t", " "), LISTED + "\n\n"])
def test_read_pairs(tmp_path, text):
    files, pairs = metrics.read_pairs(written(tmp_path, text))
    named = [tuple(files[i].rsplit("/")[1] for i in row) for row in pairs.rows]
    assert named == [
        ("Ana_0001.jpg", "Ana_0004.jpg"),
        ("Ana_0002.jpg", "Bo_0001.jpg"),
        ("Cy_D_0001.jpg", "Cy_D_0012.jpg"),
        ("Bo_0003.jpg", "Cy_D_0001.jpg"),
    ]
    assert files == tuple(sorted(set(files))) and files[0] == "Ana/Ana_0001.jpg"
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 1, 1]


def test_read_pairs_behind_a_byte_order_mark(tmp_path):
    text = "1\t1\nAna\t1\t2\nBo\t1\tCy\t1\n"
    files, pairs = metrics.read_pairs(written(tmp_path, "\ufeff" + text))
    assert files == metrics.read_pairs(written(tmp_path, text))[0] and len(pairs) == 2


def some_people(*paths: str) -> AlignedFaces:
    count = len(paths)
    return AlignedFaces(
        "set",
        np.zeros((count, 112, 112, 3), np.uint8),
        np.eye(count, dtype=np.float32),
        np.arange(count),
        tuple(map(str, range(count))),
        paths,
        (),
    )


def test_pairs_of_photographs_in_another_format(tmp_path):
    listed = written(tmp_path, "1 1\nA.B 1 2\nA.B 2 Cy 1\n")
    people = some_people(
        "s/A.B/A.B_0001.png", "s/A.B/A.B_0002.PNG", "s/A.B/A.B_0002.jpg", "s/Cy/Cy_0001.bmp"
    )
    pairs, missing = find_pairs(people, listed)
    assert missing == 0 and pairs.rows.tolist() == [[0, 2], [2, 3]]  # the list's own, if there
    twice = some_people("A.B/A.B_0001.png", "A.B/A.B_0001.bmp", "A.B/A.B_0002.png")
    with pytest.raises(ValueError, match=r"names A.B/A.B_0001.jpg, and set has .*bmp and .*png"):
        find_pairs(twice, listed)
    with pytest.raises(ValueError, match=r"set has .* none of the 2 pairs of .*pairs.txt, such as"):
        find_pairs(some_people("Cy/Cy_0001.png"), listed)


def test_read_pairs_of_one_fold(tmp_path):
    _, pairs = metrics.read_pairs(written(tmp_path, "1\nAna\t1\t4\nAna\t2\tBo\t1\n"))
    assert pairs.same.tolist() == [True, False] and pairs.fold.tolist() == [0, 0]


@pytest.mark.parametrize(
    "text,message",
    [
        ("", "line 1: expected the number of folds"),
        ("ten 300\n", "line 1: expected the number of folds.*'ten 300'"),
        ("10 300 1\n", "line 1: expected"),
        ("0\n", "line 1: expected"),
        ("-1 3\n", "line 1: expected"),
        ("²\n", "line 1: expected"),
        ("9999999999999999999999\n", "line 1: expected"),
        (LISTED[: LISTED.rindex("Bo")], "2 folds of 1 matched .* 4 lines, but 3 follow"),
        (LISTED + "Ana\t1\t2\n", "4 lines, but 5 follow"),
        (LISTED.replace("Ana\t1\t4", "Ana\t1"), "line 2: expected a matched pair.*Ana"),
        (LISTED.replace("Ana\t1\t4", "Ana\t1\tBo\t4"), "line 2: expected a matched pair"),
        (LISTED.replace("Ana\t2\tBo\t1", "Ana\t2\t1"), "line 3: expected a mismatched pair"),
        (LISTED.replace("Cy_D\t1\t12", "Cy_D\tx\t12"), "line 4: expected a matched pair"),
        (LISTED.replace("Cy_D\t1\t12", "Cy_D\t0\t12"), "line 4: expected a matched pair"),
        (LISTED.replace("Cy_D\t1\t12", "\t1\t12"), "line 4: expected a matched pair"),
        (LISTED.replace("Ana\t1\t4", "Ana\t1\t1"), "line 2: .* with itself"),
        (LISTED.replace("Ana\t2\tBo\t1", "Ana\t2\tAna\t1"), "line 3: a mismatched pair of one"),
    ],
)
def test_read_pairs_refuses(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"pairs.txt: .*{message}"):
        metrics.read_pairs(written(tmp_path, text))


def test_read_pairs_of_lfw(test_data, tmp_path):
    with zipfile.ZipFile(test_data("lfw_deepfunneled.zip")) as archive:
        for name, folds, half in (
            ("pairs", 10, 300),
            ("pairsDevTrain", 1, 1100),
            ("pairsDevTest", 1, 500),
        ):
            text = archive.read(f"lfw_deepfunneled/{name}.txt").decode()
            files, pairs = metrics.read_pairs(written(tmp_path, text))
            assert Counter(pairs.fold.tolist()) == dict.fromkeys(range(folds), 2 * half)
            assert pairs.same.sum() == folds * half
            names = np.array([f.split("/")[0] for f in files])[pairs.rows]
            np.testing.assert_array_equal(names[:, 0] == names[:, 1], pairs.same)
            if name == "pairs":
                assert len(files) == 7701
                both = {n: set(pairs.fold[(names == n).any(1)]) for n in np.unique(names)}
                assert max(map(len, both.values())) == 1  # its folds share nobody


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=30), st.integers(1, 4), st.integers(0, 99))
def test_drawn_pairs(photos, folds, seed):
    person = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(photos)) * 7, photos))
    asked = {}
    for kind in ("matched", "mismatched"):
        other = "mismatched" if kind == "matched" else "matched"
        with pytest.raises(ValueError, match=f"{kind}=100000 pairs in {folds} folds") as caught:
            metrics.draw_pairs(person, **{kind: 100000, other: 0}, folds=folds, seed=seed)
        asked[kind] = int(str(caught.value).split("make ")[1].split()[0])
        with pytest.raises(ValueError, match=f"make {asked[kind]} at most"):
            metrics.draw_pairs(person, **{kind: asked[kind] + 1, other: 0}, folds=folds, seed=seed)
    pairs = metrics.draw_pairs(person, **asked, folds=folds, seed=seed)  # as many as it said
    assert pairs.same.sum() == asked["matched"] and (~pairs.same).sum() == asked["mismatched"]
    who = person[pairs.rows]
    np.testing.assert_array_equal(who[:, 0] == who[:, 1], pairs.same)
    assert (pairs.rows[:, 0] < pairs.rows[:, 1]).all()
    assert len(set(map(tuple, pairs.rows.tolist()))) == len(pairs)
    fold_of = {}
    for fold, two in zip(pairs.fold.tolist(), who.tolist(), strict=True):
        assert {fold_of.setdefault(p, fold) for p in two} == {fold}
    sizes = np.bincount(pairs.fold[pairs.same], minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    again = metrics.draw_pairs(person, **asked, folds=folds, seed=seed)
    np.testing.assert_array_equal(pairs.rows, again.rows)


def test_every_matched_pair_can_be_drawn():
    person = np.repeat([3, 5], [4, 3])
    pairs = metrics.draw_pairs(person, matched=9, mismatched=12, folds=1)
    assert len(pairs) == 21 == 7 * 6 // 2


def test_people_are_drawn_alike_however_many_photographs_they_have():
    person = np.repeat(np.arange(40), [60] + [4] * 39)  # one person has 88% of the matched pairs
    pairs = metrics.draw_pairs(person, matched=80, mismatched=80, folds=1)
    for same in (True, False):
        assert (person[pairs.rows[pairs.same == same]] == 0).any(1).sum() < 16


def test_seeds_draw_different_pairs():
    person = np.repeat(np.arange(40), 4)
    a, b = (metrics.draw_pairs(person, 40, 40, 4, seed=s) for s in (0, 1))
    assert (a.rows != b.rows).any()
    with pytest.raises(ValueError, match="folds=0"):
        metrics.draw_pairs(person, folds=0)


def test_scores_of_pairs():
    e = normalise(np.random.default_rng(0).normal(size=(9, 4)))
    pairs = metrics.draw_pairs(np.repeat(np.arange(3), 3), 5, 5, 1)
    want = [float(np.dot(e[a].astype(float), e[b].astype(float))) for a, b in pairs.rows]
    np.testing.assert_allclose(pairs.scores(e), want, rtol=1e-6)


# ---------------------------------------------------------------- verification


def trial(n=400, seed=0, folds=5, digits=1):
    """Overlapping scores with many ties."""
    random = np.random.default_rng(seed)
    same = random.random(n) < 0.4
    return random.normal(same * 1.5).round(digits), same, random.integers(folds, size=n)


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_verification_by_loops(digits):
    scores, same, fold = trial(digits=digits)
    got = metrics.verification(scores, same, fold)
    pairs = list(zip(scores.tolist(), same.tolist(), fold.tolist(), strict=True))
    for t, fmr, fnmr in zip(got.threshold, got.fmr, got.fnmr, strict=True):
        false = sum(s >= t for s, y, _ in pairs if not y)
        missed = sum(s < t for s, y, _ in pairs if y)
        assert fmr == false / (~same).sum() and fnmr == pytest.approx(missed / same.sum())
    assert sorted(set(scores.tolist()), reverse=True) == got.threshold[1:].tolist()
    for k in range(5):
        rest = [(s, y) for s, y, f in pairs if f != k]
        cut = got.thresholds[k]
        best = max(sum((s >= t) == y for s, y in rest) for t in [*got.threshold])
        assert sum((s >= cut) == y for s, y in rest) == best
        mine = [(s >= cut) == y for s, y, f in pairs if f == k]
        assert got.accuracies[k] == pytest.approx(sum(mine) / len(mine))
    for point in got.at:
        able = [
            t
            for t in [math.inf, *scores.tolist()]
            if sum(s >= t for s, y, _ in pairs if not y) <= point.far * (~same).sum() + 1e-9
        ]
        hits = sum(s >= min(able) for s, y, _ in pairs if y)
        assert point.threshold == min(able) and point.fmr <= point.far + 1e-12
        assert point.tar == metrics.clopper_pearson(hits, int(same.sum()))


def test_verification_of_gaussian_scores():
    """d' = 3: EER and error are Phi(-1.5), TAR at FAR f is Phi(3 + Phi^-1(f))."""
    random = np.random.default_rng(3)
    same = np.arange(40_000) % 2 == 0
    scores = random.normal(3.0 * same)
    got = metrics.verification(scores, same, np.arange(40_000) // 4000)
    assert got.eer == pytest.approx(stats.norm.cdf(-1.5), abs=0.003)
    assert got.accuracy == pytest.approx(stats.norm.cdf(1.5), abs=0.003)
    assert got.thresholds == pytest.approx(1.5, abs=0.25)
    assert got.standard_error == pytest.approx(np.sqrt(0.933 * 0.067 / 40_000), rel=0.6)
    assert got.ci95 == pytest.approx(stats.t.ppf(0.975, 9) * got.standard_error)
    assert str(got) == f"{got.accuracy:.3f} ± {got.ci95:.3f}"
    assert [p.far for p in got.at] == [0.1, 0.01, 0.001, 0.0005]
    for point in got.at[:3]:
        want = stats.norm.cdf(3 + stats.norm.ppf(point.far))
        slack = 4 / np.sqrt(point.far * 20_000) * point.far * 10  # of the threshold's own rate
        assert point.tar.low - slack < want < point.tar.high + slack


@pytest.mark.parametrize(
    "mismatched,fars",
    [(2500, [0.1, 0.01, 0.004]), (1000, [0.1, 0.01]), (100, [0.1]), (50, [0.2]), (9, [])],
)
def test_smallest_far(mismatched, fars):
    random = np.random.default_rng(0)
    same = np.arange(mismatched + 20) < 20
    got = metrics.verification(
        random.normal(size=len(same)), same, random.integers(2, size=len(same))
    )
    assert [p.far for p in got.at] == fars
    assert got.smallest_far == 10 / mismatched
    assert [round(p.fmr * mismatched) for p in got.at] == [round(f * mismatched) for f in fars]


def test_a_folds_threshold_does_not_see_the_fold():
    scores, same, fold = trial(digits=6)
    before = metrics.verification(scores, same, fold).thresholds
    scores[fold == 2] = -scores[fold == 2] * 10
    after = metrics.verification(scores, same, fold).thresholds
    assert before[2] == after[2] and (before != after).any()


def test_verification_of_perfect_and_of_hopeless_scores():
    same, fold = np.arange(80) % 2 == 0, np.arange(80) // 40
    perfect = metrics.verification(same * 1.0, same, fold)
    assert (perfect.accuracy, perfect.eer, perfect.ci95) == (1, 0, 0)
    assert perfect.thresholds.tolist() == [0.5, 0.5]
    assert metrics.verification(-1.0 * same, same, fold).eer == 1
    alike = metrics.verification(np.zeros(80), same, fold)
    assert (alike.accuracy, alike.eer) == (0.5, 0.5)
    few = np.arange(80) % 8 == 0  # matched pairs are rare and score low: best accept nobody
    assert metrics.verification(-1.0 * few, few, fold).accuracy == 1 - few.mean()


@pytest.mark.parametrize(
    "scores,same,fold,message",
    [
        ([1, 2, 3], [1, 0], [0, 1], "must be one of each"),
        ([1, math.nan], [1, 0], [0, 1], "score of pair 1 is nan"),
        ([1, 2], [1, 1], [0, 1], "2 matched and 0 mismatched"),
        ([1, 2], [1, 0], [3, 3], "one fold.*pairsDevTrain"),
    ],
)
def test_verification_refuses(scores, same, fold, message):
    with pytest.raises(ValueError, match=message):
        metrics.verification(np.array(scores), np.array(same), np.array(fold))


# ---------------------------------------------------------------- open set


def crowd(people=80, dim=16, spread=0.7, seed=0):
    """Unit embeddings of people with 1 to 8 photographs."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(people) * 3 + 5, random.integers(1, 9, size=people))
    centre = random.normal(size=(people * 3 + 5, dim))
    e = centre[person] + spread * random.normal(size=(len(person), dim))
    order = random.permutation(len(person))
    e = (e / np.linalg.norm(e, axis=1, keepdims=True)).astype(np.float32)
    return e[order], person[order]


SMALL = metrics.OpenSetDesign(enrolled=10, shots=2, strangers=30, cohort=35, galleries=6)


class Recording:
    """The default scorer, and all it was given, as photographs."""

    def __init__(self, embeddings):
        self.rows = {e.tobytes(): i for i, e in enumerate(embeddings)}
        self.galleries = []

    def find(self, embeddings):
        return [self.rows[e.tobytes()] for e in embeddings]

    def __call__(self, gallery, labels, cohort, cohort_person):
        scores = metrics.prototype_scorer(gallery, labels, cohort, cohort_person)
        seen = []
        self.galleries.append((self.find(gallery), labels, self.find(cohort), cohort_person, seen))

        def scored(probes, whose):
            seen.append((self.find(probes), scores(probes, whose)))
            return scores(probes, whose)

        return scored


def test_open_set_by_loops():
    e, person = crowd()
    recording = Recording(e)
    got = metrics.open_set(e, person, SMALL, ask=0.1, fpirs=(0.02, 0.1, 0.3), scorer=recording)
    assert len(recording.galleries) == 6
    mated = right = unmated = wrong = named = 0
    at = Counter()
    for (rows, labels, cohort, whose, seen), threshold in zip(
        recording.galleries, got.thresholds, strict=True
    ):
        enrolled = {
            int(label): {int(person[r]) for r, y in zip(rows, labels, strict=True) if y == label}
            for label in labels
        }
        assert sorted(enrolled) == list(range(10)) and len(rows) == 20 == len(set(rows))
        assert all(len(people) == 1 for people in enrolled.values())
        label_of = {people.pop(): label for label, people in enrolled.items()}
        assert person[cohort].tolist() == whose.tolist()
        by_rows = {frozenset(found): scores for found, scores in seen}
        probes = {r for r in range(len(e)) if person[r] in label_of} - set(rows)
        strangers = [
            r for found, _ in seen for r in found if person[r] not in label_of and r not in cohort
        ]
        groups = [set(label_of), set(person[cohort]), set(person[strangers])]
        assert [len(g) for g in groups] == [10, 35, 30]
        assert len(set.union(*groups)) == 75  # nobody is in two
        for group in groups[1:]:  # with all their photographs
            every = frozenset(np.flatnonzero(np.isin(person, list(group))).tolist())
            assert every in by_rows
        assert frozenset(probes) in by_rows
        best = {}
        for found, scores in seen:
            for r, s in zip(found, scores.astype(float), strict=True):
                best[r] = int(np.argmax(s)), float(s.max())
        # everyone of the cohort weighs the same: at most a tenth of them and the stranger may pass
        weight = {p: 1 / int((person == p).sum()) for p in set(whose.tolist())}

        def passing(least, best=best, cohort=cohort, weight=weight):
            return sum(weight[int(person[r])] for r in cohort if best[r][1] >= least)

        assert threshold == np.nextafter(
            min(
                t
                for t in (best[r][1] for r in cohort)
                if passing(np.nextafter(t, np.inf)) + 1 <= 0.1 * 36 + 1e-9
            ),
            np.inf,
        )
        hit = [best[r][1] for r in probes if best[r][0] == label_of[int(person[r])]]
        mated += len(probes)
        named += len(hit)
        right += sum(s >= threshold for s in hit)
        unmated += len(strangers)
        wrong += sum(best[r][1] >= threshold for r in strangers)
        for f in (0.02, 0.1, 0.3):
            cut = min(
                s
                for s in [math.inf, *(b[1] for b in best.values())]
                if sum(best[r][1] >= s for r in strangers) <= f * len(strangers)
            )
            at[f] += sum(s >= cut for s in hit)
            at[-f] += sum(best[r][1] >= cut for r in strangers)
    assert got.realised_fpir.value == pytest.approx(wrong / unmated)
    assert got.realised_dir.value == pytest.approx(right / mated)
    assert got.rank1.value == pytest.approx(named / mated)
    assert [p.fpir for p in got.at] == [0.02, 0.1, 0.3]
    for point in got.at:
        assert point.dir.value == pytest.approx(at[point.fpir] / mated)
        assert point.reached == pytest.approx(at[-point.fpir] / unmated)
        assert point.dir.low <= point.dir.value <= point.dir.high
    assert len(got.genuine_scores) == len(got.other_scores) == mated
    assert len(got.impostor_scores) == unmated
    assert got.curve_fpir[-1] == 1 and got.curve_dir[-1] == pytest.approx(named / mated)
    assert (np.diff(got.curve_fpir) >= 0).all() and (np.diff(got.curve_dir) >= 0).all()
    assert got.design is SMALL and "asked" in str(got)


def test_calibrated_threshold_keeps_the_rate_exactly():
    """The 95th of 99 exchangeable scores is exceeded by a further one 5 times in 100."""
    random = np.random.default_rng(0)
    draws = random.normal(size=(5_000, 100))
    who = np.arange(99)

    def threshold(best, rate):
        return calibrate(best, who, rate).threshold

    false = np.mean([d[99] >= threshold(d[:99], 0.05) for d in draws])
    assert false == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 5_000))
    tied = random.integers(4, size=(500, 100)).astype(float)
    assert np.mean([d[99] >= threshold(d[:99], 0.05) for d in tied]) <= 0.05
    assert not calibrate(draws[0, :99], who, 0.009).supported
    assert threshold(draws[0, :99], 0.01) == np.nextafter(max(draws[0, :99]), 9)
    assert calibrate(draws[0, :99], who, 0.01).supported


def test_realised_rate_is_the_one_asked():
    e, person = crowd(people=400, spread=1.0)
    got = metrics.open_set(
        e,
        person,
        metrics.OpenSetDesign(enrolled=20, strangers=180, cohort=180, galleries=20),
        ask=0.05,
    )
    assert 0.035 < got.realised_fpir.value < 0.055  # several photographs a stranger: rather less
    assert got.realised_dir.value == pytest.approx(
        np.interp(got.realised_fpir.value, got.curve_fpir, got.curve_dir), abs=0.03
    )


def test_clear_people_are_all_found():
    e, person = crowd(dim=64, spread=0.05)
    got = metrics.open_set(e, person, SMALL, ask=0.05, fpirs=(0.05,))
    assert got.rank1.value == got.realised_dir.value == got.at[0].dir.value == 1


def test_galleries_depend_on_seed_and_number_alone():
    e, person = crowd()
    a = metrics.open_set(e, person, SMALL, ask=0.1)
    b = metrics.open_set(e, person, replace(SMALL, galleries=3), ask=0.1)
    c = metrics.open_set(e, person, replace(SMALL, seed=1), ask=0.1)
    np.testing.assert_array_equal(a.thresholds[:3], b.thresholds)
    assert (a.thresholds != c.thresholds).all()
    np.testing.assert_array_equal(a.genuine_scores[: len(b.genuine_scores)], b.genuine_scores)


def test_scorer_and_calibration_can_be_exchanged():
    e, person = crowd()

    def scorer(gallery, labels, cohort, whose):
        return lambda probes, _: (
            7 * metrics.prototype_scorer(gallery, labels, cohort, whose)(probes, None)
        )

    seven = metrics.open_set(e, person, SMALL, scorer=scorer, calibrate=lambda best, who, fpir: 3.5)
    plain = metrics.open_set(e, person, SMALL, calibrate=lambda best, who, fpir: 0.5)
    assert seven.realised_fpir.value == plain.realised_fpir.value > 0
    assert seven.realised_dir == plain.realised_dir


def test_rates_without_strangers_enough_are_left_out():
    e, person = crowd()
    got = metrics.open_set(e, person, SMALL, fpirs=(0.0001, 0.001, 0.3))
    assert [p.fpir for p in got.at] == [0.3] and 0.001 < got.smallest_fpir < 0.05
    lone = metrics.open_set(e, person, replace(SMALL, enrolled=1), ask=0.001)
    assert (lone.thresholds < math.inf).all()  # above all of the cohort, which is too small
    assert lone.rank1.value == 1 and (lone.other_scores == -math.inf).all()


@pytest.mark.parametrize(
    "change,message",
    [
        ({"strangers": 50}, "80 people, .* strangers=50 and cohort=35 need 95 people"),
        (
            {"shots": 8},
            "80 people, 0 of them with more than 8 .* 10 of them with more than shots=8",
        ),
        ({"enrolled": 0}, "enrolled=0"),
        ({"galleries": 0}, "galleries=0"),
        ({"ask": 0.0}, "ask=0.0: a rate between"),
        ({"fpirs": (1,)}, "fpirs=1: a rate between"),
        ({"scorer": lambda *given: lambda probes, _: probes}, "the scorer gave .* of 10 people"),
        (
            {"scorer": lambda *given: lambda probes, _: np.full((len(probes), 10), np.nan)},
            "of them not a number",
        ),
    ],
)
def test_open_set_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        counts = {n: change.pop(n) for n in vars(SMALL).keys() & change.keys()}
        metrics.open_set(*crowd(), replace(SMALL, **counts), **change)


def test_open_set_refuses_other_shapes():
    e, person = crowd()
    with pytest.raises(ValueError, match="need \\[n, D\\] and \\[n\\]"):
        metrics.open_set(e, person[1:])
    with pytest.raises(TypeError, match=r"open_set has no shots= any more: write .*OpenSetDesign"):
        metrics.open_set(e, person, shots=1)


# ---------------------------------------------------------------- what the photographs allow

COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=40)


ASKED = {n: st.none() | st.integers(1, 30) for n in ("enrolled", "shots", "strangers", "cohort")}


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.fixed_dictionaries(ASKED))
def test_an_open_set_is_of_people_who_are_there(photos, asked):
    person = np.repeat(np.arange(len(photos)), photos)
    able = (np.array(photos) > (asked["shots"] or 1)).sum()
    groups = [asked[n] or 1 for n in ("enrolled", "strangers", "cohort")]
    possible = sum(groups) <= len(photos) and able >= groups[0]
    try:
        design, note = fit_open_set(person, **asked)
    except ValueError as error:
        assert not possible
        assert not asked["strangers"] or f"--stranger-count {asked['strangers']}" in str(error)
        return
    kept = {name: count for name, count in asked.items() if count}
    assert possible and bool(note) == (design != metrics.OpenSetDesign(**kept))
    assert all(getattr(design, name) == count for name, count in kept.items())
    embeddings = normalise(np.random.default_rng(0).normal(size=(len(person), 8)))
    metrics.open_set(embeddings, person, replace(design, galleries=1))


def test_an_open_set_of_enough_people_is_as_it_is_documented():
    person = np.repeat(np.arange(1150), 4)
    assert fit_open_set(person) == (metrics.OpenSetDesign(), "")
    assert fit_open_set(person[:-4])[0] == metrics.OpenSetDesign(strangers=499)
    assert fit_open_set(person[:160])[0] == metrics.OpenSetDesign(8, 3, 14, 18)
    assert fit_open_set(person[:160], strangers=30)[0] == metrics.OpenSetDesign(2, 3, 30, 8)


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.none() | st.integers(1, 40))
def test_pairs_are_of_people_who_are_there(photos, drawn):
    """Whatever is not refused can be measured: a pair of each kind in each of two folds or more."""
    person = np.repeat(np.arange(len(photos)), photos)
    try:
        count, folds, _ = fit_pairs(person, drawn)
    except ValueError as error:
        assert f"--drawn {drawn} pair" in str(error) or not drawn
        if drawn == 1:  # which no two folds can share
            return
        with pytest.raises(ValueError):
            metrics.draw_pairs(person, max(2, drawn or 0), max(2, drawn or 0), 2)
        return
    pairs = metrics.draw_pairs(person, count, count, folds)
    metrics.verification(pairs.scores(np.eye(len(person), 8)), pairs.same, pairs.fold)
    assert count == drawn or not drawn
    assert fit_pairs(np.repeat(np.arange(200), 8), None) == (2500, 10, "")


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.none() | st.just((2, 7)), st.sampled_from([(1,), (1, 4)]))
def test_episodes_are_of_people_who_are_there(photos, asked, shots):
    person = np.repeat(np.arange(len(photos)), photos)
    able = (np.array(photos) > max(shots)).sum()
    try:
        ways, queries, note = fit_few_shot(person, asked, shots)
    except ValueError as error:
        assert able < max(asked or [2]) and f"--shots {max(shots)}" in str(error)
        return
    assert (np.array(photos) >= max(shots) + queries).sum() >= max(ways) >= min(ways) >= 2
    assert ways == asked or not asked
    assert bool(note) == ((ways, queries) != (asked or (5, 20), 5))


# ---------------------------------------------------------------- detection

BOX = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 6), st.integers(0, 6))


@given(st.lists(BOX, max_size=4), st.lists(BOX, max_size=4))
def test_overlap_by_counting_pixels(a, b):
    def pixels(box):
        x, y, w, h = box
        return {(i, j) for i in range(x, x + w) for j in range(y, y + h)}

    arrays = [np.array(boxes, dtype=float).reshape(-1, 4) for boxes in (a, b)]
    want = [[len(pixels(p) & pixels(q)) / max(1, len(pixels(p) | pixels(q))) for q in b] for p in a]
    np.testing.assert_allclose(overlaps(*arrays), np.reshape(want, (len(a), len(b))))


def scene(seed, photos=12):
    """Photographs with found, missed, doubled, ignored and invented faces; scores with ties."""
    random = np.random.default_rng(seed)
    detected, truth, ignore = [], [], []
    for _ in range(photos):
        m = int(random.integers(0, 6))
        boxes = np.concatenate([random.uniform(0, 60, (m, 2)), random.uniform(10, 30, (m, 2))], 1)
        again = (
            boxes[random.integers(m, size=2 * m)] + random.normal(0, 3, (2 * m, 4)) if m else boxes
        )
        false = random.uniform(5, 60, (int(random.integers(0, 4)), 4))
        found = np.concatenate([again, false])
        detected.append((found, random.random(len(found)).round(1)))
        truth.append(boxes)
        ignore.append(random.random(m) < 0.3)
    return detected, truth, ignore


def counted(detected, truth, ignore, iou=0.5):
    """Right and wrong detections, int ``[2, thresholds, photographs]``, each from scratch."""
    thresholds = sorted({float(s) for _, scores in detected for s in scores})
    counts = np.zeros((2, len(thresholds), len(truth)), int)
    for k, t in enumerate(thresholds):
        for photo, ((boxes, scores), true, skip) in enumerate(
            zip(detected, truth, ignore, strict=True)
        ):
            taken = set()
            for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
                if scores[i] < t:
                    continue
                over = [
                    float(overlaps(boxes[i : i + 1], true[j : j + 1])[0, 0])
                    for j in range(len(true))
                ]
                able = [
                    j for j in range(len(true)) if over[j] >= iou and not skip[j] and j not in taken
                ]
                if able:
                    taken.add(max(able, key=lambda j: over[j]))
                    counts[0, k, photo] += 1
                elif not any(over[j] >= iou and skip[j] for j in range(len(true))):
                    counts[1, k, photo] += 1
    return counts


def naive(counts, ignore, weights):
    """Mean over faces of the best precision at that recall or more; nan where there is no face."""
    total = int(sum(w * (~skip).sum() for skip, w in zip(ignore, weights, strict=True)))
    points = [(r, r / (r + w)) for r, w in (counts @ weights).T if r + w]
    best = [max((p for r, p in points if r >= k), default=0) for k in range(1, total + 1)]
    return sum(best) / total if total else np.nan


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("iou", [0.3, 0.7])
def test_average_precision_by_loops(seed, iou):
    got = metrics.average_precision(*scene(seed), iou=iou)
    counts, ignore = counted(*scene(seed), iou=iou), scene(seed)[2]
    assert got.ap.value == pytest.approx(naive(counts, ignore, np.ones(12)))
    want = bootstrap(lambda w: np.array([naive(counts, ignore, row) for row in w]), 12)
    assert tuple(got.ap) == pytest.approx(tuple(want))  # of the same resamples
    assert 0 < got.ap.low <= got.ap.value <= got.ap.high < 1
    assert (np.diff(got.threshold) < 0).all() and (np.diff(got.recall) >= 0).all()


def test_photographs_may_come_in_any_order():
    detected, truth, ignore = scene(0)
    order = np.random.default_rng(5).permutation(len(truth))
    other = metrics.average_precision(
        *([part[i] for i in order] for part in (detected, truth, ignore))
    )
    assert other.ap.value == pytest.approx(
        metrics.average_precision(detected, truth, ignore).ap.value
    )


def one_photo(boxes, scores, truth, ignore):
    return metrics.average_precision(
        [(np.array(boxes, float).reshape(-1, 4), np.array(scores))],
        [np.array(truth, float)],
        [np.array(ignore)],
    )


def test_average_precision_by_hand():
    a, b, far = [0, 0, 10, 10], [20, 0, 10, 10], [50, 50, 10, 10]
    near = [0, 0, 10, 8]  # overlaps a by 0.8
    assert one_photo([a, b], [0.9, 0.8], [a, b], [False, False]).ap.value == 1
    assert one_photo([], [], [a], [False]).ap.value == 0
    assert one_photo([far], [0.5], [a], [False]).ap.value == 0
    # a second box on a face is false: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1
    doubled = one_photo([a, near, b], [0.9, 0.8, 0.7], [a, b], [False, False])
    assert doubled.ap.value == pytest.approx((1 + 2 / 3) / 2)
    assert doubled.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    # boxes on an ignored face are dropped, however many
    ignored = one_photo([b, b, a], [0.9, 0.8, 0.7], [a, b], [False, True])
    assert (ignored.ap.value, ignored.faces, ignored.ignored) == (1, 1, 1)
    # a face that counts goes before an ignored one that is overlapped more
    assert one_photo([near], [0.9], [a, near], [False, True]).ap.value == 1
    assert math.isnan(ignored.ap.low)  # one photograph says nothing about others
    same = metrics.average_precision(
        [(np.array([a, far]), np.array([0.5, 0.9]))] * 9,
        [np.array([a])] * 9,
        [np.array([False])] * 9,
    )
    assert same.ap == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    "detected,truth,ignore,iou,message",
    [
        ([], [[[0, 0, 1, 1]]], [[False]], 0.5, "0 photographs detected, 1 with boxes"),
        ([([], [0.5])], [[[0, 0, 1, 1]]], [[False]], 0.5, "photograph 0: 0 boxes with scores"),
        ([([], [])], [[[0, 0, 1, 1]]], [[]], 0.5, "photograph 0: .* 1 faces with marks"),
        ([([[0, 0, 1, 1]], [math.nan])], [[[0, 0, 1, 1]]], [[False]], 0.5, "not a number"),
        ([([], [])], [[[0, 0, 1, 1]]], [[True]], 0.5, "none of the 1 faces in 1 photographs"),
        ([], [], [], 0.5, "none of the 0 faces"),
        ([([], [])], [[]], [[]], 50, "iou=50"),
    ],
)
def test_average_precision_refuses(detected, truth, ignore, iou, message):
    with pytest.raises(ValueError, match=message):
        metrics.average_precision(detected, truth, ignore, iou)


# ---------------------------------------------------------------- WIDER FACE

TEXT = """0--Parade/a.jpg
2
38 374 108 136 0 0 0 0 0 0 
480.5 272 62 20 0 0 0 0 0 0
0--Parade/none.jpg
0
0 0 0 0 0 0 0 0 0 0
b.jpg
1
5 6 70 80 1 0 0 1 0 0
"""
ENTRIES = {
    "images": [
        {
            "file": "0--Parade/a.jpg",
            "faces": [{"bbox": [38, 374, 108, 136], "invalid": 0}, {"bbox": [480.5, 272, 62, 20]}],
        },
        {"file": "0--Parade/none.jpg", "faces": []},
        {"file": "b.jpg", "faces": [{"bbox": [5, 6, 70, 80], "invalid": 1}]},
    ]
}


def check_wider(found, names=("0--Parade/a.jpg", "0--Parade/none.jpg", "b.jpg")):
    assert tuple(a.path for a in found) == names
    assert [a.boxes.tolist() for a in found] == [
        [[38, 374, 108, 136], [480.5, 272, 62, 20]],
        [],
        [[5, 6, 70, 80]],
    ]
    assert [a.ignore.tolist() for a in found] == [[False, True], [], [True]]
    assert found[1].boxes.shape == (0, 4)


@pytest.mark.parametrize("name,text", [("x_bbx_gt.txt", TEXT), ("annotations.json", ENTRIES)])
def test_read_wider(tmp_path, name, text):
    text = text if isinstance(text, str) else json.dumps(text)
    path = written(tmp_path, text, name)
    check_wider(read_wider(path))
    check_wider(read_wider(written(tmp_path, "\ufeff" + text, name)))  # a byte order mark
    check_wider(read_wider(tmp_path))
    (tmp_path / "images/0--Parade").mkdir(parents=True)
    (tmp_path / "images/0--Parade/a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    names = ("images/0--Parade/a.jpg", "0--Parade/none.jpg", "b.jpg")
    check_wider(read_wider(path), names)
    check_wider(read_wider(tmp_path), names)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(f"set/{name}", text)
        archive.writestr("set/images/b.jpg", "")
    check_wider(
        read_wider(tmp_path / "set.zip"),
        ("0--Parade/a.jpg", "0--Parade/none.jpg", "set/images/b.jpg"),
    )
    assert read_wider(path, min_side=20)[0].ignore.tolist() == [False, False]


@pytest.mark.parametrize(
    "name,text,message",
    [
        ("x_bbx_gt.txt", TEXT.replace("\n2\n", "\ntwo\n"), "line 1: expected the name.*'two'"),
        ("x_bbx_gt.txt", TEXT.replace("\n2\n", "\n1\n"), "line 4: expected the name"),
        ("x_bbx_gt.txt", TEXT.replace("\n2\n", "\n3\n"), "line 5: expected 'x y width"),
        ("x_bbx_gt.txt", TEXT.replace("b.jpg\n1\n", "b.jpg\n9\n"), "after 1 of the 9 faces of b"),
        ("x_bbx_gt.txt", TEXT + "c.jpg", "line 11: expected.*'the end of the file'"),
        ("x_bbx_gt.txt", TEXT.replace("5 6 70", "5 six 70"), "line 10: .*'5 six 70"),
        ("x_bbx_gt.txt", TEXT.replace("5 6 70", "5 nan 70"), "line 10: "),
        ("x_bbx_gt.txt", TEXT.replace("5 6 70", "5 70"), "line 10: "),
        ("annotations.json", "{", 'expected {"images"'),
        ("annotations.json", "[]", 'expected {"images"'),
        ("annotations.json", '{"images": 3}', 'expected {"images"'),
        ("annotations.json", '{"images": [{"file": "a"}]}', "images\\[0\\].*'faces'"),
        ("annotations.json", '{"images": ["a"]}', "images\\[0\\]"),
        (
            "annotations.json",
            '{"images": [{"file": "a", "faces": [{"bbox": [1, 2, 3]}]}]}',
            "images\\[0\\].*a box of \\[1.0, 2.0, 3.0\\]",
        ),
        (
            "annotations.json",
            '{"images": [{"file": "a", "faces": [{"bbox": [1, 2, 3, NaN]}]}]}',
            "images\\[0\\].*a box of",
        ),
    ],
)
def test_read_wider_refuses(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        read_wider(written(tmp_path, text, name))


def test_read_wider_refuses_other_places(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no annotations.json"):
        read_wider(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_wider(tmp_path / "missing")
    with pytest.raises(ValueError, match="set.zip is not a whole zip"):
        read_wider(written(tmp_path, "PK", "set.zip"))
    written(tmp_path, TEXT, "train_bbx_gt.txt")
    written(tmp_path, TEXT, "val_bbx_gt.txt")
    with pytest.raises(ValueError, match="train_bbx_gt.txt, val_bbx_gt.txt: give the one"):
        read_wider(tmp_path)
    (tmp_path / "val_bbx_gt.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="val_bbx_gt.txt is not text in UTF-8"):
        read_wider(tmp_path / "val_bbx_gt.txt")


def test_both_forms_of_the_sample_agree(test_data, tmp_path):
    path = test_data("wider_val_sample.zip")
    found = read_wider(path)
    assert len(found) == 48 and sum(len(a.boxes) for a in found) == 284
    assert sum(int((~a.ignore).sum()) for a in found) == 185
    with zipfile.ZipFile(path) as archive:
        assert all(a.path in archive.namelist() for a in found)
        text = archive.read("wider_val_sample/bbx_gt.txt").decode()
    for a, b in zip(found, read_wider(written(tmp_path, text, "bbx_gt.txt")), strict=True):
        assert a.path.endswith("/" + b.path)
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.ignore, b.ignore)


# ---------------------------------------------------------------- pages


@pytest.fixture(scope="module")
def results():
    e, person = crowd()
    return {
        "Pairs <of> people": metrics.verification(*trial()),
        "Strangers": metrics.open_set(e, person, SMALL, ask=0.1),
        "Faces": metrics.average_precision(*scene(0)),
    }


def test_page(tmp_path, results):
    write_recognition(tmp_path / "page.html", results)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 6 and page.count("<h2>") == 3
    assert "Pairs &lt;of&gt; people" in page
    for outside in ("<script", "<link", 'src="http', 'href="http'):
        assert outside not in page
    pairs, strangers, faces = results.values()
    for value in (pairs.accuracy, pairs.eer, strangers.realised_fpir.value, faces.ap.value):
        assert f"<td>{100 * value:.2f}</td>" in page


def test_page_of_one_kind(tmp_path, results):
    write_recognition(tmp_path / "page.html", {"Faces": results["Faces"]})
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<svg") == 1


def test_page_of_extremes(tmp_path):
    """Nothing wrong, nothing found, nothing accepted: curves without a middle."""
    same, fold = np.arange(80) % 2 == 0, np.arange(80) // 40
    e, person = crowd(dim=64, spread=0.01)
    extremes = {
        "perfect": metrics.verification(same * 1.0, same, fold),
        "wrong": metrics.verification(same * -1.0, same, fold),
        "few": metrics.verification(np.arange(8.0), same[:8], np.arange(8) % 2),
        "nobody": metrics.open_set(e, person, replace(SMALL, enrolled=1), ask=0.001),
        "one gallery": metrics.open_set(e, person, replace(SMALL, galleries=1), ask=0.1),
        "blind": one_photo([], [], [[0, 0, 9, 9]], [False]),
    }
    write_recognition(tmp_path / "page.html", extremes)
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<h2>") == 6


def test_a_plot_is_drawn_from_its_curve(results):
    """Another result, another drawing; the same, the same but for matplotlib's own ids."""
    other = metrics.verification(*trial(seed=1))
    for plot in (recognition.draw_roc, recognition.draw_det, recognition.draw_scores):
        assert len(plot(results["Pairs <of> people"])) != len(plot(other))
