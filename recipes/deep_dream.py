"""Deep dream: two photographs, changed until a network sees more of what it sees in them.

After Mordvintsev, Olah and Tyka, 2015, "Inceptionism": gradient ascent on the norm of a layer, from
small to full size. Data: scikit-learn's `load_sample_images`, a temple and a flower, 427 × 640.
Offline the network is trained here, on patches of 32 × 32 from the left three quarters of the
photographs: from which photograph is it, and from its top, middle or bottom? So it dreams of roofs,
sky and petals. Dogs take ImageNet's weights, which are downloaded: `--model googlenet`.

References, in the same run: logistic regression on the mean and the spread of each colour, tested
as the network on the right quarter; and for the dream, noise that changes the picture as much.
Batch normalisation and the one-cycle learning rate were chosen on the last 90 columns of the left
part (0.5992, without both 0.3608, logistic regression 0.4725).

    python recipes/deep_dream.py                        (about 27 s on two cores)
    python recipes/deep_dream.py --data mine.jpg --model googlenet --layer inception4c

Writes dream_0.png and dream_1.png into the current folder.

Measured on 1,200 patches: accuracy 0.6825, logistic regression 0.4825. The dream multiplies the
squared norm by 4.8, noise by 1.17 (mean of both).
"""

import argparse

import numpy as np
import torch
from matplotlib.image import imsave
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import easydl as dl

arguments = argparse.ArgumentParser()
arguments.add_argument("--data", help="a picture of yours")
arguments.add_argument("--model", help="a network of torchvision with ImageNet's weights")
arguments.add_argument("--layer", help="where to look; by default two thirds of the way")
arguments = arguments.parse_args()
SIDE, BORDER = 32, 480
torch.set_num_threads(1)  # results do not depend on the cores
photographs = load_sample_images().images


def patches(count, left, right, rng):
    """Patches (N, 3, 32, 32) between two columns, their class 0 … 5, and colours (N, 6)."""
    which, top = rng.integers(2, size=count), rng.integers(427 - SIDE, size=count)
    across = rng.integers(left, right - SIDE, size=count)
    x = np.stack(
        [photographs[w][t : t + SIDE, a : a + SIDE] for w, t, a in zip(which, top, across)]
    )
    x = x.transpose(0, 3, 1, 2).astype(np.float32) / 255
    return x, 3 * which + (3 * top) // (427 - SIDE), np.hstack([x.mean((2, 3)), x.std((2, 3))])


def trained():
    rng = np.random.default_rng(0)
    x_train, y_train, colours_train = patches(4000, 0, BORDER, rng)
    x_test, y_test, colours_test = patches(1200, BORDER, 640, rng)
    dl.seed(0)
    layers = [dl.BatchNormalization()]
    for filters, side in ((16, 5), (32, 3), (48, 3)):
        layers += [dl.Conv2D(filters, side, activation="relu"), dl.BatchNormalization()]
        layers += [dl.MaxPooling2D(2)]
    layers[-1] = dl.GlobalAveragePooling2D()
    model = dl.Sequential([*layers, dl.Dense(6, "softmax")])
    adam = dl.optimizers.Adam(dl.optimizers.schedules.OneCycle(0.005, 12 * 63))
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, batch_size=64, epochs=12, verbose=0)
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    reference = plain.fit(colours_train, y_train).score(colours_test, y_test)
    print(f"accuracy {accuracy:.4f} · logistic regression on colours {reference:.4f}")
    return model


model = dl.pretrained(arguments.model) if arguments.model else trained()
layer = arguments.layer or (None if arguments.model else "conv2d_1")
pictures = [dl.vision.read_picture(arguments.data)] if arguments.data else photographs
pictures = [np.asarray(picture) for picture in pictures]
ratios = []
for number, picture in enumerate(pictures):
    dream = dl.vision.deep_dream(model, picture, layer, steps=10, octaves=4)
    imsave(f"dream_{number}.png", dream.values.transpose(1, 2, 0))
    if arguments.model:
        continue
    before = picture.transpose(2, 0, 1).astype(np.float32) / 255
    change = abs(dream.values - before).mean()
    noise = np.random.default_rng(0).uniform(-2 * change, 2 * change, before.shape)
    noisy = np.clip(before + noise, 0, 1).astype(np.float32)
    shown = [dl.vision.feature_maps(model, x, layer).values for x in (before, dream.values, noisy)]
    plain, dreamt, noised = (np.square(values[layer]).sum() for values in shown)
    print(f"photograph {number}: pixels moved by {change:.3f} of 1 on average · squared norm of "
          f"{layer} {dreamt / plain:.1f} times, by noise {noised / plain:.2f} times")  # fmt: skip
    ratios.append((dreamt / plain, noised / plain))
if ratios:
    dreamt, noised = np.mean(ratios, axis=0)
    print(f"squared norm, mean of both: dream {dreamt:.1f} · noise {noised:.2f}")
