"""Thresholds, rates and probabilities against simulation and brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from metaface import metrics
from metaface.learners import Prototypical
from metaface.metrics.cohort import Cohort, compute_prototypes, normalise
from metaface.metrics.thresholds import add_genuine_scores, calibrate
from metaface.recognition import matching, pair_threshold, published
from metaface.recognition.matching import Embeddings, Prototypes, score_left_out

rng = np.random.default_rng


def unit(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    return normalise(rng(seed).normal(size=(count, dim)).astype(np.float32))


# ---------------------------------------------------------------- the threshold


@pytest.mark.parametrize("people,fpir", [(99, 0.01), (150, 0.02), (599, 0.01), (40, 0.1)])
def test_of_a_photograph_each_the_rate_is_beta_distributed(people, fpir):
    """Uniform scores: the true rate of a threshold t is 1 - t."""
    draws = rng(people).random((2000, people))
    found = [calibrate(row, np.arange(people), fpir) for row in draws]
    true = np.array([1 - c.threshold for c in found])
    m = int(fpir * (people + 1) + 1e-9)
    assert {round(c.expected, 9) for c in found} == {round(m / (people + 1), 9)}
    assert true.mean() == pytest.approx(m / (people + 1), abs=4 * true.std() / 2000**0.5)
    assert stats.kstest(true, stats.beta(m, people + 1 - m).cdf).pvalue > 1e-3
    covered = np.mean([c.low <= t <= c.high for c, t in zip(found, true, strict=True)])
    assert covered == pytest.approx(0.95, abs=0.02)
    assert all(c.supported and c.expected <= fpir + 1e-12 for c in found)


@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("people", [60, 210])
def test_several_photographs_of_a_stranger_do_not_raise_the_rate(alike, people):
    """Whatever their photographs have in common; and who has many counts no more than others."""
    fpir, rates, covered = 0.02, [], []
    for seed in range(600):
        random = rng([seed, people])
        photos = random.choice([1, 2, 3, 20], people)
        person = np.repeat(np.arange(people), photos)
        own = random.normal(size=people)[person]
        scores = alike**0.5 * own + (1 - alike) ** 0.5 * random.normal(size=len(person))
        found = calibrate(scores, person, fpir)
        rates.append(stats.norm.sf(found.threshold))
        covered.append(found.low <= rates[-1] <= found.high)
    rates = np.array(rates)
    assert rates.mean() <= fpir + 3 * rates.std() / 600**0.5
    assert rates.mean() >= fpir / 4  # and it is of use
    if alike == 1:
        assert np.mean(covered) == pytest.approx(0.95, abs=0.03)
    else:
        assert np.mean(covered) >= 0.9


def test_a_stranger_with_many_photographs_does_not_set_the_threshold():
    random = rng(0)
    scores = np.concatenate([random.random(500), random.random(1000) + 5])
    person = np.concatenate([np.arange(500), np.full(1000, 500)])
    many = calibrate(scores, person, 0.05)
    one = calibrate(np.append(scores[:500], 6), np.arange(501), 0.05)
    assert many.threshold == one.threshold < 1
    assert many.expected == pytest.approx(one.expected)
    assert (many.strangers, many.stranger_photos) == (501, 1500)


@pytest.mark.parametrize("people,fpir", [(1, 0.01), (1, 0.4), (98, 0.01), (998, 0.001), (3, 0.2)])
def test_too_few_strangers(people, fpir):
    scores = rng(people).random(2 * people)
    found = calibrate(scores, np.repeat(np.arange(people), 2), fpir)
    assert not found.supported and not found.verified
    assert found.threshold == np.nextafter(scores.max(), np.inf)
    assert found.expected == pytest.approx(1 / (people + 1)) and found.expected > fpir
    low, high = stats.beta(1, people).ppf([0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high))
    assert "too few strangers" in str(found)


@pytest.mark.parametrize("people,fpir", [(1, 0.5), (99, 0.01), (999, 0.001), (4, 0.2)])
def test_just_enough_strangers(people, fpir):
    found = calibrate(rng(people).random(people), np.arange(people), fpir)
    assert found.supported and found.expected == pytest.approx(fpir)


@pytest.mark.parametrize("fpir", [0, 1, -0.1, 1.5, float("nan")])
def test_a_rate_out_of_range(fpir):
    with pytest.raises(ValueError, match=f"fpir={fpir}"):
        calibrate(np.ones(3), np.arange(3), fpir)


def test_no_strangers():
    with pytest.raises(ValueError, match="no strangers"):
        calibrate(np.empty(0), np.empty(0, int), 0.01)


def test_ties_do_not_pass():
    found = calibrate(np.full(200, np.float32(0.3)), np.arange(200), 0.05)
    assert found.threshold > float(np.float32(0.3)) and found.expected == pytest.approx(1 / 201)
    scores = np.r_[1.0, 0.5, 0.5, 0.5, np.zeros(196)]
    found = calibrate(scores, np.arange(200), 0.015)  # of three, two could not be told apart
    assert found.threshold == np.nextafter(0.5, 1) and found.expected == pytest.approx(2 / 201)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.floats(0.005, 0.9))
def test_it_is_the_lowest_threshold_of_its_rate(seed, people, fpir):
    """By trying every score as a threshold; in any order, under any numbers."""
    random = rng(seed)
    person = np.concatenate([np.arange(people), random.integers(0, people, 2 * people)])
    scores = random.integers(0, 3 * people, len(person)) / 8  # with ties

    def rate(threshold):
        passing = [(scores[person == p] >= threshold).mean() for p in range(people)]
        return (sum(passing) + 1) / (people + 1)

    found = calibrate(scores, person, fpir)
    cuts = [np.nextafter(s, np.inf) for s in np.unique(scores)]
    fit = [c for c in cuts if rate(c) <= fpir + 1e-9]
    assert found.threshold == min(fit, default=max(cuts))
    assert found.supported == bool(fit)
    assert found.expected == pytest.approx(rate(found.threshold))
    mixed = random.permutation(len(person))
    renamed = random.permutation(1000)[person[mixed]]
    again = calibrate(scores[mixed], renamed, fpir)
    assert again.threshold == found.threshold and again.high == pytest.approx(found.high)


# ---------------------------------------------------------------- what enrolled people say


def genuine(count=400, strange=600, seed=0, gap=2.0):
    random = rng(seed)
    scores = random.normal(gap, 1, count)
    return scores, random.random(count) < 0.95, random.normal(0, 1, strange)


def test_with_genuine_by_brute_force():
    scores, named, strange = genuine()
    first = calibrate(strange, np.arange(600), 0.05)
    found = add_genuine_scores(first, scores, named, strange)
    hits = sum(1 for s, n in zip(scores, named, strict=True) if n and s >= first.threshold)
    want = stats.binomtest(hits, 400).proportion_ci(0.95, "exact")
    assert (found.tpir, found.tpir_low, found.tpir_high) == pytest.approx(
        (hits / 400, want.low, want.high)
    )
    assert found.tpir_photos == 400
    same = ("threshold", "expected", "low", "high", "strangers", "verified", "supported")
    assert all(getattr(found, n) == getattr(first, n) for n in same)


def test_no_photograph_left_out_says_nothing():
    first = calibrate(rng(0).random(99), np.arange(99), 0.01)
    none = add_genuine_scores(first, np.empty(0), np.empty(0, bool), np.zeros(9))
    assert none == first and none.tpir is None and none.probability(1.0) is None


def fitted(scores, named, strange, **changes):
    first = replace(calibrate(strange, np.arange(len(strange)), 0.05), **changes)
    return add_genuine_scores(first, scores, named, strange)


def test_probability_is_the_logistic_regression():
    """By another optimiser, of the loss as Platt (1999) writes it."""
    scores, named, strange = genuine()
    found = fitted(scores, named, strange)
    yes, no = scores[named], np.concatenate([strange, scores[~named]])

    def loss(w):
        high, low = (len(yes) + 1) / (len(yes) + 2), 1 / (len(no) + 2)
        total = 0.0
        for x, target in ((yes, high), (no, low)):
            z = w[0] * x + w[1]
            total += np.mean(np.logaddexp(0, z) - target * z) / 2
        return total

    want = optimize.minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8})
    assert (found.slope, found.offset) == pytest.approx(tuple(want.x), abs=1e-3)


def test_probability_is_calibrated_and_monotone():
    """Gaussians of one width: the true log-odds are linear, 2 s - 2 at equal frequencies."""
    scores, _, strange = genuine(20_000, 20_000, seed=3)
    found = fitted(scores, np.ones(20_000, bool), strange)
    assert (found.slope, found.offset) == pytest.approx((2, -2), rel=0.05)
    new, _, other = genuine(20_000, 20_000, seed=4)
    both = np.concatenate([new, other])
    says = np.array([found.probability(s) for s in both])
    right = np.arange(40_000) < 20_000
    for low in np.arange(0, 1, 0.1):
        here = (says >= low) & (says < low + 0.1)
        assert right[here].mean() == pytest.approx(says[here].mean(), abs=0.03)
    line = np.linspace(-50, 50, 999)
    told = np.array([found.probability(s) for s in line])
    assert (np.diff(told) >= 0).all() and told[0] >= 0 and told[-1] <= 1


@pytest.mark.parametrize("gap", [20, 2000])
def test_probability_of_classes_apart_is_finite(gap):
    scores, _, strange = genuine(seed=1, gap=gap)
    found = fitted(scores, np.ones(400, bool), strange)
    assert np.isfinite([found.slope, found.offset]).all() and found.slope > 0
    assert found.probability(scores.min()) > 0.9 and found.probability(strange.max()) < 0.1


def test_probability_is_none_where_nothing_is_known():
    scores, named, strange = genuine()
    assert fitted(scores, named, strange).probability(1.0) is not None
    few = np.arange(400) < 9
    assert fitted(scores, few, strange).probability(1.0) is None
    assert fitted(scores[:9], named[:9], strange).probability(1.0) is None
    assert fitted(scores, named, strange[:9]).probability(1.0) is None
    assert fitted(-scores, named, strange).probability(1.0) is None  # the wrong way round
    same = np.full(50, 0.5)
    assert fitted(same, np.ones(50, bool), same).probability(0.5) is None


def test_as_dict_is_json_and_the_text_says_what_is_known():
    scores, named, strange = genuine(gap=5)
    found = fitted(scores, named, strange)
    assert type(found)(**found.as_dict()) == found
    assert f"threshold {found.threshold:.3f} for an FPIR of 5%" in str(found)
    assert "600 different strangers" in str(found) and "400 enrolled photographs" in str(found)
    assert "look like" not in str(found) and "twice" not in str(found)
    twice = replace(found, lookalikes=3, alike=(("Ana", "Bo", 0.712),) * 7)
    assert "3 photographs of strangers look like somebody enrolled" in str(twice)
    assert "enrolled twice? Ana and Bo (0.71), " in str(twice) and "and 2 more" in str(twice)
    none = replace(found, verified=False, strangers=0)
    assert "no strangers were given" in str(none)
    assert "unverified" in str(replace(found, verified=False))


# ---------------------------------------------------------------- scores


def naive_baseline(cohort, person, probes, whose=None):
    if len(cohort) < 50:
        return np.zeros(len(probes))
    found = []
    for i, probe in enumerate(probes):
        cosines = sorted(
            (
                float(probe @ c)
                for c, p in zip(cohort, person, strict=True)
                if whose is None or p != whose[i]
            ),
            reverse=True,
        )[:50]
        found.append(sum(cosines) / len(cosines) if cosines else 0.0)
    return np.array(found)


@pytest.mark.parametrize("count,people", [(0, 1), (1, 1), (49, 3), (50, 50), (60, 7), (200, 90)])
def test_baseline_is_the_mean_of_the_nearest(count, people):
    cohort, person = unit(count), rng(1).integers(0, people, count)
    probes = unit(23, seed=2)
    found = Cohort(cohort, person).baseline(probes)
    assert found.dtype == np.float32 and found.shape == (23,)
    np.testing.assert_allclose(found, naive_baseline(cohort, person, probes), atol=1e-6)


@pytest.mark.parametrize("count,people", [(1, 1), (49, 3), (50, 1), (60, 7), (200, 90), (120, 2)])
def test_baseline_leaves_out_their_own_photographs(count, people):
    cohort, person = unit(count), 1000 - 3 * rng(1).integers(0, people, count)
    found = Cohort(cohort, person).baseline(cohort, person)
    np.testing.assert_allclose(found, naive_baseline(cohort, person, cohort, person), atol=1e-6)


def test_baseline_of_one_does_not_depend_on_those_beside_it():
    """Someone with most of the photographs leaves few others; that is their own affair."""
    cohort, person = unit(60), np.r_[np.zeros(55, int), np.arange(1, 6)]
    together = Cohort(cohort, person).baseline(cohort, person)
    alone = [
        Cohort(cohort, person).baseline(cohort[[i]], person[[i]])[0] for i in range(len(cohort))
    ]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_baseline_by_chunks(monkeypatch):
    """More probes than fit at once, by a cohort so large that few rows do."""
    cohort = Cohort(unit(70_000, 4), rng(1).integers(0, 900, 70_000))
    probes = unit(600, 4, seed=5)
    assert 2**24 // len(cohort) < len(probes) < 3 * (2**24 // len(cohort))
    found = cohort.baseline(probes, np.arange(600))
    some = [0, 238, 239, 240, 477, 478, 599]
    for i in some:
        cosines = np.sort((cohort.embeddings @ probes[i])[cohort.person != i])[-50:]
        assert found[i] == pytest.approx(cosines.mean(), abs=1e-6)


def test_baseline_lowers_faces_that_resemble_everybody():
    cohort = Cohort(unit(300), np.arange(300))
    axis = np.eye(16, dtype=np.float32)[:1]
    cohort.embeddings = normalise(cohort.embeddings + 0.3 * axis)  # what all have in common
    faces = Embeddings(np.concatenate([axis, -axis]))
    (low, high), who = Prototypes(faces, np.arange(2), cohort)(faces)
    (one, other), _ = Prototypes(faces, np.arange(2), Cohort(unit(0), np.arange(0)))(faces)
    assert who.tolist() == [0, 1] and one == pytest.approx(other)
    assert low < high - 0.3


def grouped(counts, dim=16, seed=0, spread=0.4):
    """Faces of people with so many photographs each, mixed, and whose they are."""
    random = rng(seed)
    person = random.permutation(np.repeat(np.arange(len(counts)), counts))
    means = random.normal(size=(len(counts), dim))
    faces = means[person] + spread * random.normal(size=(len(person), dim))
    return Embeddings(normalise(faces.astype(np.float32))), person


def test_prototypes_are_what_a_cosine_prototypical_adapts():
    faces, person = grouped([1, 2, 3, 9, 1, 4])
    learner = Prototypical(tiny(), "cosine", scale=1)
    state = learner.fit_head(
        torch.from_numpy(faces.embeddings)[None], torch.tensor(person)[None], 6
    )
    probes = unit(40, seed=8)
    want = learner.score_head(state, torch.from_numpy(probes)[None])[0]
    means = compute_prototypes(faces.embeddings, person, 6)
    # the mean of unit vectors or their sum: one direction
    np.testing.assert_allclose(probes @ means.T, want, atol=1e-5)
    score, who = Prototypes(faces, person, Cohort(probes[:0], person[:0]))(Embeddings(probes))
    np.testing.assert_allclose(score, want.max(1).values, atol=1e-5)
    assert who.tolist() == want.argmax(1).tolist()


def test_prototypes_are_what_prototypical_adapts_to_pictures():
    """From pixels, through the public ``adapt``."""
    net = tiny()
    pictures = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 4
    classifier = Prototypical(net, "cosine", scale=1).adapt(pictures[:8], labels[:8])
    with torch.no_grad():
        features = normalise(net.eval()(pictures).numpy())
    matcher = Prototypes(
        Embeddings(features[:8]), labels[:8].numpy(), Cohort(features[:0], labels[:0])
    )
    score, who = matcher(Embeddings(features[8:]))
    want = classifier(pictures[8:])
    np.testing.assert_allclose(score, want.max(1).values, atol=1e-5)
    assert who.tolist() == want.argmax(1).tolist()


def test_a_direction_that_cancels_is_no_person():
    faces = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
    found = compute_prototypes(faces, np.array([0, 0, 1]), 2)
    assert found.tolist() == [[0, 0], [0, 1]]


def test_others_by_brute_force():
    faces, person = grouped([1, 2, 3, 9], spread=2)
    cohort = Cohort(unit(80, seed=4), np.arange(80))
    matcher = Prototypes(faces, person, cohort)
    cosines = faces.embeddings @ compute_prototypes(faces.embeddings, person, 4).T
    cosines[np.arange(len(person)), person] = -9
    want = cosines.max(1) - naive_baseline(cohort.embeddings, cohort.person, faces.embeddings)
    np.testing.assert_allclose(matcher.others(faces, person), want, atol=1e-5)
    alone = Prototypes(Embeddings(faces.embeddings[:3]), np.zeros(3, int), cohort)
    assert not len(alone.others(faces, person))


def test_what_an_engine_finds_is_nobody_else_than_it_was():
    """Another process may enter people into a server's collection, and forget some."""
    engine, (faces, person) = matching.Exact(16), grouped([2, 2, 2, 2])
    cohort = Cohort(faces.embeddings[:0], person[:0])
    ids = np.array([70, 20, 50, 30])
    matcher = Prototypes(faces, person, cohort, engine, ids)
    alone = Prototypes(faces, person, cohort)

    def same():
        for mine, other in zip(matcher(faces), alone(faces), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-6)
        others = [m.others(faces, person) for m in (matcher, alone)]
        np.testing.assert_allclose(*others, atol=1e-6)

    same()
    assert sorted(engine.ids()) == [20, 30, 50, 70]
    engine.add(np.array([99, 1]), faces.embeddings[:2])  # enrolled by another process
    same()
    engine.add(np.array([50, 70]), faces.embeddings[[0, 4]])  # by another gallery, of like ids
    scores, who = matcher(faces)  # whoever it is, that is how similar they are
    own = np.einsum("qd,qd->q", faces.embeddings, alone._vectors[who])
    np.testing.assert_allclose(scores, own, atol=1e-6)
    engine.add(matcher.ids, alone._vectors)
    engine.remove(np.array([20]))  # forgotten by another process
    rest = person != 1
    np.testing.assert_array_equal(matcher(faces[np.flatnonzero(rest)])[1], person[rest])
    engine.remove(engine.ids())
    same()


# ---------------------------------------------------------------- left out one by one


@pytest.mark.parametrize("counts", [[1, 2, 3, 9], [2, 2], [9, 1, 1, 1], [5, 6, 7]])
def test_left_out_by_a_naive_loop(counts):
    faces, person = grouped(counts, spread=1.5, seed=len(counts))
    cohort = Cohort(unit(60, seed=4), np.arange(60))
    scores, own = score_left_out(lambda f, p: Prototypes(f, p, cohort), faces, person)
    want = []
    for fold in range(matching.FOLDS):
        rows = [
            np.flatnonzero(person == p)[fold] for p, n in enumerate(counts) if n > 1 and n > fold
        ]
        rest = np.setdiff1d(np.arange(len(person)), rows)
        means = compute_prototypes(faces.embeddings[rest], person[rest], len(counts))
        for row in rows:
            cosines = means @ faces.embeddings[row]
            base = naive_baseline(cohort.embeddings, cohort.person, faces.embeddings[[row]])[0]
            want.append((round(float(cosines.max() - base), 4), cosines.argmax() == person[row]))
    found = [(round(float(s), 4), bool(o)) for s, o in zip(scores, own, strict=True)]
    assert len(found) == sum(min(n, 5) for n in counts if n > 1)
    np.testing.assert_allclose(
        [s for s, _ in sorted(found)], [s for s, _ in sorted(want)], atol=2e-4
    )
    assert sum(o for _, o in found) == sum(o for _, o in want)


def test_left_out_photographs_are_not_in_what_they_are_held_against():
    faces, person = grouped([1, 2, 3, 9, 4])
    seen = []

    def spy(held, whose):
        assert set(whose.tolist()) == set(range(5))  # everyone stays

        def match(probes, cohort_person=None):
            there = {row.tobytes() for row in held.embeddings}
            asked = [row.tobytes() for row in probes.embeddings]
            assert not there & set(asked)
            assert len(there) + len(asked) == len(faces)
            seen.extend(asked)
            return np.zeros(len(asked), np.float32), np.zeros(len(asked), np.int64)

        return match

    scores, own = score_left_out(spy, faces, person)
    assert len(seen) == len(set(seen)) == len(scores) == len(own) == 2 + 3 + 5 + 4


def test_left_out_with_one_photograph_each_is_nothing():
    faces, person = grouped([1, 1, 1])
    scores, own = score_left_out(lambda f, p: pytest.fail("made"), faces, person)
    assert scores.shape == own.shape == (0,) and own.dtype == bool


def test_left_out_of_a_large_gallery_is_a_sample(monkeypatch):
    monkeypatch.setattr(matching, "_MOST", 7)
    faces, person = grouped([3] * 20)
    none = Cohort(faces.embeddings[:0], person[:0])
    scores, own = score_left_out(lambda f, p: Prototypes(f, p, none), faces, person)
    assert len(scores) == len(own) == 3 * 7


# ---------------------------------------------------------------- pairs


class Toy:
    name, digest, dim = "toy", "0", 16

    def __call__(self, crops):
        means = crops.reshape(len(crops), -1).astype(np.float32)[:, : self.dim] - 128
        return normalise(means)


def test_pairs_of_strangers_by_brute_force():
    faces, person = grouped([3] * 40, spread=1)
    cohort = Cohort(faces.embeddings, person)
    base = naive_baseline(faces.embeddings, person, faces.embeddings, person)
    scores = sorted(
        (
            float(faces.embeddings[i] @ faces.embeddings[j] - (base[i] + base[j]) / 2)
            for i in range(120)
            for j in range(i)
            if person[i] != person[j]
        ),
        reverse=True,
    )
    used, threshold = pair_threshold.calibrate_pairs(cohort, Toy(), 0.01)
    assert used is cohort
    allowed = int(0.01 * (len(scores) + 1))
    assert threshold == pytest.approx(scores[allowed - 1], abs=1e-6)
    assert sum(s > threshold + 1e-6 for s in scores) <= allowed - 1


def test_too_few_pairs_are_none():
    """Three strangers say nothing of one false match in a thousand."""
    few = Cohort(unit(3), np.arange(3))
    used, threshold = pair_threshold.calibrate_pairs(few, Toy(), 0.001)
    assert not len(used)
    assert (
        threshold == pair_threshold.calibrate_pairs(Cohort(unit(0), np.arange(0)), Toy(), 0.001)[1]
    )
    toy = Toy()
    toy.name = "mobilefacenet_casia"  # whose rates are published
    assert pair_threshold.calibrate_pairs(few, toy, 0.001)[1] == pytest.approx(0.418)
    for fmr in (0, 1, -1):
        with pytest.raises(ValueError, match=f"fmr={fmr}"):
            pair_threshold.calibrate_pairs(few, toy, fmr)


def test_published_thresholds():
    toy = Toy()
    assert published.published_threshold(toy, 1, 0.01) is None
    toy.name = "mobilefacenet_casia"
    assert published.published_threshold(toy, 1, 0.01) == pytest.approx(0.306)
    assert published.published_threshold(toy, 1, 1e-3) == pytest.approx(0.418)
    # 1 - (1 - 1e-3)^10 of ten
    assert published.published_threshold(toy, 10, 1 - (1 - 1e-3) ** 10) == pytest.approx(0.418)
    rising = [published.published_threshold(toy, n, 0.01) for n in (1, 9, 100, 10**4, 10**6, 10**9)]
    assert all(np.diff(rising) > 0) and rising[-1] <= 1
    assert published.published_threshold(toy, 1, 0.5) == pytest.approx(0.161)


# ---------------------------------------------------------------- on real faces


@pytest.mark.slow
def test_open_set_on_lfw(test_data):
    """The figures of the open set: 50 people of 3 photographs, 500 strangers, 600 in the cohort."""
    from functools import partial

    from metaface.data._sources import open_source
    from metaface.faces import choose
    from metaface.recognition.detectors import default_detector
    from metaface.recognition.embedded_faces import EmbeddedFaces, embed_faces
    from metaface.recognition.embedders import loading

    models = test_data("weights/mobilefacenet_casia.ckpt").parent
    test_data("weights/yunet_n_640_640.onnx")
    embedder, detector = loading.load("mobilefacenet_casia", models), default_detector(models)
    with open_source(test_data("lfw_deepfunneled.zip")) as found:
        reads = (partial(found.read, photo) for photo in found.photos)
        seen = list(embed_faces(reads, choose.pick_most_prominent, detector, embedder))
        both = [
            (one.embeddings[0], photo.person)
            for one, photo in zip(seen, found.photos, strict=True)
            if isinstance(one, EmbeddedFaces)
        ]
    assert len(both) > 0.99 * len(seen)
    embeddings = np.stack([e for e, _ in both])
    _, person = np.unique([p for _, p in both], return_inverse=True)
    for seed in (0, 1):
        design = metrics.OpenSetDesign(seed=seed)
        result = metrics.open_set(embeddings, person, design, scorer=metrics.cohort_scorer)
        plain = metrics.open_set(embeddings, person, design)
        best, mean = (next(a for a in r.at if a.fpir == 0.01) for r in (result, plain))
        assert best.dir.value >= 0.95 and best.dir.value > mean.dir.value
        assert result.realised_dir.value >= 0.95
        assert 0.005 <= result.realised_fpir.value <= 0.02
