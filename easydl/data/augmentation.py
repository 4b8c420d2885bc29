"""How training pictures are changed at random: torchvision's v2 transforms, in three strengths."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from easydl.data.pictures import Transforms
from easydl.errors import did_you_mean

STRENGTHS = ("light", "standard", "strong")
MIXES = ("mixup", "cutmix", "both")


def check_augment(augment: Any, mix: Any = None) -> None:
    """Raise for anything but a strength, a function or ``None``."""
    if augment is not None and augment not in STRENGTHS and not callable(augment):
        raise ValueError(
            did_you_mean("augment", augment, STRENGTHS) + " Or a function PIL picture -> picture."
        )
    if mix is not None and mix not in MIXES:
        raise ValueError(did_you_mean("mix", mix, MIXES))


def augmentation(augment: Any, transforms: Any) -> Callable:
    """A function of a PIL picture in RGB that gives the changed one as the network wants it.

    ``"light"`` cuts out 80 to 100 % of the area and turns by up to 7°: for digits, letters and
    signs, which no mirror image is right for. ``"standard"`` cuts out 35 to 100 %, mirrors, and
    changes brightness, contrast and colour by up to a fifth. ``"strong"`` cuts out 20 to 100 %,
    mirrors, applies TrivialAugment and erases a rectangle of every fourth picture.

    Reference: Müller and Hutter, 2021, TrivialAugment, arXiv:2103.10158; Zhong et al., 2017,
    Random Erasing, arXiv:1708.04896.

    Raises:
        ValueError: a strength beside transforms that are a function of the user's.
    """
    if callable(augment):
        return lambda picture: transforms(augment(picture))
    if not isinstance(transforms, Transforms):
        raise ValueError(
            f"augment={augment!r} was given beside transforms of your own, whose size is not "
            "known; expected one of them, or dl.vision.Transforms(size=…)."
        )
    from torchvision.transforms import v2

    mode = transforms.interpolation_mode
    crop = functools.partial(v2.RandomResizedCrop, list(transforms.size), interpolation=mode)
    before: list[Any]
    after: list[Any] = []
    if augment == "light":
        before = [v2.RandomRotation(7, interpolation=v2.InterpolationMode.BILINEAR)]
        before += [crop(scale=(0.8, 1.0), ratio=(0.9, 1.1))]
    elif augment == "standard":
        before = [crop(scale=(0.35, 1.0)), v2.RandomHorizontalFlip(), v2.ColorJitter(0.2, 0.2, 0.2)]
    else:
        before = [crop(scale=(0.2, 1.0)), v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()]
        after = [v2.RandomErasing(0.25)]
    return v2.Compose([*before, transforms.to_tensor, *after])


def mixer(mix: str, classes: int) -> Callable:
    """torchvision's MixUp or CutMix of a batch ``(x, labels)``, or one of them by chance.

    Reference: Zhang et al., 2017, mixup, arXiv:1710.09412; Yun et al., 2019, CutMix,
    arXiv:1905.04899.
    """
    from torchvision.transforms import v2

    kinds = {"mixup": [v2.MixUp(alpha=0.2, num_classes=classes)]}
    kinds["cutmix"] = [v2.CutMix(alpha=1.0, num_classes=classes)]
    kinds["both"] = kinds["mixup"] + kinds["cutmix"]
    return v2.RandomChoice(kinds[mix])
