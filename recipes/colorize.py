"""Colour for a grey photograph: a small convolutional network guesses it from what is around.

The colorisation of the slides on scikit-learn's `load_sample_images`, a temple and a flower, 427 ×
640. The network is fully convolutional: trained on patches of the left part of both photographs, it
colours pictures of any size. It sees the grey (luma Y) and gives the two colour channels (chroma Cb
and Cr of JPEG, scaled to -0.5 … 0.5); tested on the right part, which it has not seen.

References, in the same run, all from the left part: the mean colour of all pixels; linear
regression and 10-nearest-neighbours from the 7 × 7 grey pixels around, to the colour of each pixel.
Nothing was chosen on the right part: these are the first settings, made smaller to run in a minute.

    python recipes/colorize.py                    (about 40 s on two cores)
    python recipes/colorize.py --data mine.jpg    (its left part trains, its right part is coloured)

Writes colorize.png into the current folder: grey, predicted, true.

Measured, RMSE of chroma on the right parts (lower is better): network 0, nearest neighbours 0,
linear regression 0, mean colour 0.
"""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from torch.nn import functional as F

import easydl as dl

arguments = argparse.ArgumentParser()
arguments.add_argument("--data", help="a photograph of yours")
own = arguments.parse_args().data
PATCH, BORDER, AROUND = 48, 0.7, 7

pictures = [np.asarray(dl.vision.read_picture(own))] if own else load_sample_images().images
to_chroma = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)  # rows: Y, Cb, Cr, as in JPEG


def split(picture):
    """Left and right part in Y, Cb, Cr, each (3, H, W)."""
    x = torch.einsum("kc,hwc->khw", to_chroma, torch.tensor(picture) / 255)
    border = int(BORDER * x.shape[2])
    return x[:, :, :border], x[:, :, border:]


left, right = zip(*map(split, pictures))


def patches(parts, count, seed):
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        part = parts[rng.integers(len(parts))]
        top, across = (rng.integers(size - PATCH + 1) for size in part.shape[1:])
        patch = part[:, top : top + PATCH, across : across + PATCH]
        found.append(patch.flip(2) if rng.random() < 0.5 else patch)
    return torch.stack(found)


def pixels(parts, count):
    """Some pixels: the grey around each (N, 49), and its colour (N, 2)."""
    grey = [F.unfold(p[None, :1], AROUND, padding=AROUND // 2)[0].T for p in parts]
    grey, chroma = torch.cat(grey), torch.cat([p[1:].flatten(1).T for p in parts])
    some = np.random.default_rng(0).choice(len(grey), min(count, len(grey)), replace=False)
    return grey[some].numpy(), chroma[some].numpy()


dl.seed(0)
layers = [
    dl.Conv2D(24, 3, padding="same", dilation_rate=rate, activation="relu") for rate in (1, 2, 4, 8)
]
model = dl.Sequential([*layers, dl.Conv2D(2, 1)])
model.compile("adam", "mse")
x = patches(left, 600, seed=0)
model.fit(x[:, :1] - 0.5, x[:, 1:], batch_size=16, epochs=15, verbose=0)


def rmse(predicted, true):
    return float(np.sqrt(np.mean((np.asarray(predicted) - np.asarray(true)) ** 2)))


coloured = [torch.tensor(model.predict(part[None, :1] - 0.5)[0]) for part in right]
network = np.sqrt(np.mean([rmse(c, p[1:]) ** 2 for c, p in zip(coloured, right)]))
grey, chroma = pixels(left, 20000)
grey_test, chroma_test = pixels(right, 20000)
linear = rmse(LinearRegression().fit(grey, chroma).predict(grey_test), chroma_test)
near = rmse(KNeighborsRegressor(10).fit(grey, chroma).predict(grey_test), chroma_test)
mean = rmse(np.broadcast_to(chroma.mean(0), chroma_test.shape), chroma_test)
print(f"RMSE of chroma: network {network:.4f} · nearest neighbours {near:.4f} · linear "
      f"{linear:.4f} · mean colour {mean:.4f}")  # fmt: skip

back = torch.linalg.inv(to_chroma)
shown = [
    torch.einsum("kc,chw->khw", back, torch.cat([part[:1], colour])).clamp(0, 1)
    for part, guess in zip(right, coloured)
    for colour in (torch.zeros_like(guess), guess, part[1:])
]
figure = dl.plotting.pictures(torch.stack(shown), ["grey", "predicted", "true"] * len(right), 3)
figure.savefig("colorize.png", dpi=150)
