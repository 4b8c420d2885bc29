"""Pictures and their classes: from folders, arrays or a Dataset, for training and validation.

torchvision and PIL are imported when the first picture is looked at.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from easydl.data.augmentation import augmentation, check_augment, mixer
from easydl.data.classes import class_numbers, labels_of
from easydl.data.convert import to_tensor
from easydl.data.pictures import (
    Transforms,
    check_all,
    files_in,
    from_any,
    has_transforms,
    keep_transforms,
    raw_pictures,
    read_picture,
    refuse_unready,
    suffixes,
    transforms_of,
)
from easydl.data.split import split_rows
from easydl.errors import check_between, check_flag, listed, warn_user

PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}  # in any case


class Pictures(Dataset):
    """Pictures with their class numbers, read one by one when they are needed.

    ``image_folder`` and ``images`` make it. Give it to ``fit``, ``evaluate``, ``predict`` or
    ``features``: the model says how its pictures are made ready.

    Args:
        pictures: paths, PIL pictures or arrays, or a Dataset that gives ``(picture, class)``.
        labels: the class number of each, or what else the targets are; ``None``: not known.
        class_names: in the order of the numbers.
        transforms: picture -> tensor ``(C, H, W)``; ``None``: the model's.
        size: pixels, where the model's transforms are to give another size.
        augment: how pictures are changed at random, see ``image_folder``.
        mix: ``"mixup"``, ``"cutmix"``, ``"both"``: each batch mixed; ``None``: not.
        shares: whether targets are shares of the classes, (C,), in place of class numbers.

    Attributes:
        pictures, labels, class_names: as given; ``labels`` a tensor ``(N,)``, in the order in which
            ``predict`` and ``features`` give their rows.

    Shape:
        a sample is ``(tensor (C, H, W), class number)``, or the tensor alone.
    """

    def __init__(
        self,
        pictures: Any,
        labels: Any = None,
        class_names: Sequence[str] | None = None,
        *,
        transforms: Any = None,
        size: Any = None,
        augment: Any = None,
        mix: str | None = None,
        shares: bool = False,
    ):
        self.pictures = pictures
        self.labels = None if labels is None else to_tensor(labels, "y")
        self.class_names = None if class_names is None else list(class_names)
        self.transforms, self.size = transforms, size
        self.augment, self.mix, self.shares = augment, mix, shares
        self._change: Callable | None = None  # what makes one ready, known with the model
        self._mixer: Callable | None = None  # what mixes a batch

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> Any:
        if self._change is None:
            raise ValueError(
                "these pictures were asked for before a model said how they are made ready; "
                "expected model.fit(data.train), or image_folder(…, transforms=function)."
            )
        picture, label = self.pictures[row], None
        if isinstance(picture, tuple):
            picture, label = picture
        label = label if self.labels is None else self.labels[row]
        tensor = self._change(picture)
        if label is None:
            return tensor
        return tensor, self._share(label) if self.shares else label

    def __getitems__(self, rows: list[int]) -> list[Any]:
        samples = [self[row] for row in rows]
        if self._mixer is None:
            return samples
        x, shares = (torch.stack(part) for part in zip(*samples))
        return list(zip(*self._mixer(x, shares.argmax(1))))

    def _share(self, label: Any) -> Tensor:
        assert self.class_names is not None
        return torch.nn.functional.one_hot(torch.as_tensor(label), len(self.class_names)).float()

    def changed_by(self, augment: Any) -> Pictures:
        """A copy whose pictures are changed at random, see ``image_folder``."""
        check_augment(augment)
        made = copy.copy(self)
        made.augment = augment
        return made

    def made_for(self, model: Any, learning: bool = False) -> Pictures:
        """A copy whose pictures are made ready as ``model`` wants them.

        Args:
            learning: whether they are changed at random and mixed, which only training wants.
        """
        made = copy.copy(self)
        if not learning:
            made.augment = made.mix = None
        if made.transforms is None:
            made.transforms = _transforms(model, self.size)
        made._change = from_any(made.transforms)
        if made.augment is not None:
            change = augmentation(made.augment, made.transforms)
            made._change = lambda picture: change(read_picture(picture))
        if made.mix is not None:
            made._mixer = mixer(made.mix, len(made.class_names or ()))
        return made


def _transforms(model: Any, size: Any) -> Any:
    """The model's own, or for what it was built for: scaled to 0 … 1."""
    shape = getattr(model, "given_input_shape", None)  # a plain module has none
    if has_transforms(model):
        if size is not None and not isinstance(model.transforms, Transforms):
            raise ValueError(
                f"size={size!r:.40} was given, and the model has transforms of your own; expected "
                "none, or model.transforms = None."
            )
        return model.transforms if size is None else model.transforms.resized(size)
    if shape is not None and len(shape) == 3 and shape[0] in (1, 3) and None not in shape:
        return Transforms(shape[1:] if size is None else size, channels=shape[0])
    if size is None:
        raise ValueError(
            "the pictures have no size: neither the model nor image_folder says it; expected "
            "image_folder(…, size=64), or input_shape=(3, 64, 64) in the model's first layer."
        )
    return Transforms(size)


class PictureData:
    """What ``image_folder`` and ``images`` return: the parts, each a ``Pictures``.

    Attributes:
        train: pictures to learn from, with augmentation.
        validation: held-out pictures, or ``None``.
        test: those of a folder ``test/``, or ``None``.
        class_names: in the order of the class numbers.
    """

    def __init__(self, train: Pictures, validation: Pictures | None, test: Pictures | None = None):
        self.train, self.validation, self.test = train, validation, test
        self.class_names = train.class_names

    def __repr__(self) -> str:
        parts = [
            f"{len(part):,} {name}"
            for name, part in vars(self).items()
            if isinstance(part, Pictures)
        ]
        names = listed(self.class_names or [], 80)
        return f"pictures: {', '.join(parts)}; {len(self.class_names or [])} classes: {names}"


def image_folder(
    path: Any,
    split: float | None = None,
    *,
    size: Any = None,
    augment: Any = None,
    mix: str | None = None,
    transforms: Any = None,
    seed: int = 0,
    check: bool = True,
) -> PictureData:
    """The pictures below a folder, one folder a class: ``pets/cat/*.jpg``, ``pets/dog/*.jpg``.

    The parts may be folders themselves: ``pets/train/cat``, ``pets/validation/cat`` (or ``val``,
    ``valid``; ``test`` too; in any case). Folders that begin with ``.`` or ``__`` are passed over.
    Classes are the folders' names in alphabetical order; every part must
    have all of them, so that a number means the same everywhere. Any file that PIL reads is taken,
    also from folders within; each is looked at up front, and damaged ones are named together.

    A model makes the pictures ready: a pretrained one as its weights want them, another one
    scaled to 0 … 1 in the size that it was built for.

    Args:
        path: the folder.
        split: the share of each class held out for validation, the same pictures at every call.
        size: pixels of the square, or ``(height, width)``, where another is wanted than the
            model's, or the model says none.
        augment: how training pictures are changed at random. ``"light"``: small cuts and turns, no
            mirror images, for digits or signs. ``"standard"``: cuts, mirror images, colours.
            ``"strong"``: all that TrivialAugment knows, and erased patches. Or a function PIL
            picture -> picture; ``None``: not at all.
        mix: ``"mixup"``, ``"cutmix"`` or ``"both"``: training pictures are mixed in pairs; targets
            are shares of the classes then, for ``"categorical_crossentropy"``.
        transforms: a function PIL picture -> tensor ``(C, H, W)`` in place of the model's.
        seed: which pictures are held out.
        check: whether every file is read up front, some 2 ms each.

    Returns:
        ``PictureData``: ``.train``, ``.validation``, ``.test``, ``.class_names``.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: damaged files, by their paths; an empty class folder; fewer than two classes; a
            class that a part lacks.

    Example:
        >>> data = image_folder("pets/", split=0.2)  # doctest: +SKIP
        >>> model.fit(data.train, validation_data=data.validation)  # doctest: +SKIP
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {str(path)!r:.300}; expected one that holds a folder of pictures a class."
        )
    check_augment(augment, mix)
    folders = {folder.name: folder for folder in _folders(root)}
    parts = {
        part: folder
        for part, names in PARTS.items()
        for name, folder in folders.items()
        if name.lower() in names
    }
    if "train" not in parts and len(folders) == len(parts) > 0:
        raise ValueError(
            f"{str(path)!r:.250} has the folders {listed(sorted(folders))}, parts without one to "
            "learn from; expected train/ beside them, or a folder a class."
        )
    if "train" not in parts:
        found = {"train": _classes_of(root, folders.values())}
    else:
        if split is not None:
            raise ValueError(
                f"split={split!r:.40} was given, but {str(path)!r:.200} has a folder "
                f"{parts['train'].name!r}; expected one of them: no split, or the path of "
                f"{parts['train'].name!r} with one."
            )
        strange = sorted(set(folders) - {place.name for place in parts.values()})
        if strange:
            raise ValueError(
                f"{str(path)!r:.200} has the folders {listed(sorted(folders))}; expected those of "
                "the parts (train, validation, test) or those of the classes, not both."
            )
        found = {part: _classes_of(place, _folders(place)) for part, place in parts.items()}
    names = sorted(found["train"])
    for part, classes in found.items():
        if sorted(classes) != names:
            missing, extra = set(names) - set(classes), set(classes) - set(names)
            raise ValueError(
                f"the folder of {part} lacks the classes {listed(sorted(missing)) or 'none'} and "
                f"has {listed(sorted(extra)) or 'none'} that train has not; expected the same "
                "classes in every part."
            )
    if check_flag("check", check):
        _refuse_damaged(
            [file for classes in found.values() for f in classes.values() for file in f]
        )
    sets = {
        part: (
            [file for name in names for file in classes[name]],
            [number for number, name in enumerate(names) for _ in classes[name]],
        )
        for part, classes in found.items()
    }
    return _parts(sets, split, names, size, augment, mix, transforms, seed)


def images(
    x: Any,
    y: Any = None,
    split: float | None = None,
    *,
    class_names: Sequence[str] | None = None,
    size: Any = None,
    augment: Any = None,
    mix: str | None = None,
    transforms: Any = None,
    seed: int = 0,
) -> PictureData:
    """The same from arrays, from a list of paths or PIL pictures, or from a Dataset.

    Args:
        x: uint8 or floats from 0 to 1, ``(N, H, W)``, ``(N, H, W, 3)`` or ``(N, 3, H, W)`` (8 bits
            are kept); a list of paths or PIL pictures; or a Dataset that gives
            ``(picture, class number)``, such as those of ``torchvision.datasets``.
        y: class numbers or names, one a picture; ``None`` for a Dataset that has ``targets``.
        class_names: in the order of the numbers.
        split, size, augment, mix, transforms, seed: as in ``image_folder``.

    Returns:
        ``PictureData``: ``.train``, ``.validation``, ``.class_names``.

    Raises:
        ValueError: different lengths, numbers without a class, fewer than two classes.

    Example:
        >>> data = images(np.zeros((10, 8, 8), np.uint8), [0, 1] * 5, split=0.2, size=16)
        >>> data
        pictures: 8 train, 2 validation; 2 classes: 0, 1
    """
    check_augment(augment, mix)
    if isinstance(x, Dataset) and y is None:
        y, known = labels_of(x), getattr(x, "classes", None)
        class_names = known if class_names is None else class_names
    if y is None or len(y) != len(x):
        raise ValueError(
            f"{len(x)} pictures and {'no' if y is None else len(y)} labels were given; expected "
            "one a picture: images(x, y)."
        )
    x = x.to_numpy() if hasattr(x, "to_numpy") else x  # a table's column of paths
    labels = np.asarray(y)
    if labels.dtype.kind in "OU":
        class_names = (
            sorted({str(label) for label in labels}) if class_names is None else class_names
        )
        labels = class_numbers(labels, class_names)
    if labels.ndim != 1 or (labels.dtype.kind not in "iub" and (labels % 1).any()):
        raise ValueError(
            f"labels of shape {labels.shape} and {labels.dtype} were given; expected class numbers "
            "or names (N,)."
        )
    labels = labels.astype(np.int64)
    count = labels.max() + 1 if class_names is None else len(class_names)
    names = [str(i) for i in range(count)] if class_names is None else list(map(str, class_names))
    if len(set(names)) < len(names):
        raise ValueError(f"class_names={names!s:.200} were given; expected different names.")
    if labels.min() < 0 or labels.max() >= len(names) or len(names) < 2:
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()} were given for {len(names)} classes; "
            f"expected two or more classes, and 0 … {len(names) - 1}."
        )
    return _parts({"train": (x, labels)}, split, names, size, augment, mix, transforms, seed)


def _parts(
    sets: dict[str, tuple[Any, Any]], split: float | None, names: list[str], size: Any,
    augment: Any, mix: str | None, transforms: Any, seed: int,
) -> PictureData:  # fmt: skip
    if split is not None:
        check_between("split", split, 0, 1, ends="()")
    if size is not None:
        Transforms(size)  # which says what is wrong with it
    if transforms is not None and size is not None:
        raise ValueError(
            f"size={size!r:.40} and transforms were both given; expected one of them: the "
            "transforms say the size."
        )
    settings = {"transforms": transforms, "size": size, "shares": mix is not None}
    if split is not None:
        x, y = sets["train"]
        labels = torch.as_tensor(y)
        for number in (torch.bincount(labels) == 1).nonzero().flatten().tolist():
            raise ValueError(
                f"class {names[number]!r:.60} has 1 picture; expected two or more of each, for "
                f"split={split!r:.20}."
            )
        rows = split_rows(len(x), split, "stratified", labels, seed)
        for part, chosen in zip(("train", "validation"), rows):
            kept = sorted(torch.as_tensor(chosen).tolist())
            sets[part] = (_taken(x, kept), [int(y[row]) for row in kept])
    made = {
        part: Pictures(
            pictures, None if isinstance(pictures, Dataset) else labels, names, **settings,
            **({"augment": augment, "mix": mix} if part == "train" else {}),
        )
        for part, (pictures, labels) in sets.items()
    }  # fmt: skip
    for part, (_, labels) in sets.items():
        made[part].labels = torch.as_tensor(labels).long()
    return PictureData(made["train"], made.get("validation"), made.get("test"))


def _taken(x: Any, rows: list[int]) -> Any:
    if isinstance(x, Dataset):
        return Subset(x, rows)
    return [x[row] for row in rows] if isinstance(x, (list, tuple)) else x[rows]


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _classes_of(root: Path, folders: Any) -> dict[str, list[Path]]:
    """Each class's pictures; warns of other files, which may be pictures that PIL cannot read."""
    classes = {folder.name: files_in(folder) for folder in folders}
    if len(classes) < 2:
        raise ValueError(
            f"{str(root)!r:.250} holds {len(classes)} folders ({listed(classes)}); expected one of "
            "pictures for each of two or more classes: cat/, dog/."
        )
    for name, files in classes.items():
        if not files:
            raise ValueError(
                f"the class folder {str(root / name)!r:.250} holds no picture; expected files that "
                f"PIL can read ({listed(sorted(suffixes()), 60)}), or no such folder."
            )
    known = suffixes()
    others = [
        Path(place, name)
        for folder in classes
        for place, _, names in os.walk(root / folder)
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() not in known
    ]
    if others:
        kinds = sorted({path.suffix for path in others})
        warn_user(
            f"{len(others)} files below {str(root)!r:.200} are passed over, as PIL knows no "
            f"pictures of their names ({listed(kinds, 60)}): {listed(others, 150)}."
        )
    return classes


def _refuse_damaged(files: list[Path]) -> None:
    damaged = check_all(files)
    if damaged:
        lines = [f"{str(path)[-110:]} ({reason})" for path, reason in damaged[:3]]
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise ValueError(
            f"{len(damaged)} of {len(files)} files are no whole pictures: {'; '.join(lines)}{more}"
            ". Expected files that PIL can read: remove them, or save them anew."
        )


# -- what a model is given ------------------------------------------------------------------------


def readable(
    model: Any, x: Any, y: Any = None, labelled: bool = True, learning: bool = False
) -> tuple[Any, Any]:
    """``x, y`` as ``fit`` and the others take them: pictures become ``Pictures`` for the model.

    Args:
        labelled: whether the classes of the pictures are used.
        learning: whether the pictures are trained on.

    Raises:
        ValueError: pictures of other classes than the model's; pictures for a model that has no
            transforms.
    """
    if "transforms" in model._modules:
        keep_transforms(model, model.transforms)
    if isinstance(x, PictureData):
        parts = [f"data.{name}" for name, part in vars(x).items() if isinstance(part, Pictures)]
        raise TypeError(f"all parts of the data were given; expected one: {', '.join(parts)}.")
    if isinstance(x, Pictures):
        if labelled:
            check_classes(model, x)
        return x.made_for(model, learning), y
    found = raw_pictures(model, x)
    if found is None:
        refuse_unready(model, x)
        return x, y
    transforms_of(model)
    for path in found:
        if isinstance(path, (str, os.PathLike)) and not os.path.isfile(path):
            read_picture(path)  # which says so
    if y is None:
        return Pictures(found).made_for(model), None
    if not hasattr(y, "__len__") or isinstance(y, dict) or len(y) != len(found):
        many = f"{len(y)} targets" if hasattr(y, "__len__") else f"y={y!r:.40}"
        raise ValueError(f"{len(found)} pictures and {many} were given; expected one a picture.")
    if np.asarray(y).dtype.kind in "OU" and model.class_names is not None:
        y = class_numbers(np.asarray(y), model.class_names)
    return Pictures(found, y).made_for(model), None


def check_classes(model: Any, pictures: Any) -> None:
    """Refuse pictures whose class numbers mean other classes than the model's outputs."""
    known, given = (getattr(thing, "class_names", None) for thing in (model, pictures))
    if known is not None and given is not None and list(known) != list(given):
        raise ValueError(
            f"the model tells apart {listed(known, 150)}, and the pictures are of "
            f"{listed(given, 150)}; expected the same classes, or "
            "model.class_names = None for a new meaning of its outputs."
        )


def remember(model: Any, source: Any) -> None:
    """Keep with the model what the pictures that it learns from have told: transforms, classes.

    Raises:
        ValueError: another number of classes than the model has outputs.
    """
    pictures = getattr(source, "source", None)
    if not isinstance(pictures, Pictures) or pictures.class_names is None:
        return
    head = model._compiled.heads[0] if len(model._compiled.heads) == 1 else None
    outputs = getattr(head, "classes", None)
    if head is not None and head.kind == "categorical" and outputs != len(pictures.class_names):
        raise ValueError(
            f"the network has {outputs} outputs, and the pictures are of "
            f"{len(pictures.class_names)} classes; expected as many outputs."
        )
    model.class_names = pictures.class_names
    keep_transforms(model, pictures.transforms)
