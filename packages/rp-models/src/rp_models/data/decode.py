"""From an image file to bytes: the picture as it is, and the crops of ImageNet, of diffusion models, and of training.

Pillow is imported only here, inside functions.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from rp_models.data.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_EXIF_ORIENTATION = 0x0112
_TURNS = (
    *(None, None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM"),
    *("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"),
)  # by orientation, from 0


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """How a picture becomes a square without chance."""

    size: int  # of the square, in pixels
    # "adm" reduces the shorter side to `size` and cuts out the middle; "resize" does so with `resize` instead; "middle"
    # cuts it out of the picture as it is, black where that is smaller; "squash" changes the proportions
    crop: Literal["adm", "resize", "middle", "squash"] = "adm"
    resize: int = 256  # length of the shorter side before the cut, for "resize"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"  # antialiased; for "resize" and "squash"
    channels: int = 3  # 1 or 3
    upright: bool = True  # whether pictures are turned as their EXIF orientation says, as programs show them


def read_picture(path: Path, channels: int) -> np.ndarray:
    """All pixels (c, h, w) of a picture file as bytes, turned as its EXIF orientation says.

    Grey levels of 16 bits are rounded to 8, colours are cut to them; what is transparent lies on white. Raises
    DataError if the file is missing, cannot be decoded, or has more than sixteen bits.
    """
    try:
        raw = path.read_bytes()
        with open_picture(raw) as picture:
            return np.array(_planes(_converted(picture, channels, _orientation(picture, raw))), order="C")
    except (DataError, OSError) as error:
        raise DataError(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from error


def picture_header(raw: bytes, *, upright: bool = True) -> tuple[bool, int, int]:
    """Whether a picture is grey, its height and its width, without its pixels. Raises DataError: as `open_picture`."""
    with open_picture(raw) as picture:
        grey = picture.mode in ("1", "L", "LA", "La", "I") or picture.mode.startswith("I;16")
        width, height = picture.size
        turned = upright and _orientation(picture, raw) >= 5
    return (grey, width, height) if turned else (grey, height, width)


def open_picture(raw: bytes) -> "Image":
    """A picture whose header is read and whose pixels are not.

    Raises DataError if the bytes are no picture, or Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("image files need Pillow; pip install 'rp-models[torchvision]'") from error
    try:
        return Image.open(BytesIO(raw))
    except OSError as error:
        raise DataError("no picture in any known format") from error
    except Image.DecompressionBombError as error:
        raise DataError(str(error)) from error


def view_picture(raw: bytes, view: View) -> np.ndarray:
    """The square (c, size, size) of a picture that evaluation sees, as bytes.

    Raises DataError if the picture cannot be decoded.
    """
    with open_picture(raw) as picture:
        converted = _converted(picture, view.channels, _orientation(picture, raw) if view.upright else 1)
    return _planes(_adm(converted, view.size) if view.crop == "adm" else _evaluated(converted, view))


def crop_picture(raw: bytes, box: tuple[int, int, int, int], view: View) -> np.ndarray:
    """A part of a picture, resized to the view's square (c, size, size), as bytes.

    A JPEG that is much larger than needed is decoded at a half, a quarter or an eighth of its resolution. `box` is top,
    left, height and width of the part, in pixels of the picture as `picture_header` measures it. Raises DataError if
    the picture cannot be decoded.
    """
    from PIL import Image

    top, left, height, width = box
    with open_picture(raw) as picture:
        orientation = _orientation(picture, raw) if view.upright else 1
        full = picture.size
        enough = view.size / min(height, width)
        if enough <= 0.5:
            picture.draft(picture.mode, (int(full[0] * enough), int(full[1] * enough)))
        converted = _converted(picture, view.channels, orientation)
    full = full[::-1] if orientation >= 5 else full
    x, y = converted.width / full[0], converted.height / full[1]
    part = converted.crop((round(left * x), round(top * y), round((left + width) * x), round((top + height) * y)))
    return _planes(part.resize((view.size, view.size), Image.Resampling.BICUBIC))


def _orientation(picture: "Image", raw: bytes) -> int:
    """What EXIF says of a picture whose pixels are not decoded yet: 1 upright, 2 to 4 mirrored, from 5 on its side."""
    if picture.format == "PNG" and b"eXIf" not in raw:
        return 1  # to search the whole file for the tag, Pillow would decode it
    number = picture.getexif().get(_EXIF_ORIENTATION, 1)
    return number if number in range(1, 9) else 1


def _converted(picture: "Image", channels: int, orientation: int) -> "Image":
    """The decoded pixels, grey or red, green and blue, eight bits each, opaque and upright."""
    from PIL import Image

    if picture.mode == "F" or (picture.mode == "I" and picture.format not in ("PNG", "PPM")):
        raise DataError(f"has pixels of 32 bits (Pillow's mode {picture.mode}); save it with 8 or 16 bits")
    try:
        if picture.mode.startswith("I"):  # 16 bits, whatever Pillow keeps them in; its own conversion cuts them off
            levels = np.asarray(picture)
            transparent = levels == picture.info.get("transparency")
            picture = Image.fromarray(np.where(transparent, 255, (levels / 257).round()).astype(np.uint8))
        elif picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's ways to say that a file is damaged
        raise DataError(f"cannot be decoded ({error})") from error
    turn = _TURNS[orientation]
    return picture if turn is None else picture.transpose(Image.Transpose[turn])


def _evaluated(picture: "Image", view: View) -> "Image":
    """Resized and cut as the field evaluates on ImageNet, with Pillow's arithmetic and torchvision's rounding."""
    from PIL import Image

    width, height = picture.size
    target = picture.size
    if view.crop == "resize":
        short = min(width, height)
        target = (int(view.resize * width / short), int(view.resize * height / short))
    elif view.crop == "squash":
        target = (view.size, view.size)
    if target != picture.size:
        picture = picture.resize(target, Image.Resampling[view.interpolation.upper()])
    left, top = (_start(length, view.size) for length in target)
    return picture.crop((left, top, left + view.size, top + view.size))


def _start(length: int, size: int) -> int:
    """Where the middle part of a side begins; outside it, below 0, Pillow gives black."""
    return round((length - size) / 2.0) if length >= size else -((size - length) // 2)


def _adm(picture: "Image", size: int) -> "Image":
    """The middle of the picture as diffusion models of ImageNet are trained on it.

    Halved by averaging while it is at least twice too large, then reduced to `size` bicubically (Dhariwal and Nichol
    2021, arXiv:2105.05233, and its published data pipeline).
    """
    from PIL import Image

    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    if scale != 1.0:
        target = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(target, Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def _planes(picture: "Image") -> np.ndarray:
    """Pixels (c, h, w)."""
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
