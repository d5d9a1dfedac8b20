"""Two hundred bad and odd picture files with a face in them, and what must come of each.

As a program it goes through all of them, large ones too, and says how much memory that took:
``python odd_photos.py FOLDER MODELS``.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, features

from metaface.synthetic import render

FACE, UNREADABLE, TOO_LARGE, NO_FACE = ({n} for n in ("face", "unreadable", "too_large", "no_face"))
TOO_SMALL = {"face_too_small", "no_face"}  # where it is too small to be found at all
HARD = {"face", "no_face"}  # readable, but nobody promises that the face is found
WHERE = (150, 60)  # of the face's corner in the scene: in no middle
SIDE = 200
TURNS = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what undoes each EXIF orientation


@dataclass(frozen=True)
class Odd:
    """A file and what must come of it: one of ``want``, "face" or a reason.

    ``faces`` boxes must be found, in a picture ``scale`` times as large as :func:`scene`.
    """

    path: Path
    want: set[str]
    faces: int = 1
    scale: float = 1.0


@cache
def _face() -> np.ndarray:
    return render(people=[0], photos=1, image_size=SIDE, domains="frontal", seed=3).images[0]


@cache
def scene() -> Image.Image:
    """A procedural face before a background, RGB 440x320."""
    row, column = np.mgrid[:320, :440]
    ground = np.stack([90 + row // 8, 140 - column // 9, 110 + 0 * row], -1).astype(np.uint8)
    left, top = WHERE
    ground[top : top + SIDE, left : left + SIDE] = _face()
    return Image.fromarray(ground)


def everything(folder: Path) -> list[Odd]:
    """Make all of them, but for those that :func:`large` makes."""
    folder.mkdir(exist_ok=True)
    made = []
    for make in (cut, misnamed, sizes, bombs, pixels, turned, named, places, contents, damaged):
        (folder / make.__name__).mkdir()
        made += list(make(folder / make.__name__))
    return made


def encoded(image: Image.Image | None = None, kind: str = "JPEG", **options: Any) -> bytes:
    """A picture file's content."""
    file = io.BytesIO()
    if "append_images" in options:
        options["append_images"] = [one.copy() for one in options["append_images"]]
    (image or scene()).copy().save(file, kind, **options)  # save leaves traces in an image
    return file.getvalue()


def _cv2(suffix: str, pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(suffix, pixels[..., ::-1])
    assert done
    return data.tobytes()


def _put(path: Path, data: bytes, want: set[str], **about: Any) -> Odd:
    path.write_bytes(data)
    return Odd(path, want, **about)  # type: ignore[arg-type]


# --- whole, and cut off at every stage


def _kinds() -> dict[str, bytes]:
    image = scene()
    palette = image.quantize(128, dither=Image.Dither.NONE)
    kinds = {
        "baseline.jpg": encoded(quality=90),
        "progressive.jpg": encoded(quality=90, progressive=True),
        "a.png": encoded(kind="PNG"),
        "lossy.webp": encoded(kind="WEBP", quality=80),
        "lossless.webp": encoded(kind="WEBP", lossless=True),
        "a.gif": encoded(palette, "GIF"),
        "raw.tif": encoded(kind="TIFF"),
        "lzw.tif": encoded(kind="TIFF", compression="tiff_lzw"),
        "deflate.tiff": encoded(kind="TIFF", compression="tiff_adobe_deflate"),
        "a.bmp": encoded(kind="BMP"),
        "a.ppm": encoded(kind="PPM"),
    }
    if features.check("jpg_2000"):
        kinds["a.jp2"] = encoded(kind="JPEG2000", quality_mode="rates", quality_layers=[10])
    if features.check("avif"):
        kinds["a.avif"] = encoded(kind="AVIF", quality=80)
    return kinds


def cut(folder: Path) -> Iterator[Odd]:
    for name, data in _kinds().items():
        stem, dot, suffix = name.partition(".")
        yield _put(folder / name, data, FACE)
        lengths = [1, 2, 4, 11, 30, 100, *(len(data) * k // 10 for k in range(1, 10))]
        for length in [*lengths, len(data) * 97 // 100]:
            yield _put(folder / f"{stem}-{length}{dot}{suffix}", data[:length], UNREADABLE)
        yield _put(folder / f"{stem}-all but 2{dot}{suffix}", data[:-2], FACE | UNREADABLE)


# --- another content than the name says


def misnamed(folder: Path) -> Iterator[Odd]:
    jpeg, png = encoded(quality=90), encoded(kind="PNG")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.jpg", jpeg)
    html = b"<!DOCTYPE html><html><body>404 <img src=a.jpg></body></html>"
    elf = b"\x7fELF\2\1\1" + bytes(9) + b"\2\0>\0" + bytes(400)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    noise = np.random.default_rng(0).bytes(5000)
    for name, data in {"jpeg.png": jpeg, "png.jpg": png, "PNG.BMP": png, "jpeg.webp": jpeg}.items():
        yield _put(folder / name, data, FACE)
    yield _put(folder / "and more.jpg", jpeg + noise, FACE)
    yield _put(folder / "and a zip.png", png + archive.getvalue(), FACE)
    bad = {
        "text.jpg": b"not a picture\n",
        "page.jpg": html,
        "page.webp": html,
        "zip.png": b"",
        "elf.jpg": elf,
        "pdf.jpg": b"%PDF-1.4\n%%EOF\n",
        "eps.jpg": postscript,
        "noise.jpg": noise,
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "gzip.jpg": gzip.compress(jpeg),
        "before.jpg": b"\r\n" + jpeg,
        "magic.jpg": jpeg[:3] + noise,
        "magic.png": png[:8] + noise,
        "magic.gif": b"GIF89a" + noise,
        "magic.tif": b"II*\0" + noise,
        "magic.bmp": b"BM" + noise,
        "magic.webp": b"RIFF\xff\0\0\0WEBPVP8 " + noise,
        "magic.ppm": b"P6\n" + noise,
        "text.ppm": b"P3\n9 9\n255\n1 2 3 x",
        "newlines.png": png.replace(b"\r\n", b"\n"),
        "heic.heic": b"\0\0\0\x18ftypheic" + noise,
        "magic.avif": b"\0\0\0\x1cftypavif" + noise,
        "magic.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + noise,
    }
    bad["zip.png"] = archive.getvalue()
    for name, data in bad.items():
        yield _put(folder / name, data, UNREADABLE)


# --- sizes, true and pretended


def sizes(folder: Path) -> Iterator[Odd]:
    yield _put(folder / "zero.jpg", b"", UNREADABLE)
    for size in ((1, 1), (2, 2), (2, 3000), (3000, 2), (1, 60000), (60000, 1), (16, 16)):
        name = "{}x{}.png".format(*size)
        yield _put(folder / name, encoded(Image.new("RGB", size, "tan"), "PNG"), NO_FACE)
    yield _put(folder / "1x1.gif", encoded(Image.new("L", (1, 1)), "GIF"), NO_FACE)
    yield _put(folder / "1x1.jpg", encoded(Image.new("L", (1, 1))), NO_FACE)
    yield _put(folder / "20000x20000.png", _png(20_000, 20_000, _zeros(20_000, 20_001)), TOO_LARGE)
    yield _put(folder / "10000x10000.png", _png(10_000, 10_000, _zeros(10_000, 10_001)), TOO_LARGE)
    for side, number in ((20_000, 1), (65_535, 2)):
        sides = struct.pack(">HH", side, side)
        jpeg = encoded(quality=90)
        at = jpeg.index(b"\xff\xc0") + 5
        yield _put(folder / f"{number}.jpg", jpeg[:at] + sides + jpeg[at + 4 :], TOO_LARGE)
        gif, little = encoded(kind="GIF"), struct.pack("<HH", side, side)
        yield _put(folder / f"screen{number}.gif", gif[:6] + little + gif[10:], TOO_LARGE)
        at = gif.index(b"\x2c", 13 + 3 * 256) + 5  # of the first frame, beyond the screen
        yield _put(folder / f"frame{number}.gif", gif[:at] + little + gif[at + 4 :], TOO_LARGE)
        tags = {256: side, 257: side}
        yield _put(folder / f"{number}.tif", _tiff(tags), TOO_LARGE)
        bmp = encoded(kind="BMP")
        bmp = bmp[:18] + struct.pack("<ii", side, -side) + bmp[26:]
        yield _put(folder / f"{number}.bmp", bmp, TOO_LARGE)
        yield _put(folder / f"{number}.pgm", b"P5 %d %d 255\n" % (side, side), TOO_LARGE)
        yield _put(folder / f"{number}.png", _png(side, side, b"x"), TOO_LARGE)
    yield _put(folder / "most.png", _png(2**31 - 1, 2**31 - 1, b"x"), TOO_LARGE)
    yield _put(folder / "more.png", _png(2**32 - 1, 1, b"x"), TOO_LARGE)
    yield _put(folder / "none.png", _png(0, 9, b"x"), UNREADABLE)
    bmp = encoded(kind="BMP")
    lowest = bmp[:22] + struct.pack("<i", -(2**31)) + bmp[26:]
    yield _put(folder / "lowest.bmp", lowest, TOO_LARGE | UNREADABLE)
    yield _put(folder / "0.ppm", b"P6 0 0 255\n", UNREADABLE)


def _png(
    width: int, height: int, body: bytes, *chunks: tuple[bytes, bytes], depth: int = 8
) -> bytes:
    """A grey PNG; ``chunks`` come before the picture's ``body``."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, data in (head, *chunks, (b"IDAT", body), (b"IEND", b"")):
        whole += struct.pack(">I", len(data)) + kind + data
        whole += struct.pack(">I", zlib.crc32(kind + data))
    return whole


def _zeros(rows: int, width: int) -> bytes:
    """``rows`` of ``width`` zeros, compressed."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(width)) for _ in range(rows)) + packer.flush()


def _tiff(change: dict[int, int], loop: bool = False) -> bytes:
    """A plain 440x320 TIFF, written here, with other values for some tags."""
    body = scene().tobytes()
    tags = {256: 440, 257: 320, 258: 8, 259: 1, 262: 2, 273: 0, 277: 3, 278: 320, 279: len(body)}
    end = 8 + 2 + 12 * len(tags) + 4
    tags = {**tags, 273: end, **change}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (
        b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 8 * loop) + body
    )


# --- bombs and loops


def bombs(folder: Path) -> Iterator[Odd]:
    grey = np.pad(np.asarray(scene().convert("L")), ((0, 0), (1, 0))).tobytes()
    body = zlib.compress(grey)
    swollen = zlib.compress(grey + bytes(100_000_000), 1)
    zeros = _zeros(20_000, 10_000)  # 200 MB
    yield _put(folder / "plain.png", _png(440, 320, body), FACE)
    yield _put(folder / "swollen.png", _png(440, 320, swollen), FACE | UNREADABLE)
    for name, kind, data in (
        ("ztxt", b"zTXt", b"k\0\0" + zeros),
        ("itxt", b"iTXt", b"k\0\1\0\0\0" + zeros),
        ("iccp", b"iCCP", b"k\0\0" + zeros),
        ("text", b"tEXt", b"k\0" + b"x" * 3_000_000),
        ("exif", b"eXIf", b"MM\0*" + b"\xff" * 3_000_000),
        ("own", b"faCe", b"x" * 3_000_000),
    ):
        data = _png(440, 320, body, (kind, data))
        yield _put(folder / f"{name}.png", data, FACE | UNREADABLE)
    many = _png(440, 320, body, *[(b"tEXt", b"k\0v")] * 30_000)
    yield _put(folder / "many.png", many, FACE | UNREADABLE)
    empty = _png(440, 320, b"", *[(b"IDAT", b"")] * 30_000)
    yield _put(folder / "empty.png", empty, UNREADABLE)
    jpeg = encoded(quality=90)
    comments = (b"\xff\xfe\xff\xff" + bytes(65_533)) * 200
    yield _put(folder / "comments.jpg", jpeg[:2] + comments + jpeg[2:], FACE)
    fill = jpeg[:2] + b"\xff" * 2_000_000 + jpeg[2:]
    yield _put(folder / "fill.jpg", fill, FACE | UNREADABLE)
    # a scan that changes nothing is 20 bytes, and goes over all pixels
    slow = encoded(Image.new("RGB", (6000, 4000), "tan"), quality=60, progressive=True)
    last = slow[slow.rindex(b"\xff\xda") : -2]
    yield _put(folder / "scans.jpg", slow[:-2] + last * 400 + slow[-2:], TOO_LARGE)
    more = jpeg + b"\xff\xda" * 60_000  # such as the film behind a moving photograph
    yield _put(folder / "behind.jpg", more, FACE)
    scan = jpeg.index(b"\xff\xda")
    profile = jpeg[:2] + (b"\xff\xe5\xff\xff" + b"\xff\xda" * 32_766 + b"\0") * 2 + jpeg[2:]
    yield _put(folder / "before.jpg", profile, FACE)
    yield _put(folder / "no scan.jpg", jpeg[:scan] + b"\xff\xd9", UNREADABLE)
    yield _put(folder / "loop.tif", _tiff({}, loop=True), FACE | UNREADABLE)
    for name, change in {
        "offset": {273: 2**31},
        "count": {279: 2**32 - 1},
        "rows": {278: 0},
        "depth": {258: 9999},
        "samples": {277: 60_000},
        "kind": {259: 34_712},
        "photometric": {262: 999},
    }.items():
        yield _put(folder / f"{name}.tif", _tiff(change), FACE | UNREADABLE | TOO_LARGE)
    if features.check("jpg_2000"):
        tiles = bytearray(encoded(kind="JPEG2000"))
        at = tiles.index(b"\xff\x51")
        tiles[at + 22 : at + 30] = struct.pack(">II", 1, 1)
        yield _put(folder / "tiles.jp2", bytes(tiles), UNREADABLE)
    frames = [Image.new("L", (1, 1), i % 256) for i in range(3000)]
    film = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield _put(folder / "frames.gif", film, NO_FACE)
    pages = [Image.new("L", (8, 8), i) for i in range(200)]
    book = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    yield _put(folder / "pages.tif", book, NO_FACE)
    rle = b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 1078, 40, 9000, 9000, 1, 8, 1, 0, 0, 0, 0, 0)
    rle += bytes(1024)
    yield _put(folder / "rle.bmp", rle + b"\0\1", UNREADABLE | NO_FACE)
    yield _put(folder / "jumps.bmp", rle + b"\0\2\0\0" * 200_000, UNREADABLE | NO_FACE)
    yield _put(folder / "88MP.png", _png(9_400, 9_400, _zeros(9_400, 9_401)), NO_FACE)


# --- pixels of every kind


def pixels(folder: Path) -> Iterator[Odd]:
    image = scene()
    colour = np.asarray(image)
    grey = np.asarray(image.convert("L"))
    wide = grey.astype(np.uint16) * 257
    alpha = image.convert("RGBA")
    hole = Image.new("L", image.size, 0)
    hole.paste(255, (WHERE[0], WHERE[1], WHERE[0] + SIDE, WHERE[1] + SIDE))
    holed = image.copy()
    holed.putalpha(hole)
    palette = image.quantize(128, dither=Image.Dither.NONE)
    blank = Image.new("RGB", image.size, "grey")
    faces = [image, blank, blank]
    film: dict[str, Any] = {"save_all": True, "append_images": faces[1:]}
    for name, one in {
        "grey": image.convert("L"),
        "16": Image.fromarray(wide),
        "alpha": alpha,
        "holed": holed,
        "la": image.convert("LA"),
        "palette": palette,
        "grey and hole": holed.convert("LA"),
    }.items():
        yield _put(folder / f"{name}.png", encoded(one, "PNG"), FACE)
    for name, one in {
        "grey": image.convert("L"),
        "16": Image.fromarray(wide),
        "cmyk": image.convert("CMYK"),
        "ycbcr": image.convert("YCbCr"),
        "alpha": alpha,
        "palette": palette,
        "holed": holed,
    }.items():
        yield _put(folder / f"{name}.tif", encoded(one, "TIFF"), FACE)
    yield _put(folder / "16 big.tif", encoded(Image.fromarray(wide.astype(">u2")), "TIFF"), FACE)
    yield _put(folder / "32.tif", encoded(Image.fromarray(wide.astype(np.int32)), "TIFF"), FACE)
    transparent = encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))
    yield _put(folder / "transparent.png", transparent, FACE)
    yield _put(
        folder / "transparencies.png", encoded(palette, "PNG", transparency=b"\xff" * 9), FACE
    )
    tone = image.getpixel((0, 0))
    yield _put(folder / "one tone out.png", encoded(kind="PNG", transparency=tone), FACE)
    yield _put(
        folder / "one grey out.png", encoded(image.convert("L"), "PNG", transparency=3), FACE
    )
    yield _put(folder / "transparent.gif", encoded(palette, "GIF", transparency=1), HARD)
    for bits in (1, 2, 4):
        few = image.quantize(2**bits)
        yield _put(folder / f"{bits} bits.png", encoded(few, "PNG", bits=bits), HARD)
    for suffix, kind in (("png", "PNG"), ("tif", "TIFF"), ("bmp", "BMP"), ("pbm", "PPM")):
        yield _put(folder / f"black or white.{suffix}", encoded(image.convert("1"), kind), HARD)
    deep = colour.astype(np.uint16) * 257
    yield _put(folder / "16 colour.png", _cv2(".png", deep), FACE)
    yield _put(folder / "16 colour.tif", _cv2(".tiff", deep), FACE | UNREADABLE)
    real = Image.fromarray(grey.astype(np.float32) / 255)
    yield _put(folder / "float.tif", encoded(real, "TIFF"), UNREADABLE)
    yield _put(folder / "float colour.tif", _cv2(".tiff", colour / np.float32(255)), UNREADABLE)
    lab = Image.fromarray(colour, "RGB").convert("HSV").tobytes()
    lab = Image.frombytes("LAB", image.size, lab)
    # a face, perhaps, of nobody's colours
    yield _put(folder / "lab.tif", encoded(lab, "TIFF"), UNREADABLE | HARD, scale=0)
    for name, options in {
        "rgb": {"keep_rgb": True},
        "444": {"subsampling": 0},
        "411": {"subsampling": 2},
        "comment": {"comment": b"x" * 60_000},
        "dpi": {"dpi": (1, 9999)},
        "worst": {"quality": 5},
        "icc": {"icc_profile": b"\0" * 200_000},
    }.items():
        yield _put(folder / f"{name}.jpg", encoded(**options), FACE if name != "worst" else HARD)
    yield _put(folder / "grey.jpg", encoded(image.convert("L")), FACE)
    yield _put(folder / "cmyk.jpg", encoded(image.convert("CMYK"), quality=90), FACE)
    yield _put(folder / "ycck.jpg", _ycck(colour), FACE)
    yield _put(folder / "mpo.jpg", encoded(image, "MPO", **film), FACE)
    yield _put(folder / "alpha.webp", encoded(holed, "WEBP"), FACE)
    for suffix, kind in (("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG"), ("tif", "TIFF")):
        yield _put(folder / f"film.{suffix}", encoded(faces[0], kind, **film), FACE)
    film["append_images"] = faces
    yield _put(folder / "blank first.gif", encoded(blank, "GIF", **film), NO_FACE)


def _ycck(colour: np.ndarray) -> bytes:
    """A JPEG of luminance, two chrominances and black, as Photoshop writes them."""
    planes = 255 - np.asarray(Image.fromarray(255 - colour).convert("YCbCr"))
    ink = np.concatenate([planes, np.zeros_like(planes[..., :1])], -1)
    data = encoded(Image.frombytes("CMYK", colour.shape[1::-1], ink.tobytes()), quality=90)
    transform = data.index(b"Adobe") + 11
    return data[:transform] + b"\2" + data[transform + 1 :]


# --- EXIF


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    return exif


def turned(folder: Path) -> Iterator[Odd]:
    for number, undo in TURNS.items():
        image = scene() if undo is None else scene().transpose(undo)
        exif = orientation(number)
        for suffix, kind, options in (
            ("jpg", "JPEG", {"quality": 95}),
            ("png", "PNG", {}),
            ("webp", "WEBP", {"quality": 95}),
            ("tif", "TIFF", {}),
        ):
            data = encoded(image, kind, exif=exif, **options)
            yield _put(folder / f"orientation {number}.{suffix}", data, FACE)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    on_its_side = scene().transpose(TURNS[6])
    yield _put(folder / "xmp.jpg", encoded(on_its_side, quality=95, xmp=xmp), HARD)
    yield _put(folder / "broken xmp.jpg", encoded(xmp=b"<x:xmpmeta" + b"\xff" * 999), FACE)
    for number in (0, 9, 65_535):
        yield _put(folder / f"orientation {number}.jpg", encoded(exif=orientation(number)), FACE)
    good = orientation(6).tobytes()
    for name, exif in {
        "noise": b"Exif\0\0" + np.random.default_rng(1).bytes(3000),
        "cut": good[:15],
        "empty": b"",
        "only the name": b"Exif\0\0",
        "text": b"orientation: 6",
        "far": _far(good),
        "loop": b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0",
    }.items():
        yield _put(folder / f"exif {name}.jpg", encoded(exif=exif), FACE)
        yield _put(folder / f"exif {name}.png", encoded(kind="PNG", exif=exif), FACE)
    text = TiffImagePlugin.ImageFileDirectory_v2()
    text[0x010F] = "x" * 50_000
    yield _put(folder / "many tags.tif", encoded(kind="TIFF", tiffinfo=text), FACE)


def _far(exif: bytes) -> bytes:
    """EXIF whose directory lies beyond its end."""
    at = exif.index(b"*") + (1 if exif[exif.index(b"*") - 1 : exif.index(b"*")] == b"\0" else 2)
    return exif[:at] + b"\x7f\xff\xff\xff" + exif[at + 4 :]


# --- names


def named(folder: Path) -> Iterator[Odd]:
    data = encoded(quality=90)
    names = [
        "two\nlines.jpg",
        " spaces  in .jpg",
        "two.dots.jpg",
        'it\'s "quoted".jpg',
        "-rf.jpg",
        "--help.jpg",
        "\U0001f600.jpg",
        "Zoë é.jpg",
        "Zoe\u0308.jpg",
        "日本語.jpg",
        "\u202egpj.jpg",
        "100% %s {0} $HOME `id`.jpg",
        "a;b|c&d<e>f*g?.jpg",
        "back\\slash.jpg",
        "tab\there.jpg",
        "x" * 246 + ".jpg",
        "CAPITALS.JPG",
        "bell\a escape\x1b[31m.jpg",
        "a,b.jpg",
        "con.jpg",
    ]
    for name in names:
        try:
            yield _put(folder / name, data, FACE)
        except (OSError, ValueError):  # a file system that takes no such name
            continue
    if sys.platform == "linux":
        yield _put(folder / os.fsdecode(b"not utf-8 \xff\xfe.jpg"), data, FACE)
        yield _put(folder / os.fsdecode(b"not utf-8 \xe9\xff.png"), b"", UNREADABLE)


# --- what is no file


def places(folder: Path) -> Iterator[Odd]:
    good = folder / "good.jpg"
    yield _put(good, encoded(quality=90), FACE)
    (folder / "folder.jpg").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.jpg")
        yield Odd(folder / "pipe.jpg", UNREADABLE)
    for name, goal, want in (
        ("link.jpg", good, FACE),
        ("dangling.jpg", folder / "none.jpg", UNREADABLE),
        ("to itself.jpg", folder / "to itself.jpg", UNREADABLE),
        ("null.jpg", Path("/dev/null"), UNREADABLE),
        ("zero.jpg", Path("/dev/zero"), UNREADABLE),
    ):
        try:
            (folder / name).symlink_to(goal)
        except OSError:  # no right to make links
            continue
        yield Odd(folder / name, want)
    if hasattr(os, "geteuid") and os.geteuid() != 0:  # root reads everything
        locked = _put(folder / "locked.jpg", encoded(quality=90), UNREADABLE)
        locked.path.chmod(0)
        yield locked


# --- what is in the picture


def contents(folder: Path) -> Iterator[Odd]:
    random = np.random.default_rng(2)
    size = (320, 440, 3)
    noise = random.integers(0, 256, size, np.uint8)
    yield _put(folder / "noise.png", encoded(Image.fromarray(noise), "PNG"), NO_FACE)
    stripes = np.broadcast_to((np.arange(440)[None, :, None] // 5 % 2 * 255).astype(np.uint8), size)
    yield _put(folder / "stripes.png", encoded(Image.fromarray(stripes.copy()), "PNG"), NO_FACE)
    coarse = random.integers(60, 200, (12, 16, 3), np.uint8)
    texture = cv2.resize(coarse, (440, 320), interpolation=cv2.INTER_CUBIC)
    yield _put(folder / "texture.jpg", encoded(Image.fromarray(texture)), NO_FACE)
    for colour in ("black", "white", "tan"):
        yield _put(folder / f"{colour}.jpg", encoded(Image.new("RGB", (440, 320), colour)), NO_FACE)
    for side in (8, 12):  # of the face itself; the pasted square is twice as wide
        small = Image.new("RGB", (440, 320), (110, 120, 100))
        small.paste(Image.fromarray(_face()).resize((2 * side,) * 2), (200, 150))
        yield _put(folder / f"{side} pixels.png", encoded(small, "PNG"), TOO_SMALL)
    for count in (2, 4):
        wide = Image.new("RGB", (440 * count, 320))
        for i in range(count):
            wide.paste(scene(), (440 * i, 0))
        yield _put(folder / f"{count} alike.jpg", encoded(wide, quality=92), FACE, faces=count)
    for scale in (0.5, 3, 12):
        other = scene().resize((round(440 * scale), round(320 * scale)), Image.Resampling.BICUBIC)
        yield _put(folder / f"{scale} times.jpg", encoded(other, quality=90), FACE, scale=scale)


# --- bytes changed here and there: anything but a crash


def damaged(folder: Path) -> Iterator[Odd]:
    random = np.random.default_rng(3)
    anything = FACE | UNREADABLE | TOO_LARGE | TOO_SMALL
    for name, data in _kinds().items():
        for i in range(5):
            bad = bytearray(data)
            start = 0 if i < 2 else 100  # twice in the header, too
            stop = 200 if i < 2 else len(data)
            for at in random.integers(start, min(stop, len(data)), 8):
                bad[at] ^= random.integers(1, 256)
            yield _put(folder / f"{i} {name}", bytes(bad), anything, scale=0.0)


def large(folder: Path) -> Iterator[Odd]:
    """Photographs of 89 megapixels, in several formats, each twice, for a pool to read at once."""
    folder.mkdir(exist_ok=True)
    image = scene().resize((11_000, 8_000), Image.Resampling.BICUBIC)
    palette = image.quantize(128, dither=Image.Dither.NONE)
    makers: dict[str, Callable[[], bytes]] = {
        "a.jpg": lambda: encoded(image, quality=85),
        "b.jpg": lambda: encoded(image, quality=85, progressive=True),
        "a.png": lambda: encoded(image, "PNG", compress_level=1),
        "alpha.png": lambda: encoded(image.convert("RGBA"), "PNG", compress_level=1),
        "16.png": lambda: encoded(
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG"
        ),
        "palette.png": lambda: encoded(palette, "PNG"),
        "a.gif": lambda: encoded(palette, "GIF"),
    }
    for name, make in makers.items():
        data = make()
        for copy in range(2):
            yield _put(folder / f"{copy} {name}", data, FACE, scale=25.0)


def _main() -> None:
    """All of them through one recogniser; prints JSON."""
    from metaface.recognition import Recognizer

    folder, models = Path(sys.argv[1]), sys.argv[2]
    warnings.simplefilter("error")
    people = Recognizer.from_pretrained(models=models)
    before = _peak()
    found = people.identify(folder)
    skipped = {os.fsencode(one.path).hex(): one.skipped for one in found}
    print(json.dumps({"before": before, "after": _peak(), "skipped": skipped}))


def _peak() -> int:
    """Bytes of memory this process had at most; getrusage's may be those of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (n for n in lines if n.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    _main()
