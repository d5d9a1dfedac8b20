"""Where photographs come from: a folder, a zip or a CSV, as one list of named pictures."""

from __future__ import annotations

import csv
import logging
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any
from zlib import crc32

from metaface._text import folded, printable, same_name, without_unseen
from metaface.data._decode import TooLargeError, UnreadableError
from metaface.data._listing import Parts, is_junk, pick_pictures, read_head, walk
from metaface.data._skipped import Skipped
from metaface.data.faceset import SPLITS

MAX_BYTES = 256 * 2**20  # of one picture file: what a zip declares is never trusted
EXPECTED = (
    "expected one folder of pictures (.jpg, .png, .pgm, ...) a person, such as photos/Ana/1.jpg, "
    "a zip of such folders, or a CSV of path,person[,domain]"
)
_BACKSLASHES = "no such file, also with / for its backslashes: a CSV's paths are relative to it"
_ALBUMS = 3  # a person's own pictures are a third of those in folders of theirs, or more;
_BESIDE = 10  # where the folders beside theirs are people's, a tenth;
_FEW = 3  # or so many, where those folders hold no more on average
_NAMED = 5  # pairs of names that a message lists
_TOLD = 64  # files of a source whose content tells it from others
_LOCKED, _UTF8 = 0x1, 0x800  # flags of an entry in a zip: encrypted; its name is in UTF-8

log = logging.getLogger("metaface.data")


@dataclass(frozen=True)
class Photo:
    """A picture file: its path inside the source, whose it is (named by :func:`same_name`), and
    how the source finds it."""

    path: str
    person: str
    handle: Any
    domain: str = "all"


@dataclass(frozen=True)
class Source:
    """Picture files, not yet decoded.

    Attributes:
        name: what the set is called, as it can be shown anywhere.
        photos: in the order they will have.
        skipped: what is left out: pictures that belong to nobody, files of no kind that is read,
            folders without a picture or that cannot be read.
        read: the bytes of a photo; raises OSError and UnreadableError. Thread-safe.
        mark: bytes that differ when the content of a photo does.
    """

    name: str
    photos: list[Photo]
    skipped: list[Skipped]
    read: Callable[[Photo], bytes]
    mark: Callable[[Photo], bytes]

    def fingerprint(self) -> str:
        """Hex digest over the names, labels and content of all photos."""
        digest = blake2b(digest_size=16)
        for photo in self.photos:
            try:
                mark = self.mark(photo)
            except (OSError, TooLargeError) as error:
                mark = f"unreadable: {getattr(error, 'errno', error)}".encode()
            for text in (photo.path, photo.person, photo.domain):
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
            digest.update(blake2b(mark, digest_size=16).digest())
        return digest.hexdigest()

    def listing(self) -> str:
        """Hex digest over the paths and sizes of all photos and the content of a few, evenly spread
        ones: equal for copies, packed or not."""
        digest = blake2b(digest_size=16)
        step = -(-len(self.photos) // _TOLD)
        for number, photo in enumerate(self.photos):
            size, check = -1, 0
            try:
                if isinstance(photo.handle, Path):
                    size = os.path.getsize(photo.handle)
                    check = 0 if number % step else crc32(self.read(photo))
                else:
                    size = photo.handle.file_size
                    check = 0 if number % step else photo.handle.CRC
            except (OSError, TooLargeError):
                pass
            digest.update(f"{photo.path}\0{size}\0{check}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """The pictures of a folder, a zip or a CSV.

    Raises:
        FileNotFoundError: no such path.
        ValueError: nothing usable there; says what was found and what was expected.
    """
    if path.is_dir():
        yield _open_folder(path)
    elif path.suffix.lower() == ".csv":
        yield _open_csv(path)
    elif path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        with open_zip(path) as archive:
            yield _open_zip_source(path, archive)
    else:
        raise ValueError(f"{path} is neither a folder, a .zip nor a .csv: {EXPECTED}")


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip whose entries have their names in UTF-8 where they are, whether it says so or not.

    Where they are not, and it does not say what they are in, they stay as cp437 reads them, with a
    warning.

    Raises:
        ValueError: not a whole zip file.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(
            f"{path} is not a whole zip file ({error}): download or copy it again"
        ) from error
    with archive:
        _decode_names(path, archive)
        yield archive


def _decode_names(path: Path, archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    unmarked = [e for e in entries if not e.flag_bits & _UTF8 and not e.filename.isascii()]
    others = []
    for entry in unmarked:
        try:
            entry.filename = entry.filename.encode("cp437").decode("utf-8")
        except UnicodeError:
            others.append(entry.filename)
        else:
            archive.NameToInfo[entry.filename] = entry
    if others:
        log.warning(
            "%s: %d of its names, such as %r, are not in UTF-8, and it does not say in what: they "
            "are likely to be wrong. Pack the zip again with names in UTF-8, or unpack it and give "
            "the folder",
            path,
            len(others),
            others[0],
        )


def read_entry(archive: zipfile.ZipFile, entry: str | zipfile.ZipInfo) -> bytes:
    """The content of a file in a zip.

    Raises:
        KeyError: no such file.
        UnreadableError: it is encrypted, damaged, packed in an unknown way, or larger than
            ``MAX_BYTES``.
    """
    try:
        with archive.open(entry) as file:
            return check_length(file.read(MAX_BYTES + 1))
    except (KeyError, UnreadableError):
        raise
    except Exception as error:  # zipfile raises half a dozen kinds on damaged entries
        raise UnreadableError(str(error) or type(error).__name__) from error


def _open_folder(top: Path) -> Source:
    files, folders, unreadable = walk(top)
    photos, skipped = _assign_people(
        [(parts, top.joinpath(*parts)) for parts in files], folders, top
    )
    return Source(_name_set(top.resolve()), photos, [*skipped, *unreadable], _read_file, _read_file)


def _name_set(path: Path) -> str:
    """What the set at ``path`` is called; a part of one, such as ``val``, with the set's name."""
    stem = path.name if path.is_dir() else path.stem
    if stem.casefold() in SPLITS:
        stem = f"{path.absolute().parent.name}/{stem}"
    return printable(stem)


def _open_zip_source(path: Path, archive: zipfile.ZipFile) -> Source:
    files, folders = [], []
    for info in archive.infolist():  # names are labels here, never paths to write to
        names = info.filename.replace("\\", "/").split("/")
        parts = tuple(n for n in names if n not in ("", ".", ".."))
        if not parts or is_junk(parts):
            continue
        if info.is_dir():
            folders.append(parts)
        else:
            files.append((parts, info))

    def head(entry: zipfile.ZipInfo) -> bytes:
        with archive.open(entry) as file:
            return file.read(16)

    photos, skipped = _assign_people(files, folders, path, head)
    locked = [p for p in photos if p.handle.flag_bits & _LOCKED]
    if locked and len(locked) == len(photos):
        raise ValueError(
            f"{path} is encrypted, all of its {len(photos)} pictures: unpack it with its password, "
            "and give the folder"
        )
    skipped += [Skipped(p.path, "encrypted: unpack the zip with its password") for p in locked]

    turn = Lock()  # ZipFile mixes up concurrent readers (seen on Python 3.13: wrong CRCs)

    def read(photo: Photo) -> bytes:
        with turn:
            return read_entry(archive, photo.handle)

    def mark(photo: Photo) -> bytes:
        return f"{photo.handle.CRC} {photo.handle.file_size}".encode()

    usable = [p for p in photos if not p.handle.flag_bits & _LOCKED]
    return Source(_name_set(path), usable, skipped, read, mark)


def _open_csv(path: Path) -> Source:
    photos, skipped = [], []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(rows, [])]
            missing = [name for name in ("path", "person") if name not in header]
            if missing:
                raise ValueError(
                    f"{path}: no column {' or '.join(missing)} in its header {header}: the first "
                    "line must be path,person or path,person,domain"
                )
            for name in ("path", "person", "domain"):
                if (times := header.count(name)) > 1:
                    raise ValueError(
                        f"{path}: {times} columns {name} in its header {header}: leave one of them"
                    )
            for row in rows:
                cells = {n: c.strip() for n, c in zip(header, row, strict=False)}
                name, person = cells.get("path", ""), cells.get("person", "")
                if any("," in line for text in (name, person) for line in text.splitlines()[1:]):
                    raise ValueError(
                        f"{path}: a path or person that ends on line {rows.line_num} goes over "
                        "several lines, as a stray quote makes it: mend it"
                    )
                if name and person:
                    domain = cells.get("domain") or "all"
                    place = path.parent / name
                    if "\\" in name and not place.exists():  # as Windows writes folders
                        place = path.parent / name.replace("\\", "/")
                        if not place.exists():
                            skipped.append(Skipped(name, _BACKSLASHES))
                            continue
                    photos.append(Photo(name, person, place, domain))
                elif any(cells.values()):
                    skipped.append(Skipped(f"line {rows.line_num}", "no path or no person"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV in UTF-8 ({error}): save it as one") from error
    if not photos:
        first = f" ({skipped[0].path}: {skipped[0].reason})" if skipped else ""
        raise ValueError(f"{path}: no row has a path and a person{first}; {EXPECTED}")
    photos = _unify_names(photos, path)
    return Source(_name_set(path), photos, skipped, _read_file, _read_file)


def _assign_people(
    files: list[tuple[Parts, Any]],
    folders: Iterable[Parts],
    top: Path,
    head: Callable[[Any], bytes] = read_head,
) -> tuple[list[Photo], list[Skipped]]:
    """Whose each picture is: the outermost folder that itself holds pictures, and is no group (see
    :func:`_find_groups`), is the person.

    A person's name is that folder's path below the deepest folder common to all of them, so
    wrapper folders vanish and Omniglot's characters are ``alphabet/character``; of one person
    alone, the folder's name. Pictures directly in a group, or in the source, are nobody's. Where
    ``train``, ``val`` and the like hold the same people, they are no part of the names.

    Args:
        files, folders: by the parts of their paths; without junk.
        top: the source, for messages.
        head: see :func:`metaface.data._listing.pick_pictures`.
    """
    photographs, skipped = pick_pictures(files, head)
    holders = Counter(parts[:-1] for parts, _ in photographs)
    if not holders or set(holders) == {()}:
        kinds = Counter(os.path.splitext(parts[-1])[1].lower() or "no suffix" for parts, _ in files)
        there = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(5)) or "no files"
        where = "only directly in it, in no person's folder" if holders else "none of them pictures"
        raise ValueError(f"no usable person in {top}: found {there} ({where}); {EXPECTED}")
    groups = _find_groups(holders)
    person_of = {
        holder: next((h for h in _list_outer(holder) if h in holders and h not in groups), None)
        for holder in holders
    }
    persons = {person for person in person_of.values() if person is not None}
    common = os.path.commonprefix(list(persons))  # type: ignore[type-var]  # noqa: RUF071
    depth = len(common) - (len(persons) == 1)
    whose: list[tuple[Parts, Parts, Any]] = []
    for parts, handle in photographs:
        person = person_of[parts[:-1]]
        if person is None:
            skipped.append(Skipped("/".join(parts), "beside the identity folders, not in one"))
        else:
            whose.append((person[depth:], parts, handle))
    _warn_of_albums(person_of, depth, top)
    apart = _drop_splits([person for person, *_ in whose], top)
    photos = _unify_names(
        (
            Photo("/".join(parts), "/".join(person), handle)
            for person, (_, parts, handle) in zip(apart, whose, strict=True)
        ),
        top,
    )
    photos.sort(key=lambda photo: photo.person.split("/"))  # stable
    return photos, skipped + _find_empty(
        folders, [parts for parts, _ in files], photographs, persons, depth, skipped
    )


def _find_groups(holders: Mapping[Parts, int]) -> set[Parts]:
    """The folders that hold pictures and are no person's all the same, but hold people's folders.

    Such are those with several folders of pictures below them, beside which their own are few: a
    person's are about as many as those of an album (fewer do where most folders beside it are
    people's, without folders in them). And what is called ``train``, ``val`` or the
    like, however many lie in it, and the source.

    Args:
        holders: how many pictures each folder holds itself.
    """
    below: dict[Parts, list[int]] = {}  # folders of pictures below each, and pictures in them
    for holder, count in holders.items():
        for outer in _list_outer(holder[:-1]):
            if outer in holders:
                there = below.setdefault(outer, [0, 0])
                there[0] += 1
                there[1] += count
    beside = Counter(f[:-1] for f in {f for holder in holders for f in _list_outer(holder)})
    plain = Counter(holder[:-1] for holder in holders if holder and holder not in below)

    def few(folder: Parts, several: int, count: int) -> bool:
        if holders[folder] >= _FEW and several * holders[folder] >= count:
            return False
        people = 2 * plain[folder[:-1]] > beside[folder[:-1]] - 1  # without the folder itself
        return holders[folder] * (_BESIDE if people else _ALBUMS) < count

    return {()} | {
        folder
        for folder, (several, count) in below.items()
        if folder[-1].casefold() in SPLITS or (several > 1 and few(folder, several, count))
    }


def _list_outer(folder: Parts) -> Iterator[Parts]:
    """The folders that a folder lies in, from the outermost one below the source, and itself."""
    return (folder[:n] for n in range(1, len(folder) + 1))


def _warn_of_albums(person_of: Mapping[Parts, Parts | None], depth: int, top: Path) -> None:
    """Say which people's folders hold several others with pictures."""
    inside = Counter(person for holder, person in person_of.items() if person not in (None, holder))
    several = {person: n for person, n in inside.items() if person is not None and n > 1}
    if several:
        person, number = next(iter(several.items()))
        log.warning(
            "%s: %d folders inside %s are taken for one person, beside pictures there%s; where "
            "they are people, put those pictures elsewhere",
            top,
            number,
            printable("/".join(person[depth:])),
            f" (and so in {len(several) - 1} more)" if len(several) > 1 else "",
        )


def _drop_splits(people: list[Parts], top: Path) -> list[Parts]:
    """``people`` without the folders ``train``, ``val``, ... where those hold the same people, said
    in a warning; so are people of equal names in other folders beside each other."""
    for place in (0, -1):
        parted = {p for p in people if len(p) > 1 and p[place].casefold() in SPLITS}
        bare = {p: p[1:] if place == 0 else p[:-1] for p in parted}
        split_of: dict[str, set[str]] = {}
        for person, left in bare.items():
            split_of.setdefault(same_name("/".join(left)), set()).add(person[place])
        both = sorted(name for name, splits in split_of.items() if len(splits) > 1)
        if both:
            log.warning(
                "%s: %s are taken for parts of one set, and people of equal names in them for one "
                "person (%d, such as %s)",
                top,
                " and ".join(sorted({p[place] for p in parted})),
                len(both),
                printable(both[0]),
            )
            people = [bare.get(person, person) for person in people]
            break
    _warn_of_namesakes(set(people), top)
    return people


def _warn_of_namesakes(people: set[Parts], top: Path) -> None:
    """Say where folders beside each other hold people of equal names, half of a folder's or more,
    who are taken for different ones."""
    named: dict[tuple[Parts, str], list[Parts]] = {}  # beside each other, of one name
    size = Counter(person[:-1] for person in people)
    for person in sorted(people):
        if size[person[:-1]] > 1:  # one is no group, but a person with a folder in theirs
            named.setdefault((person[:-2], folded(person[-1])), []).append(person)
    alike = [namesakes for namesakes in named.values() if len({p[:-1] for p in namesakes}) > 1]
    shared = Counter(group for namesakes in alike for group in {p[:-1] for p in namesakes})
    if any(2 * n >= size[group] for group, n in shared.items()):
        shown = " and ".join("/".join(person) for person in alike[0][:2])
        log.warning(
            "%s: people of equal names in folders beside each other, such as %s, are taken for "
            "other people (%d names); where they are not, put a person's photographs into one "
            "folder",
            top,
            printable(shown),
            len(alike),
        )


def _unify_names(photos: Iterable[Photo], top: Path) -> list[Photo]:
    """``photos`` with the names of their people as :func:`same_name` has them; what nobody sees in
    a name is taken out, and names easily mixed up stay apart, with a warning."""
    names: dict[str, str] = {}
    renamed = []
    for photo in photos:
        person = photo.person
        if person not in names:
            names[person] = same_name(person)
            if names[person] != person and without_unseen(person) != person:
                log.warning(
                    "the name %r holds characters that nobody sees: it is taken as %r",
                    person,
                    names[person],
                )
        same = names[person]
        renamed.append(photo if same == person else replace(photo, person=same))
    first: dict[str, str] = {}
    pairs = [(first.setdefault(folded(n), n), n) for n in dict.fromkeys(names.values())]
    mixed = [f"{other} and {name}" for other, name in pairs if other != name]
    if mixed:
        log.warning(
            "%s: %d names differ from others in case, width or accents only, and are taken for "
            "other people (%s): where they are not, give them one name",
            top,
            len(mixed),
            printable("; ".join(mixed[:_NAMED])) + ", ..." * (len(mixed) > _NAMED),
        )
    return renamed


def _find_empty(
    folders: Iterable[Parts],
    files: Iterable[Parts],
    photographs: list[tuple[Parts, Any]],
    persons: set[Parts],
    depth: int,
    skipped: list[Skipped],
) -> list[Skipped]:
    """The folders where a person's could be, without anything that was used or skipped in them."""
    left = [tuple(entry.path.split("/")) for entry in skipped]
    there = [parts for parts, _ in photographs] + left
    full = {parts[:n] for parts in there for n in range(1, len(parts))}
    everywhere = {*folders, *(parts[:n] for parts in files for n in range(1, len(parts)))}
    beside = {parts[:-1] for parts in full if len(parts) > depth}  # folders that people lie in
    beside |= {parts[:-1] for parts in left}
    return [
        Skipped("/".join(parts), "a folder without a picture")
        for parts in sorted(everywhere - full)
        if parts[:-1] in beside and not any(outer in persons for outer in _list_outer(parts))
    ]


def _read_file(photo: Photo) -> bytes:
    return read_file(photo.handle)


def read_file(path: Path) -> bytes:
    """The content of a picture file.

    Raises:
        OSError: not a file.
        TooLargeError: larger than ``MAX_BYTES``.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise OSError("not a regular file")
    if status.st_size > MAX_BYTES:
        raise _too_large()
    with open(path, "rb") as file:
        return check_length(file.read(MAX_BYTES + 1))


def check_length(data: bytes) -> bytes:
    """``data``, the content of a picture file.

    Raises:
        TooLargeError: larger than ``MAX_BYTES``.
    """
    if len(data) > MAX_BYTES:
        raise _too_large()
    return data


def _too_large() -> TooLargeError:
    return TooLargeError(f"larger than {MAX_BYTES // 2**20} MiB")
