"""Pictures of every kind -> what a network takes: reading, and the model's own transforms.

torchvision and PIL are imported when the first picture is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from easydl.errors import check_positive_int, listed, look_up

if TYPE_CHECKING:
    from PIL import Image

LARGEST = 2**28  # pixels: a float picture of 3 GB
INTERPOLATIONS = {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC"}


def read_picture(picture: Any) -> Image.Image:
    """One picture as 8-bit RGB, upright.

    What is not RGB is converted, never cut off: grey and palette pictures by their colours, CMYK
    by PIL's formula, 16-bit ones (0 … 65535) scaled to 8 bits, floats from 0 … 1 to 0 … 255,
    transparent pixels laid on white. A photograph is turned as its EXIF tag says. Of an animation
    the first frame is taken.

    Args:
        picture: a path, a PIL picture, or an array or tensor ``(H, W)``, ``(H, W, 3)``,
            ``(3, H, W)``, also with 1 or 4 channels (grey, RGBA): uint8, uint16, bool, or floats
            from 0 to 1.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is empty, cut short or no picture, by its path; an array of another
            shape or range.

    Example:
        >>> read_picture(np.zeros((4, 6), np.uint8)).size, read_picture(np.ones((3, 4, 6))).mode
        ((6, 4), 'RGB')
    """
    from PIL import Image, ImageOps

    if isinstance(picture, (str, os.PathLike)):
        path = Path(picture)
        if not path.is_file():
            raise FileNotFoundError(
                f"no picture at {str(path)!r:.300}; expected a file that PIL can read."
            )
        try:
            with Image.open(path) as opened:
                opened.load()
                return _as_rgb(ImageOps.exif_transpose(opened))
        except Exception as error:  # PIL raises many kinds on what is damaged
            size, reason = path.stat().st_size, f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{str(path)!r:.300} ({size:,} bytes) is no whole picture: "
                f"{reason.splitlines()[0]:.150}. Expected a file that PIL can read; remove it, or "
                "save it anew."
            ) from None
    if isinstance(picture, Image.Image):
        return _as_rgb(ImageOps.exif_transpose(picture))
    return _as_rgb(_from_array(picture))


def _as_rgb(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.float64)
        most = 1.0 if picture.mode == "F" else 65535.0
        low, high = values.min(), values.max()
        if not 0 <= low <= high <= most:
            raise ValueError(
                f"a picture of mode {picture.mode} has values {low:g} … {high:g}; expected "
                f"0 … {most:g}"
            )
        picture = Image.fromarray(np.rint(values * (255 / most)).astype(np.uint8))
    transparent = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if transparent or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _from_array(picture: Any) -> Image.Image:
    from PIL import Image

    if isinstance(picture, Tensor):
        picture = picture.detach().cpu().numpy()
    array = np.asarray(picture)
    shape = array.shape
    if array.ndim == 3:
        first, last = shape[0] in (1, 3, 4), shape[2] in (1, 3, 4)
        if first and last and shape[0] != shape[2]:
            first, last = shape[0] == 3, shape[2] == 3
        if first == last:
            raise ValueError(
                f"a picture of shape {shape} was given; expected (H, W), (H, W, 3) or (3, H, W)"
                f"{', and this may be two of them' if first else ''}."
            )
        array = np.moveaxis(array, 0, -1) if first else array
        array = array[..., 0] if array.shape[2] == 1 else array
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(
            f"a picture of shape {shape} was given; expected (H, W), (H, W, 3) or (3, H, W)."
        )
    if array.dtype == np.uint16:
        array = np.rint(array * (255 / 65535)).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not 0 <= low <= high <= 1:  # false for nan, too
            raise ValueError(
                f"a picture of {array.dtype} has values {low:g} … {high:g}; expected 0 … 1, or "
                "uint8 0 … 255: write (x * 255).astype('uint8'), or what fits its scale."
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(
            f"a picture of {array.dtype} was given; expected uint8 (0 … 255) or floats (0 … 1): "
            "write x.astype('uint8')."
        )
    return Image.fromarray(np.ascontiguousarray(array))


class Transforms:
    """What a network wants of a picture: resized, its middle cut out, scaled, normalised.

    ``transforms(picture)`` takes whatever ``read_picture`` takes. The steps and their order are
    those of torchvision's weights, to the bit.

    Args:
        size: pixels of the square that is cut out of the middle, or ``(height, width)``.
        resize: pixels of the shorter side before that; ``None``: as small as ``size`` allows.
        mean, std: subtracted from and divided into each channel, scaled to 0 … 1, by; ``None``:
            left at 0 … 1.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        channels: 3, or 1 for grey.

    Shape:
        picture -> float tensor ``(channels, height, width)``.

    Raises:
        ValueError: sizes below 1, another interpolation, means for other channels.

    Example:
        >>> to_input = Transforms(size=224, resize=256, mean=[0.5] * 3, std=[0.25] * 3)
        >>> to_input(np.zeros((300, 400, 3), np.uint8)).shape
        torch.Size([3, 224, 224])
    """

    def __init__(
        self,
        size: int | Sequence[int],
        resize: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: str = "bilinear",
        channels: int = 3,
    ):
        several = hasattr(size, "__len__") and not isinstance(size, str)
        sides = tuple(size) if several else (size, size)  # type: ignore[arg-type]
        if len(sides) != 2:
            raise ValueError(f"size={size!r:.60} was given; expected pixels, or (height, width).")
        height, width = (check_positive_int("size", side) for side in sides)
        if height * width > LARGEST:
            raise ValueError(f"size={size!r:.60} was given; expected at most {LARGEST:,} pixels.")
        self.size = (height, width)
        self.resize = None if resize is None else check_positive_int("resize", resize)
        if self.resize is not None and self.resize < max(self.size):
            raise ValueError(
                f"resize={resize} is smaller than size={size}, so that the border would be black; "
                "expected the shorter side to be as large."
            )
        if channels not in (1, 3):
            raise ValueError(f"channels={channels!r:.60} was given; expected 3, or 1 for grey.")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and np.shape(values) != (channels,):
                raise ValueError(f"{name}={values!r:.60} was given; expected {channels} numbers.")
        if (mean is None) != (std is None) or (std is not None and min(std) <= 0):
            raise ValueError(
                f"mean={mean!r:.60}, std={std!r:.60} were given; expected both, std above 0."
            )
        look_up("interpolation", interpolation, INTERPOLATIONS)
        self.mean = None if mean is None else tuple(map(float, mean))
        self.std = None if std is None else tuple(map(float, std))
        self.interpolation, self.channels = interpolation, int(channels)

    @classmethod
    def of_weights(cls, weights: Any) -> Transforms:
        """Those that torchvision gives with its ``weights``."""
        preset = weights.transforms()
        return cls(
            preset.crop_size[0], preset.resize_size[0], preset.mean, preset.std,
            preset.interpolation.value,
        )  # fmt: skip

    def __call__(self, picture: Any) -> Tensor:
        return self.to_tensor(self.crop(read_picture(picture)))

    def crop(self, picture: Image.Image) -> Image.Image:
        """Resized, and the middle cut out."""
        functional = _torchvision().transforms.functional
        sides: list[int] = [self.resize or 0]
        if self.resize is None:
            factor = max(self.size[0] / picture.height, self.size[1] / picture.width)
            sides = [
                max(math.floor(side * factor + 0.5), least)
                for side, least in zip((picture.height, picture.width), self.size)
            ]
        if [picture.height, picture.width] != sides:
            picture = functional.resize(picture, sides, self.interpolation_mode)
        return functional.center_crop(picture, list(self.size))

    def to_tensor(self, picture: Image.Image) -> Tensor:
        """Scaled and normalised."""
        functional = _torchvision().transforms.functional
        if self.channels == 1:
            picture = picture.convert("L")
        tensor = functional.pil_to_tensor(picture)
        tensor = functional.convert_image_dtype(tensor, torch.float32)
        if self.mean is None:
            return tensor
        return functional.normalize(tensor, list(self.mean), list(self.std or ()))

    @property
    def interpolation_mode(self) -> Any:
        """torchvision's name of it."""
        return _torchvision().transforms.InterpolationMode(self.interpolation)

    def resized(self, size: int | Sequence[int]) -> Transforms:
        """The same for pictures of another ``size``; ``resize`` in proportion."""
        made = Transforms(size, None, self.mean, self.std, self.interpolation, self.channels)
        if self.resize is not None:
            made.resize = round(self.resize / min(self.size) * max(made.size))
        return made

    def to_picture(self, tensor: Any) -> np.ndarray:
        """The way back, for looking at it: ``(…, channels, H, W)`` to uint8 ``(…, H, W, 3)``."""
        tensor = torch.as_tensor(tensor).detach().cpu().float()
        if self.mean is not None and self.std is not None:
            shape = (self.channels, 1, 1)
            mean, std = (torch.tensor(v).reshape(shape) for v in (self.mean, self.std))
            tensor = tensor * std + mean
        values = (tensor.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1)
        return values.expand(*values.shape[:-1], 3).numpy()

    def settings(self) -> tuple:
        """All that the result depends on."""
        return self.size, self.resize, self.mean, self.std, self.interpolation, self.channels

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Transforms) and self.settings() == other.settings()

    def __hash__(self) -> int:
        return hash(self.settings())

    def __repr__(self) -> str:
        size = self.size[0] if self.size[0] == self.size[1] else self.size
        text = f"Transforms(size={size}, resize={self.resize}, interpolation={self.interpolation!r}"
        text += f", channels={self.channels}" if self.channels == 1 else ""
        return text + (")" if self.mean is None else f", mean={self.mean}, std={self.std})")


def _torchvision() -> Any:
    from easydl.vision.loading import torchvision  # which needs this room

    return torchvision()


def is_picture(value: Any) -> bool:
    """A path or a PIL picture; arrays are not known from data."""
    return isinstance(value, (str, os.PathLike)) or is_pil(value)


def is_pil(value: Any) -> bool:
    """Whether PIL made it; without importing PIL."""
    return any(kind.__module__ == "PIL.Image" for kind in type(value).__mro__)


def is_single(model: Any, x: Any) -> bool:
    """Whether ``x`` is one picture, and not several or a folder."""
    if is_picture(x):
        return not (isinstance(x, (str, os.PathLike)) and os.path.isdir(x))
    found = raw_pictures(model, x) if _is_uint8(x) else None
    return found is not None and len(found) == 1 and found[0] is x


def picture_list(pictures: Any) -> list[Any] | None:
    """One picture, a folder, or a list of pictures as a list; ``None`` for anything else."""
    if isinstance(pictures, (str, os.PathLike)) and os.path.isdir(pictures):
        found = files_in(pictures)
        if not found:
            raise ValueError(
                f"the folder {str(pictures)!r:.300} holds no picture; expected files that PIL can "
                f"read: {listed(sorted(suffixes()), 80)}."
            )
        return found
    if is_picture(pictures):
        return [pictures]
    text = getattr(getattr(pictures, "dtype", None), "kind", "") in ("O", "U")
    if text and pictures.ndim == 1:
        pictures = list(pictures)  # a table's column, or NumPy's array of paths
    if isinstance(pictures, (list, tuple)) and pictures and all(map(is_picture, pictures)):
        return list(pictures)
    return None


def files_in(folder: Any) -> list[Path]:
    """The pictures in a folder and below it, in order of their names; hidden files left out."""
    known, found, seen = suffixes(), [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(place)
        if real in seen:  # a link back
            folders.clear()
            continue
        seen.add(real)
        found += [
            Path(place, name)
            for name in sorted(names)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in known
        ]
    return found


def suffixes() -> set[str]:
    """Those of the files that PIL can read, ``.jpg``, ``.png`` …"""
    from PIL import Image

    return {s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def raw_pictures(model: Any, pictures: Any) -> list[Any] | None:
    """The pictures, one by one, that must go through the model's transforms; ``None`` for others.

    Where the model has transforms, arrays of uint8 must, and floats that are neither a batch
    ``(N, C, H, W)`` nor one of its samples: grey ones ``(N, H, W)``, or with the channels last.
    """
    if not has_transforms(model) and isinstance(pictures, (np.ndarray, Tensor)):
        return None
    found = picture_list(pictures)
    if found is not None and not has_transforms(model) and not _names_pictures(found):
        return None
    if found is not None or not has_transforms(model):
        return found
    if isinstance(pictures, (list, tuple)) and pictures and all(map(_is_uint8, pictures)):
        return list(pictures)
    if not isinstance(pictures, (np.ndarray, Tensor)) or not 2 <= pictures.ndim <= 4:
        return None
    last = pictures.ndim == 4 and pictures.shape[1] not in (1, 3) and pictures.shape[3] in (1, 3, 4)
    ready = pictures.ndim == 2 or (pictures.ndim == 3 and pictures.shape[0] in (1, 3))
    if not _is_uint8(pictures) and (ready or (pictures.ndim == 4 and not last)):
        return None
    fits = [axis for axis in (0, pictures.ndim - 1) if pictures.shape[axis] in (1, 3, 4)]
    if pictures.ndim == 3 and fits and getattr(model.transforms, "channels", 3) == 1:
        raise ValueError(
            f"an array of shape {tuple(pictures.shape)} may be one picture in colour or several "
            "grey ones; expected x[None] for one, or x[:, None] for several."
        )
    return [pictures] if pictures.ndim == 2 or (pictures.ndim == 3 and fits) else list(pictures)


def refuse_unready(model: Any, x: Any) -> None:
    """Refuse numbers that are pictures as they were stored, which are no input of the model.

    Raises:
        ValueError: of the first 64 pictures some numbers are above 30, or all lie in 0 … 1 where
            the model's are normalised.
    """
    transforms = getattr(model, "transforms", None)
    shape = getattr(x, "shape", ())
    compiled = model._compiled
    lax = compiled is not None and not compiled.strict
    if not isinstance(transforms, Transforms) or len(shape) != 4 or 0 in shape or lax:
        return
    low, high = float(x[:64].min()), float(x[:64].max())
    normalised = transforms.mean is not None
    if high > 30 or (normalised and 0 <= low <= high <= 1):
        wanted = "normalised ones, around 0" if normalised else "those from 0 to 1"
        raise ValueError(
            f"pictures with numbers from {low:g} to {high:g} were given, and the model takes "
            f"{wanted}; expected uint8 pictures or paths, which go through model.transforms, or "
            "what model.transforms(picture) gives."
        )


def _names_pictures(found: list[Any]) -> bool:
    """Whether what may be a path of anything is one of a picture."""
    return is_pil(found[0]) or os.path.splitext(found[0])[1].lower() in suffixes()


def _is_uint8(value: Any) -> bool:
    return str(getattr(value, "dtype", "")) in ("uint8", "torch.uint8")


def has_transforms(model: Any) -> bool:
    return getattr(model, "transforms", None) is not None


def keep_transforms(model: Any, transforms: Any) -> None:
    """Set ``model.transforms``; torchvision's, which are torch modules, are no layer of it."""
    layer = model._modules.get("transforms")
    if layer is not None and any(True for _ in layer.parameters()):
        raise ValueError("a layer of the model is called 'transforms'; expected another name.")
    model._modules.pop("transforms", None)
    vars(model)["transforms"] = transforms


def transforms_of(model: Any) -> Any:
    """The model's transforms, which it must have, for a picture of any kind.

    Raises:
        ValueError: it has none.
    """
    if not has_transforms(model):
        raise ValueError(
            f"pictures were given to a {type(model).__name__} that does not know how its pictures "
            "are made ready; expected arrays (N, C, H, W) as in fit, or a model that was fitted to "
            "image_folder's pictures, or model.transforms = dl.vision.Transforms(size=…, mean=…, "
            "std=…) as its training data were."
        )
    return from_any(model.transforms)


def from_any(transforms: Any) -> Any:
    """``transforms`` for whatever ``read_picture`` takes."""
    if isinstance(transforms, Transforms):
        return transforms
    return lambda picture: transforms(read_picture(picture))


def check_all(paths: Iterable[Any]) -> list[tuple[Path, str]]:
    """The files that are no whole pictures, with the reason; read by several threads."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    from easydl.data.workers import cpus

    paths = list(paths)
    with ThreadPoolExecutor(cpus()) as pool:
        reasons = pool.map(_reason, paths)
        shown = tqdm(reasons, "looking at the pictures", len(paths), leave=False, delay=2)
        return [(path, reason) for path, reason in zip(paths, shown) if reason]


def _reason(path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.draft("L", (1, 1))  # of a JPEG: read to its end, a quarter of the work
            picture.load()
    except Exception as error:
        if not path.exists():
            return "a link to no file"
        if not path.stat().st_size:
            return "empty"
        return f"{type(error).__name__}: {str(error).replace(str(path), 'it')}"[:80]
    return ""
