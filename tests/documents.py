"""What the documents show: their commands and Python examples, and the sources these name."""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from helpers import train
from PIL import Image

import metaface as mf
from metaface import synthetic
from metaface.cli.app import GROUPS
from metaface.experiments import joint_networks
from metaface.recognition.embedders.importing import import_weights

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PROGRAM = re.compile(
    r"([A-Z_]+=\S+ )*(metaface|torchrun|make|cd|git|pip|pytest|(\S*/)?python)\s+\S"
)
_MENTION = re.compile(r"metaface [a-z-]+( (fetch|import|check))?")


@dataclass(frozen=True)
class Block:
    """A fenced block, or an inline command.

    Attributes:
        document, line: where it stands.
        heading: the section it is in, by number.
        language: of the fence; ``inline``.
    """

    document: str
    line: int
    heading: int
    language: str
    text: str


@dataclass(frozen=True)
class Unit:
    """Commands that are run one after another in one folder: those of a section's blocks, or an
    inline one."""

    name: str
    commands: tuple[str, ...]
    shown: tuple[str, ...] = ()  # blocks of the section that are no commands: output

    @property
    def words(self) -> list[list[str]]:
        return [shlex.split(command) for command in self.commands]


def blocks(document: str) -> list[Block]:
    """All fenced blocks and inline commands of a document, in order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = []
    prose = list(text)
    for match in _BLOCK.finditer(text):
        found.append((match.start(), match[1] or "shell", match[2]))
        prose[match.start() : match.end()] = [c if c == "\n" else " " for c in match[0]]
    plain = "".join(prose)
    for match in re.finditer(r"`([^`]+)`", plain):
        code = " ".join(match[1].split())
        if _PROGRAM.match(code):
            found.append((match.start(), "inline", code))
    headings = [m.start() for m in re.finditer(r"^#+ ", plain, re.MULTILINE)]
    return [
        Block(document, text.count("\n", 0, at) + 1, sum(h < at for h in headings), kind, code)
        for at, kind, code in sorted(found)
    ]


def commands(text: str) -> Iterator[str]:
    """The single commands of a shell block, without comments, joined where a line goes on."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for part in " ".join(shlex.quote(w) if w != "&&" else w for w in words).split(" && "):
            if part:
                yield part


def is_commands(block: Block) -> bool:
    return block.language == "inline" or (
        block.language in ("shell", "sh", "bash") and bool(_PROGRAM.match(block.text))
    )


def is_mention(command: str) -> bool:
    """Whether a command's name is said, without arguments, in a sentence."""
    return bool(_MENTION.fullmatch(command))


def units() -> list[Unit]:
    """Every command, once: of equal inline ones the first."""
    found: list[Unit] = []
    known: set[str] = set()
    for document in DOCUMENTS:
        sections: dict[int, Unit] = {}
        inline = []
        for block in blocks(document):
            if block.language == "inline":
                if not is_mention(block.text):
                    inline.append(Unit(f"{document}:{block.line}", tuple(commands(block.text))))
            elif block.language == "shell":
                unit = sections.setdefault(block.heading, Unit(f"{document}:{block.line}", ()))
                if is_commands(block):
                    unit = replace(unit, commands=(*unit.commands, *commands(block.text)))
                else:
                    unit = replace(unit, shown=(*unit.shown, block.text))
                sections[block.heading] = unit
        for unit in [*sections.values(), *inline]:
            if unit.commands and not known.issuperset(unit.commands):
                found.append(unit)
                known.update(unit.commands)
    return found


def examples() -> list[Unit]:
    """The examples in the help of the commands, those of a group one after another."""
    found = []
    for title, group in GROUPS.items():
        shown = "\n".join(command.__doc__ or "" for command in group)
        lines = re.findall(r"Example: (metaface .*)", shown)
        found.append(Unit(f"--help: {title}", tuple(lines)))
    return found


def install_package(document: str, path: Path) -> None:
    """Put the package that a document describes into the folder ``path``, as pip installs one."""
    text = (ROOT / document).read_text("utf-8")
    for name, code in re.findall(r"`(my_package/\S+)`.*?```python\n(.*?)```", text, re.DOTALL):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(code)
    for project in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        about = path / "my_package-0.1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 0.1\n")
        groups = re.findall(r'\[project.entry-points."(.*?)"\]\n((?:.* = .*\n)*)', project)
        entries = [f"[{group}]\n" + lines.replace('"', "") for group, lines in groups]
        (about / "entry_points.txt").write_text("\n".join(entries))


def python(document: str) -> list[str]:
    return [b.text for b in blocks(document) if b.language == "python"]


# -- sources -----------------------------------------------------------------------------------

Real = Callable[[str], Path]
"""``real("att_faces.zip")``: a real file; skips the test where it is missing"""


def renders(
    people: Sequence[int], photos: int, domain: str = "frontal", size: int = 112
) -> np.ndarray:
    """uint8 ``[people, photos, size, size, 3]``: people who do not exist."""
    made = synthetic.render(list(people), photos, size, domains=domain, seed=5)
    return made.images.reshape(len(people), photos, size, size, 3)


def folder(path: Path, pictures: np.ndarray, names: Sequence[str]) -> None:
    """A folder of photographs for each person."""
    for name, photos in zip(names, pictures, strict=True):
        (path / name).mkdir(parents=True)
        for number, photo in enumerate(photos):
            Image.fromarray(photo).save(path / name / f"{number}.png")


def some_of(source: Path, path: Path, chosen: dict[int, int], only: str = "") -> None:
    """A zip of some people of another one: ``chosen[n]`` of those with n photographs or more (the
    most first), n of each, whose names match ``only``."""
    with zipfile.ZipFile(source) as there, zipfile.ZipFile(path, "w") as here:
        people: dict[str, list[str]] = {}
        for name in there.namelist():
            if name.count("/") == 2 and not name.endswith("/") and re.search(only, name):
                people.setdefault(name.split("/")[1], []).append(name)
        taken: set[str] = set()
        for photos, count in chosen.items():
            able = [p for p, names in people.items() if len(names) >= photos and p not in taken]
            taken.update(able[:count])
            for person in able[:count]:
                for name in people[person][:photos]:
                    here.writestr(name, there.read(name))


def lights(source: Path, path: Path) -> None:
    """26 people of Yale B, lit from the front and from the side."""
    with zipfile.ZipFile(source) as there, zipfile.ZipFile(path, "w") as here:
        names = sorted(n for n in there.namelist() if n.endswith(".jpg"))
        for person in sorted({n.split("/")[1] for n in names})[:26]:
            for light in (r"A[+-]0[0-2]", r"A[+-](07|08|1)"):
                for name in [n for n in names if person in n and re.search(light, n)][:7]:
                    here.writestr(name, there.read(name))


def wider(source: Path, path: Path) -> None:
    """Six photographs of the WIDER sample, with their faces."""
    with zipfile.ZipFile(source) as there, zipfile.ZipFile(path, "w") as here:
        (listed,) = (n for n in there.namelist() if n.endswith("annotations.json"))
        found = json.loads(there.read(listed))
        found["images"] = found["images"][:6]
        here.writestr(listed, json.dumps(found))
        for name in there.namelist():
            if any(name.endswith("/" + image["file"]) for image in found["images"]):
                here.writestr(name, there.read(name))


LFW = {8: 24, 5: 8, 4: 34}  # people by photographs


def pictures_of(
    people: Sequence[int], photos: int, word: str, *, domain: str = "frontal", size: int = 112
) -> Callable[[Path, Real], None]:
    names = [f"{word}{i:02d}" for i in range(len(people))]
    return lambda path, real: folder(path, renders(people, photos, domain, size), names)


def known(path: Path, real: Real) -> None:
    folder(path, renders(range(60, 63), 3, size=160), ["Ana", "Bo", "Chidi"])


def single(number: int) -> Callable[[Path, Real], None]:
    """Another photograph of Ana."""
    return lambda path, real: Image.fromarray(renders([60], 8, size=160)[0, number]).save(path)


def party(path: Path, real: Real) -> None:
    """Ana, Chidi and a stranger."""
    guests = renders([60, 62, 200], 4, size=160)[:, 3]
    Image.fromarray(np.concatenate(list(guests), 1)).save(path)


def zipped(path: Path, real: Real) -> None:
    pictures = path.with_suffix("")
    pictures_of(range(30, 52), 6, "unseen", size=64)(pictures, real)
    shutil.make_archive(str(pictures), "zip", pictures)
    shutil.rmtree(pictures)


def days_and_nights(path: Path, real: Real) -> None:
    path.mkdir()
    for name, photos in zip("abcdefg", renders(range(7), 8), strict=True):
        for number, photo in zip((1, 2, *range(51, 57)), photos, strict=True):
            Image.fromarray(photo).save(path / f"{name}_{number:02d}.jpg")


def records(path: Path, real: Real) -> None:
    """The data base of docs/add-a-data-set.md."""
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE photo (person, jpeg)")
    for person, photos in enumerate(renders(range(26), 10, size=56)):
        for photo in photos:
            file = io.BytesIO()
            Image.fromarray(photo).save(file, "JPEG")
            base.execute("INSERT INTO photo VALUES (?, ?)", (f"{person:02d}", file.getvalue()))
    base.commit()
    base.close()


def attributes(path: Path, real: Real) -> None:
    people = [f"person{i:02d}" for i in range(8)] + [f"other{i:02d}" for i in range(18)]
    rows = [f"{p},{'fm'[i % 2]},{20 + 20 * (i % 3)}" for i, p in enumerate(people)]
    path.write_text("\n".join(["person,sex,age_group", *rows]) + "\n")


def trained(path: Path, real: Real) -> None:
    spec = mf.ModelSpec("prototypical")
    faces = mf.data.load("synthetic", people=40, photos=8, image_size=28, progress=False)
    train(spec.build(), faces, ways=5, iterations=2, spec=spec, out=path.parent, progress=False)


def imported(path: Path, real: Real) -> None:
    own = path.with_name("imported")
    import_weights(real("weights/mobilefacenet_casia.ckpt"), own)
    shutil.move(str(next(own.glob("*.safetensors"))), path)


def shared_network(tasks: Sequence[str]) -> Callable[[Path, Real], None]:
    return lambda path, real: joint_networks.build_network(tasks, 40).save(path)


def cut(name: str, chosen: dict[int, int]) -> Callable[[Path, Real], None]:
    return lambda path, real: some_of(real(name), path, chosen)


def unpacked(make_zip: Callable[[Path, Real], None]) -> Callable[[Path, Real], None]:
    """A folder of identity folders, of what is in a zip."""

    def make(path: Path, real: Real) -> None:
        make_zip(path.with_suffix(".zip"), real)
        with zipfile.ZipFile(path.with_suffix(".zip")) as file:
            for name in file.namelist():
                to = path / Path(*Path(name).parts[1:])
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(file.read(name))

    return make


def itself(name: str) -> Callable[[Path, Real], None]:
    return lambda path, real: path.symlink_to(real(name))


def yale(path: Path, real: Real) -> None:
    lights(real("yaleb_112.zip"), path)


def example(path: Path, real: Real) -> None:
    runpy.run_path(str(ROOT / "tools" / "example_photos.py"))["main"](str(path))


lfw, att = cut("lfw_deepfunneled.zip", LFW), cut("att_faces.zip", {10: 40})


def photos(path: Path, real: Real) -> None:
    """26 people, eight of them with ten photographs, the others with seven."""
    pictures_of(range(8), 10, "person")(path, real)
    pictures_of(range(8, 26), 7, "other")(path, real)


others = pictures_of(range(70, 110), 1, "stranger", size=160)

SOURCES: dict[str, Callable[[Path, Real], None]] = {
    "photos": photos,
    "photographs": photos,
    "path/to/photos": photos,
    "sketches": pictures_of(range(30), 6, "drawn", domain="sketch"),
    "other_photos.zip": zipped,
    "people": known,
    "others": others,
    "strangers": others,
    "shots": days_and_nights,
    "party.jpg": party,
    "people.csv": attributes,
    "faces.db": records,
    "example": example,
    **{name: single(4 + i) for i, name in enumerate(("a1.jpg", "a2.jpg", "a.jpg", "b.jpg"))},
    "lfw.zip": lfw,
    "lfw_deepfunneled.zip": lfw,
    "al/lfw": unpacked(lfw),
    "lfw100": unpacked(cut("lfw_deepfunneled.zip", {8: 24})),
    "att_faces.zip": att,
    "al/att": unpacked(att),
    "yaleb.zip": yale,
    "yaleb_112.zip": yale,
    "al/yale": unpacked(yale),
    **{name: cut(name, {1: 110}) for name in ("cufs_photos.zip", "cufs_sketches.zip")},
    **{
        name: lambda path, real: wider(real("wider_val_sample.zip"), path)
        for name in ("wider.zip", "wider_val_sample.zip")
    },
    **{
        name: itself(name)
        for name in ("omniglot_images_background.zip", "omniglot_images_evaluation.zip")
    },
    **{
        name: itself("weights/mobilefacenet_casia.ckpt")
        for name in ("FILE", "mobilefacenet_casia.ckpt")
    },
    "mobilefacenet.safetensors": imported,
    **{f"{name}checkpoint.pt": trained for name in ("", "trained/", "maml/")},
    "multitask/model.safetensors": shared_network(joint_networks.TASKS),
    "more/model.safetensors": shared_network(joint_networks.TASKS),
    "recognition/model.safetensors": shared_network(["recognition"]),
}


def named(text: str) -> list[str]:
    """The sources that commands or examples name, but for those they write."""
    made = tuple(name.rstrip("/") + "/" for name in re.findall(r"--out (\S+)", text))
    return [
        name
        for name in SOURCES
        if not f"{name}/".startswith(made)
        and re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w.-])", text)
    ]
