"""Every classifier of torchvision as an easydl model: pretrained weights, a new head."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from easydl import initializers
from easydl.data.pictures import Transforms
from easydl.errors import check_path, check_positive_int, did_you_mean, listed
from easydl.layers.base import takes_logits
from easydl.model import Model
from easydl.saving import load_model
from easydl.saving.weights import (
    check_finite,
    check_kinds,
    check_same_architecture,
    mark_as_given,
    mark_as_random,
    read_tensors,
    require_built,
)
from easydl.training.groups import heads_of, root_of
from easydl.vision.download import fetch
from easydl.vision.loading import torchvision

__all__ = ["Classifier", "pretrained"]

AUXILIARY_WEIGHT = {"inception_v3": 0.4, "googlenet": 0.3}  # Szegedy et al., 2015 and 2014
SUFFIXES = (".pth", ".pt", ".safetensors", ".easydl")
PREFIXES = ("module.", "_orig_mod.", "model.", "network.")


class Classifier(Model):
    """A network of ``torchvision.models`` for your classes; ``easydl.pretrained`` makes it.

    ``model.network`` is torchvision's module, with its names in ``state_dict``. ``model(x)`` gives
    probabilities, ``model(x, logits=True)`` what stands before the softmax. Inception's and
    GoogLeNet's auxiliary heads train beside the head, with 0.4 and 0.3 of its loss.

    Args:
        architecture: a name of ``torchvision.models``: ``"resnet18"``, ``"vit_b_16"`` …
        classes: how many, or their names.
        transform_input: of Inception and GoogLeNet: whether pictures normalised as for the other
            networks are changed to what the published weights expect.
        name: shown by ``summary``.

    Shape:
        ``(N, 3, H, W)`` -> ``(N, classes)``.

    Attributes:
        class_names: the labels in the order of the outputs, or ``None``.
        transforms: what makes a picture ready, ``easydl.vision.Transforms``.
        provenance: where the weights are from: their name, address, licence and recipe.

    Raises:
        ValueError: an architecture that torchvision does not have, with the nearest name.

    Example:
        >>> model = Classifier("squeezenet1_1", classes=["cat", "dog"])
        >>> model(torch.zeros(1, 3, 64, 64)).shape, model.head_names
        (torch.Size([1, 2]), ['classifier.1'])
    """

    def __init__(
        self,
        architecture: str,
        classes: int | Sequence[str] = 1000,
        transform_input: bool = False,
        *,
        name: str | None = None,
    ):
        check_architecture(architecture)
        count, names = read_classes(classes)
        network = build(architecture, transform_input=transform_input)
        heads = [key for key, part in network.named_modules() if _gives(part, 1000)]
        for key in heads:
            replace_head(network, key, count)
        super().__init__(network, name=name or architecture)
        self.architecture, self.classes = architecture, count
        self.transform_input = transform_input
        self.class_names = names
        self.head_names = heads
        self.provenance: dict[str, Any] = {}
        self._has_learned = False

    def get_config(self) -> dict[str, Any]:
        """What makes it again."""
        kept = ("architecture", "classes", "transform_input", "name")
        return {name: getattr(self, name) for name in kept}

    def forward(self, x: Tensor, logits: bool = False) -> Any:  # type: ignore[override]
        """Probabilities ``(N, classes)``, or the logits; in training with auxiliary ones."""
        outputs = self.network(x)  # type: ignore[misc]
        main = outputs if isinstance(outputs, Tensor) else outputs.logits
        return main if logits else main.softmax(1)

    def compute_loss(self, x: Any, y: Any, sample_weight: Tensor | None = None) -> tuple:
        """Model's; in training, of networks with auxiliary heads, with their share of the loss."""
        share = AUXILIARY_WEIGHT.get(self.architecture, 0.0)
        if not (self.training and share and self._compiled.heads):
            return super().compute_loss(x, y, sample_weight)
        head, logits = self._compiled.heads[0], self._compiled.use_logits
        outputs = [one for one in self.network(x) if one is not None]  # type: ignore[misc]
        main, *others = outputs if logits else [one.softmax(1) for one in outputs]
        loss = head.compute(main, y, sample_weight)
        loss = loss + share * sum(head.compute(one, y, sample_weight) for one in others)
        return head.weight * loss + self.penalty(), main

    def final_activation(self) -> nn.Module | None:
        return nn.Softmax(1) if takes_logits(self) else None

    def final_module(self) -> nn.Module:
        return self.network.get_submodule(self.head_names[-1])  # type: ignore[union-attr]

    def layer_names(self) -> list[str]:
        """The names that torchvision gives them: ``conv1``, ``layer4``, ``fc``."""
        return [name for name, _ in self.network.named_children()]  # type: ignore[union-attr]

    def to_torch(self) -> nn.Module:
        """torchvision's network, and a softmax behind it."""
        parts = OrderedDict(network=copy.deepcopy(self.network), softmax=nn.Softmax(1))
        plain = nn.Sequential(parts)  # type: ignore[arg-type]
        plain.training = self.training
        if self.architecture in AUXILIARY_WEIGHT:
            plain[0].aux_logits = False  # type: ignore[assignment]  # in training, too, one output
        return plain


@contextlib.contextmanager
def _without_memory() -> Iterator[None]:
    """Weights without memory where ``torch.device("meta")`` was asked for.

    Several of torchvision's constructors compute with small tensors, which ``meta`` cannot.
    """

    class WeightsOnMeta(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.empty:
                kwargs = {**(kwargs or {}), "device": "meta"}
            return func(*args, **(kwargs or {}))

    if torch.get_default_device().type != "meta":
        yield
        return
    with torch.device("cpu"), WeightsOnMeta():
        yield


def build(architecture: str, transform_input: bool = False) -> nn.Module:
    """torchvision's network with random weights and its auxiliary heads."""
    options: dict[str, Any] = {}
    if architecture in AUXILIARY_WEIGHT:
        options = {"aux_logits": True, "transform_input": transform_input}
        options["init_weights"] = True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "auxiliary heads")  # theirs are new in any case
        with _without_memory():
            network = torchvision().models.get_model(architecture, weights=None, **options)
        return network.to("meta") if torch.get_default_device().type == "meta" else network


def architectures() -> list[str]:
    """The classifiers that torchvision has."""
    models = torchvision().models
    return models.list_models(module=models)


def check_architecture(name: Any) -> None:
    known = architectures()
    if name not in known:
        raise ValueError(did_you_mean("architecture of torchvision", name, known))


def read_classes(classes: Any) -> tuple[int, list[str] | None]:
    """How many, and their names where these were given."""
    if isinstance(classes, (list, tuple)):
        names = [str(name) for name in classes]
        if len(set(names)) < len(names) or len(names) < 2:
            raise ValueError(
                f"classes={listed(names)} were given; expected two or more different names."
            )
        return len(names), names
    return check_positive_int("classes", classes, minimum=2), None


def _gives(part: nn.Module, outputs: int) -> bool:
    own = getattr(part, "out_features", getattr(part, "out_channels", None))
    return own == outputs and isinstance(part, (nn.Linear, nn.Conv2d))


def replace_head(network: nn.Module, key: str, classes: int) -> None:
    """A new last layer of as many outputs, with Keras's first weights (Xavier, zero bias)."""
    owner, _, name = key.rpartition(".")
    old: Any = network.get_submodule(key)
    with torch.device(old.weight.device):
        if isinstance(old, nn.Conv2d):
            new: Any = nn.Conv2d(old.in_channels, classes, 1)
        else:
            new = nn.Linear(old.in_features, classes)
    if not new.weight.is_meta:
        initializers.GlorotUniform()(new.weight)
        nn.init.zeros_(new.bias)
    setattr(network.get_submodule(owner), name, new)


# -- pretrained weights ---------------------------------------------------------------------------


def pretrained(
    architecture: str | nn.Module,
    weights: Any = "DEFAULT",
    classes: int | Sequence[str] | None = None,
    *,
    sha256: str | None = None,
) -> Any:
    """A classifier of torchvision with its published weights, or yours, for your classes.

    Published weights are downloaded once, into torch.hub's cache, and checked before every load
    (``easydl.vision.fetch``). With them come the transforms and class names that they were made
    for, and where they are from. ``classes`` puts a new head on, to be trained.

    Args:
        architecture: a name of ``torchvision.models``: ``"resnet18"``, ``"efficientnet_b0"`` …; or
            a network of yours for a checkpoint's path; the head is left out where it does not fit.
        weights: ``"DEFAULT"`` (torchvision's best), another name (``"IMAGENET1K_V1"``), an enum of
            torchvision's, the path of a checkpoint (``.pth``, ``.pt``, ``.safetensors``; also of a
            ``DataParallel``, with or without the head), or ``None``: random.
        classes: how many, or their names; ``None``: those of the weights. A path's head is kept
            where it has as many.
        sha256: what the file must have, 64 hexadecimal digits, where the publisher says it.

    Returns:
        a ``Classifier``, or your network as a ``Model``; ``transforms`` are the weights'
        own, for ``None`` or a path those of the architecture's default weights: set
        ``model.transforms`` where the checkpoint was trained otherwise. A ``.easydl`` knows its.

    Raises:
        ValueError: an unknown name, with the nearest one; a file that is damaged, or of another
            architecture, listing the differences.
        FileNotFoundError, ConnectionError: the weights are not there and cannot be downloaded;
            names the file and the folder where it should lie.

    Example:
        >>> model = pretrained("resnet18", weights=None, classes=["pug", "bagel"])
        >>> model.predict_labels(torch.zeros(1, 3, 64, 64).numpy())  # doctest: +SKIP
        [[('bagel', 0.51), ('pug', 0.49)]]
    """
    if isinstance(architecture, nn.Module):
        return _with_weights(architecture, weights, classes, sha256)
    check_architecture(architecture)
    published = torchvision().models.get_model_weights(architecture)
    if weights is None:
        model = Classifier(architecture, 1000 if classes is None else classes)
        model.transforms = Transforms.of_weights(published.DEFAULT)
        model.given_input_shape = (3, *model.transforms.size)
        return model
    entry = None if _is_path(weights) else _entry(published, weights)
    path = fetch(entry.url, sha256=sha256) if entry else _checked_file(weights, sha256)
    saved = load_model(path) if path.suffix.lower() == ".easydl" else None  # it knows more
    tensors = _renamed(read_tensors(path) if saved is None else saved.state_dict())
    new_head = entry is not None and classes is not None
    if classes is None:
        with torch.device("meta"):
            head = Classifier(architecture).head_names[-1]
        classes = _classes_in(tensors, head, path)
    model = Classifier(architecture, classes, transform_input=_is_imagenets(architecture, entry))
    fresh = _load(model, tensors, repr(str(path)[-200:]), new_head)
    model.transforms = Transforms.of_weights(entry or published.DEFAULT)
    model.given_input_shape = (3, *model.transforms.size)
    if saved is not None:
        model.transforms = saved.transforms or model.transforms
        if model.class_names is None and not fresh:
            model.class_names = saved.class_names
    model._has_learned = not fresh
    model.provenance = {"weights": str(path), "head": "new" if fresh else "of the weights"}
    if entry:
        model.provenance |= _provenance(entry)
        if not fresh:
            model.class_names = list(entry.meta["categories"])
    return model


def _is_path(weights: Any) -> bool:
    text = str(weights) if isinstance(weights, (str, os.PathLike)) else ""
    return isinstance(weights, os.PathLike) or Path(text).suffix.lower() in SUFFIXES


def _entry(published: Any, weights: Any) -> Any:
    """torchvision's enum of the weights, by their name."""
    if isinstance(weights, published):
        return weights
    known = ["DEFAULT", *published.__members__]
    name = weights
    if isinstance(weights, str):
        name = weights.removeprefix(f"{published.__name__}.")
    if name not in known:
        raise ValueError(
            did_you_mean(f"weights in {published.__name__}", weights, known)
            + " Or a path that ends in .pth, .pt or .safetensors; None: random weights."
        )
    return published[name] if name != "DEFAULT" else published.DEFAULT


def _checked_file(weights: Any, sha256: str | None) -> Path:
    path = check_path("weights", weights, "resnet18.pth")
    if not path.is_file():
        raise FileNotFoundError(
            f"no weight file at {str(path)!r:.300}; expected a checkpoint of torch.save or a "
            "safetensors file. For published weights: weights='DEFAULT'."
        )
    if sha256 is not None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256.lower():
            raise ValueError(
                f"{str(path)[-200:]!r} has SHA-256 {found}; expected {sha256}: it is another file, "
                "or damaged."
            )
    return path


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as torchvision has them: without what wrappers put before them."""
    for prefix in PREFIXES * 2:  # one may stand in another
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key[len(prefix) :]: tensor for key, tensor in tensors.items()}
    # DenseNet's published files are older than its names: norm.1 is called norm1 since.
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    return {old.sub(r"\1\2", key): tensor for key, tensor in tensors.items()}


def _classes_in(tensors: dict[str, Tensor], head: str, path: Path) -> int:
    weight = tensors.get(f"{head}.weight")
    if weight is None:
        raise ValueError(
            f"{str(path)[-200:]!r} has no {head}.weight, the head, so that the number of classes "
            "is not known; expected it to be said: classes=10, or classes=['cat', 'dog']."
        )
    return len(weight)


def _with_weights(network: nn.Module, weights: Any, classes: Any, sha256: str | None) -> Model:
    """A network of the user's with a checkpoint of its own."""
    if not _is_path(weights) or classes is not None:
        raise ValueError(
            f"a {type(network).__name__} was given with weights={weights!r:.80} and "
            f"classes={classes!r:.40}; expected a checkpoint's path, and a network whose last "
            "layer has your classes already."
        )
    model = network if isinstance(network, Model) else Model(network)
    path = _checked_file(weights, sha256)
    model._has_learned = not _load(
        model, _renamed(read_tensors(path)), repr(str(path)[-200:]), new_head=False
    )
    return model


def _load(model: Model, tensors: dict[str, Tensor], what: str, new_head: bool) -> bool:
    """Put the tensors into the network; returns whether its head stays new.

    Raises:
        ValueError: other tensors than the network's, heads left aside.
    """
    require_built(model, "pretrained")
    own = model.state_dict()
    tensors, fresh = dict(tensors), False
    names = {module: name for name, module in root_of(model).named_modules()}
    heads = [names[head] for head in heads_of(model)]
    for head in heads:
        weight = tensors.get(f"{head}.weight")
        if new_head or weight is None or weight.shape != own[f"{head}.weight"].shape:
            fresh = fresh or head == heads[-1]
            for name in ("weight", "bias"):
                tensors.pop(f"{head}.{name}", None)
                own.pop(f"{head}.{name}", None)
    for key in list(own):
        auxiliary = key.lower().startswith("aux") and key not in tensors
        if auxiliary or (key.endswith(".num_batches_tracked") and key not in tensors):
            del own[key]  # files may leave these out: they are no part of what is predicted
    check_same_architecture(own, tensors, what)
    check_kinds(own, tensors, what)
    check_finite(model, tensors, what)
    versioned: Any = OrderedDict(tensors)  # MNASNet asks for the version of its layers
    versioned._metadata = getattr(model.state_dict(), "_metadata", None)
    model.load_state_dict(versioned, strict=False)
    mark_as_given(model)
    if fresh:
        mark_as_random(heads_of(model)[-1])
    return fresh


def _is_imagenets(architecture: str, entry: Any) -> bool:
    """Whether the weights expect pictures scaled to -1 … 1, which the network sees to itself."""
    return entry is not None and architecture in AUXILIARY_WEIGHT


def _provenance(entry: Any) -> dict[str, Any]:
    """Where published weights are from."""
    return {
        "weights": str(entry),
        "url": entry.url,
        "license": entry.meta.get(
            "license",
            "torchvision (BSD 3-Clause) names none for these weights; trained on ImageNet, whose "
            "terms allow research",
        ),
        "recipe": entry.meta.get("recipe", ""),
    }
