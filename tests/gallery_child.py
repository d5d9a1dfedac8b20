"""What tests/recognition/test_gallery.py does in processes of their own.

python gallery_child.py GALLERY read         a file that must not be written
python gallery_child.py GALLERY fill BYTES   files cannot grow beyond BYTES
python gallery_child.py GALLERY forget N     forget the first N people
python gallery_child.py GALLERY WHO N        enrol N people

Each prints names when the call has returned; the parent may kill it at any moment.
"""

import os
import sys
import types
from pathlib import Path

for name in ("metaface", "metaface.recognition"):  # without torch, which takes seconds to import
    package = types.ModuleType(name)
    package.__path__ = [str(Path(__file__).parents[1].joinpath(*name.split(".")))]
    sys.modules[name] = package

import numpy as np  # noqa: E402
from say import say  # noqa: E402

from metaface.recognition.gallery.gallery import Gallery, GalleryError  # noqa: E402


def faces(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, 16), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def read(gallery: Gallery) -> None:
    assert gallery.people() == {"Ana": 2}
    assert len(gallery.enrolled().ids) == 2
    for change in (
        lambda: gallery.add("Bo", faces(1, 0)),
        lambda: gallery.forget("Ana"),
        lambda: gallery.set_setting("x", 1),
    ):
        try:
            change()
        except GalleryError as error:
            assert error.reason == "gallery_read_only", error
            assert path in str(error), error
        else:
            sys.exit("a file that must not be written was written")
    print("read")


def fill(gallery: Gallery, limit: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for i in range(10_000):
        try:
            gallery.add(f"person-{i}", faces(20, i))
        except GalleryError as error:
            assert error.reason in ("gallery_io", "gallery_full"), error.reason
            assert path in str(error), error
            assert "full" in str(error), error
            assert len(gallery.people()) == i, "it can be read after the error"
            return
        say(f"person-{i}")
    sys.exit("nothing was full")


path, what = sys.argv[1], sys.argv[2]
if what == "read" and os.getuid() == 0:
    os.setuid(65534)  # root may write anything
with Gallery(path, model="0123abcd", model_name="toy", dim=16) as gallery:
    if what == "read":
        read(gallery)
    elif what == "fill":
        fill(gallery, int(sys.argv[3]))
    elif what == "forget":
        for name in list(gallery.people())[: int(sys.argv[3])]:
            gallery.forget(name)
            say(name)
    else:
        for i in range(int(sys.argv[3])):
            gallery.add(f"{what}-{i}", faces(1 + i % 5, i))
            say(f"{what}-{i}")
