"""Episodes, splits and augmentation."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaface import Augment, Episodes, EpisodeSampler, FaceSet

quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**31)


@cache
def faces() -> FaceSet:
    """12 people with 3 to 14 photographs in two domains; a pixel holds its own row number."""
    random = np.random.default_rng(0)
    person = random.permutation(np.repeat(np.arange(12), np.arange(3, 15)))
    images = np.broadcast_to(
        np.arange(len(person), dtype=np.uint8)[:, None, None, None], (len(person), 4, 4, 1)
    ).copy()
    domain = np.zeros(len(person), dtype=int)
    for p in range(12):  # every second photograph of each person is a sketch
        domain[np.flatnonzero(person == p)[::2]] = 1
    return FaceSet.from_arrays(images, person, domain=domain, domains=("photo", "sketch"))


@st.composite
def samplers(draw):
    shots, queries = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    enough = int((faces().photos() >= shots + queries).sum())
    ways = draw(st.integers(2, enough))
    return EpisodeSampler(faces(), ways, shots, queries, seed=draw(seeds))


def rows(episodes: Episodes) -> np.ndarray:
    return torch.cat([episodes.support_rows, episodes.query_rows], 1).numpy()


def same(a: Episodes, b: Episodes) -> bool:
    names = (n for n, v in vars(a).items() if torch.is_tensor(v))
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in names)


# --- what a task is


@quick
@given(samplers(), st.integers(0, 1000), st.integers(1, 5))
def test_a_task_is_n_people_with_their_own_distinct_photographs(sampler, k, size):
    ways, shots, queries = sampler.ways[0], sampler.shots[0], sampler.queries
    batch = sampler.batch(k, size)
    assert len(batch) == size and batch.ways == ways
    assert batch.support.shape == (size, ways * shots, 1, 4, 4)
    assert batch.query.shape == (size, ways * queries, 1, 4, 4)
    assert batch.support.dtype == torch.float32 and batch.query_y.dtype == torch.int64
    for i in range(size):
        assert len(set(batch.people[i].tolist())) == ways
        assert len(set(rows(batch)[i])) == ways * (shots + queries)  # support and query disjoint
        for y, row in ((batch.support_y, batch.support_rows), (batch.query_y, batch.query_rows)):
            owners = faces().person[row[i].numpy()]
            assert np.array_equal(owners, batch.people[i][y[i]].numpy())
        assert batch.support_y[i].bincount().tolist() == [shots] * ways
        assert batch.query_y[i].bincount().tolist() == [queries] * ways
    # the pictures are those of the rows
    for side in ("support", "query"):
        pixels = getattr(batch, side)[:, :, 0, 0, 0] * 255
        assert torch.equal(pixels.round().long(), getattr(batch, f"{side}_rows"))


@quick
@given(samplers(), st.lists(st.integers(0, 2**40), min_size=1, max_size=6))
def test_task_i_is_the_same_in_any_batch(sampler, indices):
    together = sampler.tasks(np.array(indices))
    for position, index in enumerate(indices):
        alone = sampler.tasks(np.array([index]))
        assert np.array_equal(rows(alone)[0], rows(together)[position])
        assert torch.equal(alone.support[0], together.support[position])


def test_batch_k_is_the_tasks_k_times_size_and_on():
    sampler = EpisodeSampler(faces(), 3, 1, 2)
    assert same(sampler.batch(2, 4), sampler.tasks(np.arange(8, 12)))


@quick
@given(seeds)
def test_seed_and_stream_name_the_tasks(seed):
    def drawn(seed, stream="train"):
        return EpisodeSampler(faces(), 5, 1, 2, seed=seed, stream=stream).batch(0, 8)

    assert same(drawn(seed), drawn(seed))
    assert not np.array_equal(rows(drawn(seed)), rows(drawn(seed + 1)))
    assert not np.array_equal(rows(drawn(seed)), rows(drawn(seed, "test")))


@quick
@given(seeds, st.integers(0, 100))
def test_ways_and_shots_may_vary_between_batches(seed, k):
    sampler = EpisodeSampler(faces(), (2, 5), (1, 3), 2, seed=seed)
    batch = sampler.batch(k, 3)
    assert 2 <= batch.ways <= 5
    assert batch.support.shape[1] % batch.ways == 0
    assert 1 <= batch.support.shape[1] // batch.ways <= 3
    assert same(batch, sampler.batch(k, 3))


def test_every_way_and_shot_of_a_range_is_drawn():
    sampler = EpisodeSampler(faces(), (2, 5), (1, 3), 2)
    drawn = {(b.ways, b.support.shape[1] // b.ways) for b in map(sampler.batch, range(200))}
    assert drawn == {(n, k) for n in range(2, 6) for k in range(1, 4)}


# --- domains


@quick
@given(seeds)
def test_each_side_comes_from_its_domain(seed):
    sampler = EpisodeSampler(
        faces(), 4, 2, 1, seed=seed, support_domain="photo", query_domain="sketch"
    )
    batch = sampler.batch(0, 4)
    assert (batch.support_domain, batch.query_domain) == ("photo", "sketch")
    assert (faces().domain[batch.support_rows.numpy()] == 0).all()
    assert (faces().domain[batch.query_rows.numpy()] == 1).all()
    assert all(len(set(row)) == len(row) for row in rows(batch))


def test_one_domain_on_both_sides_stays_disjoint():
    sampler = EpisodeSampler(faces(), 4, 2, 1, support_domain="photo", query_domain="photo")
    batch = sampler.batch(0, 20)
    assert (faces().domain[rows(batch)] == 0).all()
    assert all(len(set(row)) == len(row) for row in rows(batch))


# --- who takes part


@pytest.mark.parametrize("shots, queries, out", [(1, 1, 0), (1, 5, 3), (5, 5, 7)])
def test_people_with_too_few_photographs_are_left_out_and_named(shots, queries, out):
    sampler = EpisodeSampler(faces(), 2, shots, queries)
    assert sampler.left_out == tuple(str(p) for p in range(out))
    assert sampler.people.tolist() == list(range(out, 12))
    met = sampler.batch(0, 300).people.unique()
    assert met.tolist() == list(range(out, 12))


def test_a_view_is_sampled_alone():
    view = faces().of_people([3, 5, 8, 11])
    batch = EpisodeSampler(view, 3, 1, 2).batch(0, 200)
    assert set(batch.people.unique().tolist()) == {3, 5, 8, 11}


def chi_square(counts: np.ndarray) -> float:
    """Sum of squared deviations from equal counts, in standard deviations from its mean."""
    expected = counts.mean()
    freedom = len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float((statistic - freedom) / np.sqrt(2 * freedom))


def test_people_positions_and_photographs_are_drawn_evenly():
    sampler = EpisodeSampler(faces(), 4, 1, 1, seed=3)
    batch = sampler.batch(0, 30_000)
    for label in range(4):  # any person takes any place
        assert chi_square(np.bincount(batch.people[:, label].numpy(), minlength=12)) < 4
    for side in (batch.support_rows, batch.query_rows):
        for person in (0, 11):  # 3 and 14 photographs
            mine = np.flatnonzero(faces().person == person)
            drawn = side[torch.isin(side, torch.from_numpy(mine))]
            assert chi_square(np.bincount(np.searchsorted(mine, drawn.numpy()))) < 4


# --- errors


def test_errors_name_the_numbers_and_the_remedy():
    for arguments, message in (
        (
            dict(ways=13),
            r"faces: 13-way 1-shot 5-query tasks need 13 people with at least 6 .*only "
            r"9 of 12 have them .*: use fewer ways",
        ),
        (dict(ways=5, shots=9, queries=5), r"at least 14 photographs each, but only 1 of 12"),
        (
            dict(ways=8, shots=5, queries=6, support_domain="photo", query_domain="sketch"),
            r"at least 5 \+ 6 photographs each, but only 4 of 12",
        ),
        (dict(ways=13, queries=1), "use fewer ways, or more people or photographs"),
        (dict(ways=2, shots=50, queries=1), "use fewer shots, or more people or photographs"),
        (dict(ways=1), "ways=1: must be at least 2"),
        (dict(ways=(5, 3)), r"ways=\(5, 3\): .*pair"),
        (dict(shots=0), "shots=0: must be at least 1"),
        (dict(queries=0), "queries=0: must be at least 1"),
        (dict(support_domain="cartoon"), "no domain 'cartoon' in faces: it has .*sketch"),
    ):
        with pytest.raises(ValueError, match=message):
            EpisodeSampler(faces(), **arguments)


# --- splits


@quick
@given(seeds, st.floats(0.1, 0.4), st.floats(0.15, 0.4), st.integers(1, 9))
def test_split_parts_people_and_loses_nobody(seed, val, test, test_photos):
    parts = faces().split(seed, val=val, test=test, test_photos=test_photos)
    ids = [set(part.person_ids.tolist()) for part in parts]
    assert set.union(*ids) == set(range(12)) and sum(map(len, ids)) == 12
    assert sum(map(len, parts)) == len(faces())
    assert min(map(len, ids)) >= 2
    assert all(faces().photos()[p] >= test_photos for p in ids[2])
    for part in parts:  # all photographs of its people, and no others
        assert np.array_equal(part.photos()[part.person_ids], faces().photos()[part.person_ids])
        assert part.store is faces().store
    again = faces().split(seed, val=val, test=test, test_photos=test_photos)
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(parts, again, strict=True))


def test_split_differs_by_seed_and_may_leave_validation_out():
    assert any(
        set(faces().split(s)[2].person_ids) != set(faces().split(0)[2].person_ids)
        for s in (1, 2, 3)
    )
    train, val, test = faces().split(val=0)
    assert len(val) == 0 and len(train.person_ids) + len(test.person_ids) == 12
    train, val, test = faces().split(test=0)
    assert len(test) == 0 and len(train.person_ids) + len(val.person_ids) == 12


def test_split_tests_all_who_can_be_tested_where_they_are_few():
    _, _, test = faces().split(test=0.5, test_photos=11)
    assert test.person_ids.tolist() == [8, 9, 10, 11]


def test_split_errors_name_the_numbers():
    for arguments, message in (
        (dict(val=0.6, test=0.4), "val=0.6 and test=0.4"),
        (dict(test=-0.1), "test=-0.1"),
        (dict(test_photos=14), r"12 people \(1 of them with >= 14 photographs\) leave 1 for test"),
    ):
        with pytest.raises(ValueError, match=message):
            faces().split(**arguments)


# --- augmentation

augments = st.builds(Augment, st.booleans(), *[st.floats(0, 1)] * 4)


@quick
@given(augments, seeds)
def test_augmentation_repeats_and_stays_in_range(augment, seed):
    sampler = EpisodeSampler(faces(), 3, 1, 2, seed=seed, augment=augment)
    batch = sampler.batch(0, 4)
    assert same(batch, EpisodeSampler(faces(), 3, 1, 2, seed=seed, augment=augment).batch(0, 4))
    assert torch.equal(batch.query[2], sampler.tasks(np.array([2])).query[0])
    plain = EpisodeSampler(faces(), 3, 1, 2, seed=seed).batch(0, 4)
    assert np.array_equal(rows(batch), rows(plain))  # it changes pictures, not tasks
    for side in (batch.support, batch.query):
        assert side.isfinite().all() and side.min() >= 0 and side.max() <= 1


def test_each_change_does_what_it_says():
    torch.manual_seed(0)
    images, draws = torch.rand(400, 3, 8, 8), torch.rand(400, 15)

    def changed(**options):
        return Augment(**{"flip": False, "crop": 0, "light": 0, **options})(images, draws)

    def share(got, want=images):
        return float((got == want).flatten(1).all(1).float().mean())

    assert share(changed()) == 1
    mirrored = images.flip(-1)
    assert 0.4 < share(changed(flip=True)) < 0.6
    assert share(changed(flip=True)) + share(changed(flip=True), mirrored) == pytest.approx(1)
    assert 0.2 < 1 - share(changed(erase=0.3)) < 0.35
    covered = changed(erase=1.0) != images
    assert covered.float().mean((1, 2, 3)).max() <= 0.5
    brightness = (changed(light=0.5).mean((1, 2, 3)) - images.mean((1, 2, 3))).abs()
    assert brightness.mean() > 0.05 and brightness.max() < 0.3
    shaded = changed(shade=0.9)
    assert share(shaded) < 0.05 and shaded.std((1, 2, 3)).mean() < images.std((1, 2, 3)).mean()
    lit = torch.full_like(images, 0.5)
    sides = Augment(flip=False, crop=0, light=0, shade=0.9)(lit, draws)
    assert (sides.amax((1, 2, 3)) / sides.amin((1, 2, 3)).clamp_min(1e-3)).median() > 2
    assert share(changed(crop=0.2)) < 0.05
    still = torch.full_like(draws, 0.5)
    still[:, 1] = 0  # no zoom, no shift
    same_place = Augment(flip=True, crop=0.2, light=0)(images, still)
    torch.testing.assert_close(same_place, images)


def test_bad_augmentation_is_refused():
    with pytest.raises(ValueError, match=r"light=1.5: must be in 0\.\.1"):
        Augment(light=1.5)
