"""Fine-tune a network for a folder of pictures: for your own, or for real digits.

With `--data`, a network of torchvision's with ImageNet weights (downloaded once) learns your
classes: one folder of pictures each. Without, what fine-tuning is worth is measured offline on
scikit-learn's `load_digits` (Alpaydin and Kaynak, 1998): a LeNet-5 learns the digits 0–4 and is
saved as a plain torch checkpoint; then it learns 5–9 from folders with 10 pictures a class, beside
the same net from random weights (20 epochs each) and its descriptors with k-NN and SVM. Twice: with
digits of 16 × 16 pixels anywhere on 32 × 32, where it pays, and with digits that fill the picture,
where 50 are enough from scratch and it does not. Each net's rates were chosen on the even rows of
5–9 (3 other seeds; 60 epochs changed neither answer), the figures are of the odd ones.

    python recipes/finetune_folder.py                                    (about 85 s on two cores)
    python recipes/finetune_folder.py --data pets/ --network resnet18

Measured, mean of 5 seeds, digits moved: fine-tuned 0.5222, from scratch 0.3405, descriptors + k-NN
0.4627, + SVM 0.5094; digits that fill the picture: 0.8993, 0.9206, 0.6782, 0.7521.
"""

import argparse
import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

import easydl as dl

lenet = functools.partial(dl.LeNet5, classes=5, input_shape=(1, 32, 32), modern=True)


def own_pictures(folder, network, weights):
    print(data := dl.data.image_folder(folder, split=0.2))
    model = dl.finetune(network, data, weights=weights)
    dl.vision.most_wrong(model, data.validation).figure.savefig("most_wrong.png")
    model.save("finetuned.easydl")
    print(f"validation accuracy {model.evaluate(data.validation, verbose=0)[1]:.4f}")


def placed(digit, side, random):
    digit = Image.fromarray((digit * (255 / 16)).round().astype(np.uint8)).resize((side, side))
    (picture := Image.new("L", (32, 32))).paste(digit, tuple(random.integers(0, 33 - side, 2)))
    return picture


def accuracy(model, data, rate, head_epochs=0, spread=1):
    dl.finetune(
        model, data, 20 - head_epochs, head_epochs=head_epochs, learning_rate=2 * rate,
        spread=spread, batch_size=10, augment=None, optimizer=dl.optimizers.Adam, verbose=0,
    )  # fmt: skip
    return model.evaluate(data.test, verbose=0)[1]


def one_seed(seed, folder, side, rate, head_epochs, spread, scratch):
    dl.seed(seed)
    random, digits = np.random.default_rng(seed), load_digits()
    known = np.tile(np.flatnonzero(digits.target < 5), 4)
    pictures = [placed(digits.images[row], side, random) for row in known]
    (first := lenet()).compile(dl.optimizers.Adam(0.002), "sparse_categorical_crossentropy")
    first.fit(dl.data.images(pictures, digits.target[known]), epochs=6, verbose=0)
    torch.save(first.state_dict(), folder / "digits_0_to_4.pth")
    order = random.permutation(np.flatnonzero(digits.target >= 5))
    few = [row for digit in range(5, 10) for row in order[digits.target[order] == digit][:10]]
    odd = [row for row in order if row % 2 and row not in few]
    for part, rows in (("train", few), ("test", odd)):
        for row in rows:
            (place := folder / part / str(digits.target[row])).mkdir(parents=True, exist_ok=True)
            placed(digits.images[row], side, random).save(place / f"{row:04}.png")
    data = dl.data.image_folder(folder)
    model = dl.pretrained(lenet(), folder / "digits_0_to_4.pth")
    model.transforms = first.transforms
    x, z = model.features(data.train), model.features(data.test)
    nearest, svm = (k.fit(x, data.train.labels) for k in (KNeighborsClassifier(3), SVC(C=10)))
    return {
        "fine-tuned": accuracy(model, data, rate, head_epochs, spread),
        "from scratch": accuracy(lenet(), data, scratch),
        "descriptors + k-NN": nearest.score(z, data.test.labels),
        "descriptors + SVM": svm.score(z, data.test.labels),
    }


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", help="a folder of pictures for each class")
parser.add_argument("--network", default="resnet18", help="a name of torchvision.models")
parser.add_argument("--weights", default="DEFAULT", help="their name, or a checkpoint's path")
if (options := parser.parse_args()).data:
    own_pictures(options.data, options.network, options.weights)
else:
    for kind, *settings in (("moved", 16, 0.01, 5, 5, 0.003), ("centred", 32, 0.003, 0, 1, 0.001)):
        seeds = []
        for seed in range(5):
            with tempfile.TemporaryDirectory() as folder:
                seeds.append(one_seed(seed, Path(folder), *settings))
            print(f"{kind} · seed {seed} · fine-tuned {seeds[-1]['fine-tuned']:.4f}", flush=True)
        means = [f"{name} {np.mean([found[name] for found in seeds]):.4f}" for name in seeds[0]]
        print(f"{kind} · mean of 5 seeds · {' · '.join(means)}")
