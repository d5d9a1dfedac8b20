"""Procedural faces as a FaceSet."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from metaface import synthetic
from metaface.data import _cache
from metaface.data._decode import Geometry
from metaface.data.faceset import FaceSet


def load_synthetic(
    name: str, people: int, photos: int, seed: int, geometry: Geometry, root: Path, progress: bool
) -> FaceSet:
    """The faces of ``"synthetic"`` or ``"synthetic:domain,domain"``, rendered once and cached.

    Raises:
        ValueError: no domain after the colon, or one that there is not.
    """
    _, colon, names = name.partition(":")
    domains = tuple(part.strip() for part in names.split(",") if part.strip())
    if colon and not domains:
        raise ValueError(f"{name!r} names no domain: write 'synthetic' or 'synthetic:frontal'")
    shown = domains or "default"

    def build(out: BinaryIO) -> FaceSet:
        renders = synthetic.render(
            people=people,
            photos=photos,
            image_size=geometry.image_size,
            domains=shown,
            seed=seed,
            progress=progress,
        )
        images = renders.images
        if geometry.channels == 1:
            images = np.stack([np.asarray(Image.fromarray(i).convert("L")) for i in images])
        out.write(np.ascontiguousarray(images).data)
        truth = {"mask_worn" if k == "mask" else k: v for k, v in renders.attributes.items()}
        truth |= {k: getattr(renders, k) for k in ("box", "landmarks", "mask", "pose")}
        return FaceSet.from_arrays(
            images, renders.person, domain=renders.domain, domains=renders.domains, truth=truth
        )

    key = _cache.key_of("synthetic", _digest_renderer(), people, photos, seed, shown, geometry)
    return replace(_cache.load_or_build(root, key, build), name=name)


@cache
def _digest_renderer() -> str:
    """Digest of the renderer's source: another renderer makes other faces."""
    files = sorted(Path(synthetic.__file__).parent.glob("*.py"))
    return blake2b(b"".join(file.read_bytes() for file in files)).hexdigest()
