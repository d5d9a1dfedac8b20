"""One picture in, one uint8 square out."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 89_000_000  # just under the count at which Pillow starts to warn of a bomb
FORMATS = (
    *("JPEG", "MPO", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP", "JPEG2000", "AVIF"),
    "HEIF",  # where the user has registered pillow-heif
)


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
        if not (isinstance(self.image_size, int) and self.image_size >= 1):
            raise ValueError(f"image_size must be an int >= 1 (pixels), got {self.image_size!r}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels!r}")
        if self.crop is not None and not (self.crop > 0 and math.isfinite(self.crop)):
            raise ValueError(
                "crop must be a share of the shorter side (0 < crop <= 1) or a number of pixels "
                f"(> 1), got {self.crop!r}"
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
    with _opened(data) as image:
        return fit(image, geometry)


def whole(data: bytes, longest: int) -> np.ndarray:
    """Decode a picture file, all of it.

    Returns:
        uint8 RGB ``[H, W, 3]``, upright (EXIF); reduced where a side has more than ``longest``
        pixels.

    Raises:
        UnreadableError: whatever is wrong with the file.
    """
    with _opened(data) as image:
        return upright(image, longest)


def upright(image: Image.Image, longest: int) -> np.ndarray:
    """A Pillow image of any mode as :func:`whole` gives it."""
    image = _turned(image, longest, "RGB")
    if max(image.size) > longest:
        share = longest / max(image.size)
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(image)


def fit(image: Image.Image, geometry: Geometry) -> np.ndarray:
    """Turn a Pillow image of any mode upright, crop, resize: uint8 ``[S, S, C]``."""
    size = geometry.image_size
    share = geometry.share(min(image.size))
    image = _turned(image, size / share, "L" if geometry.channels == 1 else "RGB")
    side = max(1.0, share * min(image.size))
    left, top = (image.width - side) / 2, (image.height - side) / 2
    image = image.resize(
        (size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)
    )
    return np.asarray(image).reshape(size, size, geometry.channels)


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    if not data:
        raise UnreadableError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            yield image
    except UnreadableError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLargeError(_too_large()) from None
    except UnidentifiedImageError:
        raise UnreadableError("not a picture of a kind Pillow can read") from None
    except Exception as error:  # broken pictures make decoders raise nearly anything
        raise UnreadableError(f"{error or type(error).__name__}") from error


def _turned(image: Image.Image, needed: float, mode: str) -> Image.Image:
    """``image`` upright in ``mode``, with sides of at least ``needed`` pixels, if it has them."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise TooLargeError(f"{width}x{height}: {_too_large()}")
    if image.format in ("JPEG", "MPO"):  # let the JPEG decoder shrink, to twice what is needed
        image.draft(None, (math.ceil(2 * needed), math.ceil(2 * needed)))
    with contextlib.suppress(Exception):  # a broken EXIF block is no reason to lose the picture
        ImageOps.exif_transpose(image, in_place=True)
    return _plain(image, mode)


def as_image(photo: object) -> Image.Image:
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


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """``image`` in ``mode`` (L or RGB); what is transparent becomes white."""
    if image.mode.startswith("I"):  # 16 bits a pixel, held as I;16, I;16B or I
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray((wide // 257).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadableError("floating-point pixels have no known range: save it with 8 bits")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")  # palette, CMYK, YCbCr, 1 bit
    return image.convert(mode)


def _too_large() -> str:
    return f"more than {MAX_PIXELS // 1_000_000} megapixels, refused as a decompression bomb"


@cache
def _formats() -> list[str]:
    """Those of ``FORMATS`` that this Pillow knows (EPS and the like run programs: left out)."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]
