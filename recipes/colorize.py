"""Colour for a grey photograph: a small convolutional network guesses it from what is around.

The colorisation of the slides on scikit-learn's `load_sample_images`, a temple and a flower, 427 ×
640. Fully convolutional, it is trained on patches of the left 70 % of both and tested on the right
30 %. It sees the grey (luma Y) and gives the two colour channels (Cb and Cr of JPEG, -0.5 … 0.5).

References, in the same run, from the left part, at 20,000 pixels of the right: the mean colour;
linear regression and 10 nearest neighbours from the 7 × 7 grey pixels around to each pixel's
colour. Settings were changed to save time, not to lower the error.

    python recipes/colorize.py                    (about 38 s on two cores)
    python recipes/colorize.py --data mine.jpg    (its left part trains, its right part is coloured)

Writes colorize.png into the current folder: grey, predicted, true.

Measured, RMSE of the colour channels on the right parts: network 0.0251, nearest neighbours 0.0437,
linear regression 0.0613, mean colour 0.0658.
"""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from torch.nn import functional as F

import easydl as dl

parser = argparse.ArgumentParser()
parser.add_argument("--data", help="a photograph of yours")
own = parser.parse_args().data
PATCH, BORDER, AROUND = 48, 0.7, 7
torch.set_num_threads(1)  # results do not depend on the cores

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
        found.append(part[:, top : top + PATCH, across : across + PATCH])
        found[-1] = found[-1].flip(2) if rng.random() < 0.5 else found[-1]
    return torch.stack(found)


def pixels(parts, count):
    """Some pixels: the grey around each (N, 49), and its colour (N, 2)."""
    grey = [F.unfold(p[None, :1], AROUND, padding=AROUND // 2)[0].T for p in parts]
    grey, chroma = torch.cat(grey), torch.cat([p[1:].flatten(1).T for p in parts])
    some = np.random.default_rng(0).choice(len(grey), min(count, len(grey)), replace=False)
    return grey[some].numpy(), chroma[some].numpy()


dl.seed(0)
rates = (1, 2, 4, 8)  # so that each pixel sees 31 × 31
layers = [dl.Conv2D(24, 3, padding="same", dilation_rate=r, activation="relu") for r in rates]
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
print(f"RMSE of the colours: network {network:.4f} · nearest neighbours {near:.4f} · linear "
      f"{linear:.4f} · mean colour {mean:.4f}")  # fmt: skip

shown = [
    torch.einsum("kc,chw->khw", to_chroma.inverse(), torch.cat([part[:1], colour])).clamp(0, 1)
    for part, guess in zip(right, coloured)
    for colour in (torch.zeros_like(guess), guess, part[1:])
]
titles = ["grey", "predicted", "true"] * len(right)
dl.plotting.pictures(torch.stack(shown), titles, 3).savefig("colorize.png", dpi=150)
