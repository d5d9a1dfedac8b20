"""One picture in, one uint8 square out."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, cast

import numpy as np
import torch
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from metaface.arguments import is_number
from metaface.data._listing import is_heif
from metaface.data._quiet import quiet

MAX_PIXELS = 89_000_000  # just under the count at which Pillow starts to warn of a bomb
_LARGE = 32_000_000  # pixels from which one picture at a time is decoded
_one_large = Lock()
_MAX_SCANNED = 3_000_000_000  # pixels that a JPEG's scans go over: cameras' have one, others ten
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # of JPEG, where a segment starts
_STRIP = 1_000_000  # pixels converted at once
_WIDE = 257  # levels of 16 bits in one of 8; a picture of levels to 255 alone is of 8
FORMATS = (
    *("JPEG", "MPO", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP", "JPEG2000", "AVIF"),
    "HEIF",  # where pillow-heif is installed
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""what turns a picture of each EXIF orientation upright"""


class UnreadableError(Exception):
    """A picture that cannot be used; the message is the reason shown to the user."""


class TooLargeError(UnreadableError):
    """A picture of more than ``MAX_PIXELS``."""


@dataclass(frozen=True)
class Geometry:
    """What every picture is turned into: uint8 ``[image_size, image_size, channels]``.

    Attributes:
        image_size: side of the result in pixels, >= 1.
        crop: side of the centred square that is kept: a share of the shorter side (0 < crop <= 1)
            or pixels of the original (> 1, at most the shorter side). None is 1.0, the largest
            centred square: pictures are never squeezed out of their proportions.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        ValueError: a value out of range, by name.
    """

    image_size: int
    crop: float | None
    channels: int

    def __post_init__(self) -> None:
        size, channels, crop = self.image_size, self.channels, self.crop
        if not (isinstance(size, int) and not isinstance(size, bool) and size >= 1):
            raise ValueError(f"image_size must be an int >= 1 (pixels), got {size!r}")
        if isinstance(channels, bool) or channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels!r}")
        if crop is not None and not (is_number(crop) and crop > 0 and math.isfinite(crop)):
            raise ValueError(
                "crop must be a share of the shorter side (0 < crop <= 1) or a number of pixels "
                f"(> 1), got {crop!r}"
            )

    def share(self, shorter: int) -> float:
        """The share (0..1] of a picture's shorter side, in pixels, that is kept."""
        crop = 1.0 if self.crop is None else self.crop
        return crop if crop <= 1 else min(1.0, crop / shorter)


def decode(data: bytes, geometry: Geometry) -> np.ndarray:
    """Decode a picture file.

    Returns:
        uint8 ``[S, S, C]``, upright (EXIF), cropped, resized.

    Raises:
        UnreadableError: whatever is wrong with the file.
    """
    with _open(data) as image:
        return fit(image, geometry)


def decode_whole(picture: bytes | Image.Image, longest: int) -> tuple[np.ndarray, float]:
    """All of a picture file's content, or of a Pillow image of any mode.

    Returns:
        uint8 RGB ``[H, W, 3]``, upright (EXIF); reduced where a side has more than ``longest``
        pixels; and how many times: 1.0 or more.

    Raises:
        UnreadableError: whatever is wrong with it.
    """
    with _open(picture) as image:
        times = max(1.0, max(image.size) / longest)  # before the decoder shrinks it
        size = (max(1, round(image.width / times)), max(1, round(image.height / times)))

        def small() -> np.ndarray:
            grey = image.getbands() in (("1",), ("L",), ("I",))  # which takes a third
            pixels, turn = _load(image, "L" if grey else "RGB")
            if times > 1:
                pixels = pixels.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
            return np.asarray(_turn(pixels, turn).convert("RGB"))

        return _run_alone_if_large(image, longest, small), times


def fit(image: Image.Image, geometry: Geometry) -> np.ndarray:
    """Turn a Pillow image of any mode upright, crop, resize: uint8 ``[S, S, C]``."""
    size = geometry.image_size
    share = geometry.share(min(image.size))

    def square() -> np.ndarray:
        pixels = _turn(*_load(image, "L" if geometry.channels == 1 else "RGB"))
        side = max(1.0, share * min(pixels.size))
        left, top = (pixels.width - side) / 2, (pixels.height - side) / 2
        pixels = pixels.resize(
            (size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)
        )
        return np.asarray(pixels).reshape(size, size, geometry.channels)

    return _run_alone_if_large(image, 2 * size / share, square)


@contextlib.contextmanager
def _open(picture: bytes | Image.Image) -> Iterator[Image.Image]:
    try:
        with quiet():
            if isinstance(picture, Image.Image):
                _check_size(picture)
                yield picture.copy()  # the caller's own stays as it is
            elif not picture:
                raise UnreadableError("empty file")
            else:
                with Image.open(io.BytesIO(picture), formats=_list_formats()) as image:
                    _check_scans(picture, image)
                    if isinstance(image, TiffImagePlugin.TiffImageFile):
                        _mend_colours(image)
                    yield image
    except UnreadableError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLargeError(_say_too_large()) from None
    except UnidentifiedImageError:
        if isinstance(picture, bytes) and is_heif(picture[:12]) and "HEIF" not in _list_formats():
            raise UnreadableError(
                "a HEIC photograph takes pillow-heif: pip install 'metaface[heif]', or save it as "
                "JPEG"
            ) from None
        raise UnreadableError("not a picture of a kind Pillow can read") from None
    except Exception as error:  # broken pictures make decoders raise nearly anything
        raise UnreadableError(str(error) or type(error).__name__) from error


def _run_alone_if_large(
    image: Image.Image, needed: float, work: Callable[[], np.ndarray]
) -> np.ndarray:
    """``work()`` on ``image``; of large pictures one at a time, however many threads there are.

    In a thread made for it: C's allocator keeps much of what a thread frees for that thread, and
    over many threads that adds up.

    Args:
        needed: pixels that the sides must have, if the picture has them.
    """
    _check_size(image)
    if image.format in ("JPEG", "MPO"):  # let the JPEG decoder shrink
        image.draft(None, (math.ceil(needed), math.ceil(needed)))
    if image.width * image.height <= _LARGE:
        return work()
    with _one_large, ThreadPoolExecutor(1) as alone:
        return alone.submit(work).result()


def _load(image: Image.Image, mode: str) -> tuple[Image.Image, Image.Transpose | None]:
    """``image`` in ``mode``, and how to turn it upright."""
    image.load()
    turn = None
    with contextlib.suppress(Exception):  # a broken EXIF block is no reason to lose the picture
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return _convert(image, mode), turn


def _turn(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if not width * height:
        raise UnreadableError(f"{width}x{height} pixels: there is nothing in it")
    if width * height > MAX_PIXELS:
        raise TooLargeError(f"{width}x{height}: {_say_too_large()}")


def to_image(photo: object) -> Image.Image:
    """A Pillow image of a Pillow image, an array (see :func:`from_array`) or a tensor like it.

    A tensor is ``[H, W]`` or ``[C, H, W]``.

    Raises:
        TypeError: something else.
        ValueError: an array or tensor of another shape, type or range.
    """
    if isinstance(photo, Image.Image):
        return photo
    if isinstance(photo, torch.Tensor):
        pixels = photo.detach().cpu()
        pixels = pixels.movedim(0, -1) if pixels.ndim == 3 else pixels
        photo = (pixels.float() if pixels.is_floating_point() else pixels).numpy()
    if isinstance(photo, np.ndarray):
        return from_array(photo)
    raise TypeError(f"expected a Pillow image, an array or a tensor, got {type(photo).__name__}")


def from_array(pixels: np.ndarray) -> Image.Image:
    """A Pillow image of a uint8, bool or float (0..1) array ``[H, W]`` or ``[H, W, 1, 3 or 4]``.

    Raises:
        ValueError: another shape, type or range.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2 and not (pixels.ndim == 3 and pixels.shape[2] in (3, 4)):
        raise ValueError(f"an image array must be [H, W] or [H, W, 1, 3 or 4], got {pixels.shape}")
    if not pixels.size:
        raise ValueError(f"an image array must have pixels, got {pixels.shape}")
    if pixels.dtype == bool or np.issubdtype(pixels.dtype, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"float images must lie in 0..1, got {low:.3g}..{high:.3g}: leave out Normalize"
            )
        pixels = np.rint(pixels * 255.0).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"an image array must be uint8 or float in 0..1, got {pixels.dtype}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _check_scans(data: bytes, image: Image.Image) -> None:
    """Refuse a JPEG that goes over its pixels so often that this takes many seconds: a scan that
    changes nothing is a few bytes, and there may be any number."""
    if image.format not in ("JPEG", "MPO"):
        return
    allowed = max(1, _MAX_SCANNED // (image.width * image.height))
    if data.count(b"\xff\xda") <= allowed:  # or else in what follows the picture
        return
    count, at = 0, 2
    while (marker := _MARKER.search(data, at)) and marker[0] != b"\xff\xd9":
        count += marker[0] == b"\xff\xda"
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    if count > allowed:
        raise TooLargeError(f"a JPEG of {count} scans, refused as a decompression bomb")


def _mend_colours(image: TiffImagePlugin.TiffImageFile) -> None:
    """Have a TIFF's uncompressed YCbCr read as what it is.

    Pillow before 13 (there is no other for Python 3.10) takes it for RGB with a fourth byte, and
    then for truncated, or takes other bytes of the file for pixels. No Pillow knows of fewer
    colours than pixels, nor of planes.
    """
    tags, tiles = image.tag_v2, cast("list[Any]", image.tile)
    uncompressed = all(codec == "raw" for codec, *_ in tiles)
    if tags.get(ExifTags.Base.PhotometricInterpretation) != 6 or not uncompressed:
        return
    fewer = tags.get(ExifTags.Base.YCbCrSubSampling, (2, 2)) != (1, 1)
    if fewer or tags.get(ExifTags.Base.PlanarConfiguration, 1) != 1:
        raise UnreadableError(
            "a TIFF of uncompressed YCbCr with fewer colours than pixels, or in planes: save it "
            "as RGB"
        )
    image._mode = "YCbCr"
    for at, tile in enumerate(tiles):
        make = getattr(tile, "_make", tuple)  # plain tuples before Pillow 11
        tiles[at] = make((*tile[:3], ("YCbCr", *tile[3][1:])))


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """``image`` in ``mode`` (L or RGB); what is transparent becomes white."""
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise UnreadableError("floating-point pixels have no known range: save it with 8 bits")
    wide = 1
    if image.mode.startswith("I") and any(np.asarray(s).max() > 255 for _, s in _cut_strips(image)):
        wide = _WIDE
    plain = Image.new(mode, image.size)
    for top, strip in _cut_strips(image):  # what it takes on the way is several times as large
        plain.paste(_convert_strip(strip, mode, wide), (0, top))
    return plain


def _cut_strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image in parts, one below the other, and where each begins."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))


def _convert_strip(image: Image.Image, mode: str, wide: int) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, or 8, held as I;16, I;16B or I
        levels = np.asarray(image).clip(0, 255 * wide)
        image = Image.fromarray((levels // wide).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")  # palette, CMYK, YCbCr, 1 bit
    return image.convert(mode)


def _say_too_large() -> str:
    return f"more than {MAX_PIXELS // 1_000_000} megapixels, refused as a decompression bomb"


@cache
def _list_formats() -> list[str]:
    """Those of ``FORMATS`` that this Pillow knows (EPS and the like run programs: left out)."""
    Image.init()
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]
