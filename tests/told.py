"""Recognisers of people whose embeddings are made up, as fast as the search itself.

python told.py GALLERY change SECONDS       enrol guests and forget them
python told.py GALLERY identify SECONDS N   identify the first N people, and guests

Each prints a line of JSON for what it has done, with the moments of its beginning and its end.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from metaface.metrics.cohort import compute_prototypes
from metaface.recognition import Gallery, Recognizer
from metaface.recognition.embedded_faces import EmbeddedFaces
from metaface.recognition.gallery.search import Exact

D, SHOTS, GUESTS = 64, 2, 900_000
MODEL: dict[str, Any] = {"model": "0123abcd", "model_name": "told", "dim": D}


class Never:
    """A detector and embedder that nobody asks."""

    name, digest, dim = MODEL["model_name"], MODEL["model"], D

    def __call__(self, *_: Any) -> Any:
        raise AssertionError("photographs are told, not seen")


def photo(person: int, shot: int) -> np.ndarray:
    """A photograph, uint8 ``[1, 1, 3]``, or rather who is on it and which it is."""
    return np.array(
        [[person % 256, person // 256 % 256, 16 * (person // 256**2) + shot]], np.uint8
    )[None]


def embedding(person: int, shot: int) -> np.ndarray:
    """Of that photograph: unit length, ``[D]``; cosines of one person are 0.8, of two near 0."""
    who = np.random.default_rng(person).standard_normal(D)
    vector = who / np.linalg.norm(who)
    noise = np.random.default_rng([person, shot]).standard_normal(D)
    vector = vector + 0.5 * noise / np.linalg.norm(noise)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class Told(Recognizer):
    """Reads photographs of :func:`photo`."""

    def _embed(self, photos: Any, pick: Any) -> Iterator[EmbeddedFaces]:
        for one in photos:
            low, high, rest = one.reshape(3).tolist()
            vector = embedding(low + 256 * high + 256**2 * (rest // 16), rest % 16)[None]
            yield EmbeddedFaces(
                np.zeros((1, 4), np.float32), np.zeros((1, 112, 112, 3), np.uint8), vector
            )


def told(path: Any, search: Any = Exact) -> Told:
    return Told(Never(), Never(), Gallery(path, **MODEL), search)


def filled(path: Any, people: int) -> None:
    """A gallery of ``people`` and 200 strangers."""
    with Gallery(**MODEL) as gallery:  # in memory, where a transaction costs no flush
        for i in range(people):
            gallery.add(f"{i}", np.stack([embedding(i, shot) for shot in range(SHOTS)]))
        strange = np.stack([embedding(10**6 + i, 0) for i in range(200)])
        gallery.set_strangers(strange, np.arange(200))
        gallery.copy_to(path)


def change(people: Told, until: float) -> Iterator[dict[str, Any]]:
    guest = GUESTS
    while time.monotonic() < until:
        name, began = f"{guest}", time.monotonic()
        people.enroll(name, [photo(guest, shot) for shot in range(SHOTS)])
        yield {"what": "enrol", "name": name, "began": began, "ended": time.monotonic()}
        yield identify(people, guest, "own")
        began = time.monotonic()
        people.forget(name)
        yield {"what": "forget", "name": name, "began": began, "ended": time.monotonic()}
        yield identify(people, guest, "identify")
        guest += 1


def identify(people: Told, person: int, what: str) -> dict[str, Any]:
    began = time.monotonic()
    (match,) = people.identify(photo(person, SHOTS + 1))
    ended = time.monotonic()
    answer = {"match": match.name, "nearest": match.nearest, "score": match.score}
    return {"what": what, "name": f"{person}", "began": began, "ended": ended} | answer


def wrong(lines: list[dict[str, Any]], people: int) -> list[str]:
    """What cannot have been the answer at any moment of its call, or is no answer at all."""
    there = {line["name"]: [line["began"], np.inf] for line in lines if line["what"] == "enrol"}
    for line in lines:
        if line["what"] == "forget":
            there[line["name"]][1] = line["ended"]
    shots = [[embedding(i, shot) for shot in range(SHOTS)] for i in range(people)]
    means = compute_prototypes(
        np.reshape(shots, (-1, D)), np.repeat(np.arange(people), SHOTS), people
    )
    found = []
    for line in lines:
        if line["what"] not in ("identify", "own"):
            continue
        try:
            json.dumps(line, allow_nan=False)
        except ValueError:
            found.append(f"no JSON: {line}")
            continue
        name, nearest = line["name"], line["nearest"]
        if line["what"] == "own" or int(name) < people:
            if (line["nearest"], line["match"]) != (name, name):
                found.append(f"not named: {line}")
        elif int(nearest or 0) < people:  # a guest is a stranger, with a nearest person
            probe = embedding(int(name), SHOTS + 1)
            if (means[int(nearest or 0)] @ probe) < (means @ probe).max() - 1e-5:
                found.append(f"not the nearest: {line}")
        if nearest is None:
            found.append(f"nobody: {line}")
        elif int(nearest) >= people:
            first, last = there[nearest]
            if line["ended"] < first or line["began"] > last:
                found.append(f"one who is not there: {line}")
    return found


if __name__ == "__main__":
    gallery, what, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    with told(gallery) as people:
        print("ready", flush=True)
        until = float(sys.stdin.readline()) + seconds
        if what == "change":
            for line in change(people, until):
                print(json.dumps(line))
        else:
            chance = np.random.default_rng(int(sys.argv[5]))
            count = int(sys.argv[4])
            while time.monotonic() < until:
                person = int(chance.integers(count))
                if chance.random() < 0.3:
                    person = GUESTS + int(chance.integers(20))
                print(json.dumps(identify(people, person, "identify")))
