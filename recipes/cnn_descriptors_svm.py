"""Descriptors of a CNN for k-NN, SVM and logistic regression: transfer without fine-tuning.

"CNN descriptors fed to k-NN and SVM" of the slides. Without `--data`, a small CNN learns the digits
0–4 of scikit-learn's `load_digits`; the classifiers then learn 5–9, 10 a class, from what its
layers say of them. References: the raw pixels (8 × 8), and the same layer with random weights.
Half of 5–9 is the test; of the other half come the labelled digits and a validation part, on which
the layer is chosen, as were the net, its epochs, k and C. The last layers know 0–4 best and serve
worse than pixels (Yosinski et al., 2014, arXiv:1411.1792), and so do maps averaged over positions.

    python recipes/cnn_descriptors_svm.py                      (about 55 s on two cores)
    python recipes/cnn_descriptors_svm.py --data pets/         (writes descriptors/, confusion.png)

Measured on the 448 test digits, mean of 5 seeds, k-NN, SVM, logistic: all positions of the last
maps 0.9451, 0.9567, 0.9563; pixels 0.9397, 0.9491, 0.9348; untrained 0.9183, 0.9455, 0.8987.
"""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

import easydl as dl


def accuracies(x, y, learn, *parts):
    """Of k-NN, SVM and logistic regression that learn some rows, on each part of the others."""
    kinds = KNeighborsClassifier(1), SVC(C=10), LogisticRegression(max_iter=5000)
    fitted = [kind.fit(x[learn], y[learn]) for kind in kinds]
    return np.array([[kind.score(x[rows], y[rows]) for kind in fitted] for rows in parts])


def show(name, found):
    print("{:30} · k-NN {:.4f} · SVM {:.4f} · logistic {:.4f}".format(name, *found))


def own_pictures(folder, network, weights):
    data = dl.data.image_folder(folder, split=0.3)
    print(data)
    dl.seed(0)  # the same new head, unused here, at every run: the cache knows the network
    model = dl.pretrained(network, weights, data.class_names)
    parts, small = (data.train, data.validation), dl.vision.Transforms(size=16)
    y = np.concatenate([part.labels for part in parts])
    learn, held_out = np.split(np.arange(len(y)), [len(data.train)])
    pixels = np.stack([small(path).flatten() for part in parts for path in part.pictures])
    x = np.concatenate([model.features(part, cache="descriptors") for part in parts])
    for kind, z in {"pixels": pixels, "descriptors": x}.items():
        show(f"validation · {z.shape[1]} {kind}", accuracies(z, y, learn, held_out)[0])
    said = SVC(C=10).fit(x[learn], y[learn]).predict(x[held_out])
    dl.plotting.confusion_matrix(y[held_out], said, data.class_names).savefig("confusion.png")


def descriptors(model, x):
    found = {name: model.features(x, name) for name in ("hidden", "output")}
    for number in (1, 2, 3):
        maps, flat = model.layers[: 2 * number], dl.Flatten()
        found[f"maps {number}, averaged"] = model.features(x, maps[-1])
        found[f"maps {number}, all places"] = dl.Sequential([*maps, flat]).features(x, flat)
    return found


def one_seed(seed, pixels, digits):
    dl.seed(seed)
    layers, low = [dl.Input((1, 32, 32))], digits < 5
    for maps in (16, 32, 64):
        layers += [dl.Conv2D(maps, 3, padding="same", activation="relu"), dl.MaxPooling2D(2)]
    layers += [dl.Flatten(), dl.Dense(64, activation="relu", name="hidden"), dl.Dropout(0.3)]
    model = dl.Sequential([*layers, dl.Dense(5, activation="softmax", name="output")])
    x = np.stack([*map(dl.vision.Transforms(size=32, channels=1), pixels[~low])])
    kinds = {f"untrained {name}": z for name, z in descriptors(model, x).items()}
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(dl.data.images(pixels[low], digits[low], augment="light").train, epochs=10, verbose=0)
    print(f"seed {seed} · the digits 0–4 are learned", flush=True)
    kinds |= {"pixels": pixels[~low].reshape(len(x), -1) / 255} | descriptors(model, x)
    y, order = digits[~low], np.random.default_rng(seed).permutation(range(0, len(x), 2))
    few = np.concatenate([order[y[order] == digit][:10] for digit in range(5, 10)])
    parts = np.setdiff1d(order, few), np.arange(1, len(x), 2)
    return {name: accuracies(z, y, few, *parts) for name, z in kinds.items()}


parser = argparse.ArgumentParser()
parser.add_argument("--data", dest="folder", help="it has a folder of pictures for each class")
parser.add_argument("--network", default="resnet18", help="a name of torchvision.models")
parser.add_argument("--weights", default="DEFAULT", help="torchvision's name or a checkpoint")
options = vars(parser.parse_args())
if options["folder"]:
    raise SystemExit(own_pictures(**options))
torch.set_num_threads(1)  # enough at this size
pixels = (load_digits().images * (255 / 16)).round().astype(np.uint8)
seeds = [one_seed(seed, pixels, load_digits().target) for seed in range(5)]
means = {name: np.mean([found[name] for found in seeds], 0) for name in seeds[0]}
candidates = [name for name in means if not name.startswith(("untrained", "pixels"))]
for name in ["pixels", *candidates]:
    show(f"validation · {name}", means[name][0])
best = max(candidates, key=lambda name: means[name][0].mean())
for name in ("pixels", best, f"untrained {best}"):
    show(f"test · {name}", means[name][1])
