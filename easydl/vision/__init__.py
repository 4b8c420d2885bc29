"""Pictures: named networks, pretrained weights, fine-tuning, and what a network looks at.

torchvision, PIL and matplotlib are imported when they are first used.
"""

from easydl.data.pictures import Transforms, read_picture
from easydl.vision.architectures import *  # noqa: F403
from easydl.vision.architectures import __all__ as _architectures
from easydl.vision.classifier import Classifier, pretrained
from easydl.vision.download import fetch
from easydl.vision.dreaming import deep_dream
from easydl.vision.finetuning import GradualUnfreezing, finetune
from easydl.vision.judging import Ranking, confusion, most_wrong, neighbours
from easydl.vision.loading import torchvision
from easydl.vision.looking import Look, feature_maps, filters, grad_cam, occlusion

__all__ = [
    "Classifier",
    "GradualUnfreezing",
    "Look",
    "Ranking",
    "Transforms",
    "confusion",
    "deep_dream",
    "feature_maps",
    "fetch",
    "filters",
    "finetune",
    "grad_cam",
    "most_wrong",
    "neighbours",
    "occlusion",
    "pretrained",
    "read_picture",
    "torchvision",
    *_architectures,
]
