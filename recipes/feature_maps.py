"""What a small LeNet sees in a handwritten digit: its filters, and every map layer by layer.

As in the browser playground of the slides, where the maps of a drawn digit are shown. Network: two
convolutions with ReLU and max pooling after LeCun, Bottou, Bengio and Haffner, 1998. Data:
scikit-learn's `load_digits`, 1,797 real digits of 8 × 8 pixels, enlarged to 20 × 20; three quarters
for training, stratified, random_state=0.

References, in the same run: logistic regression on the pixels; and the maps of the first layer
computed by SciPy's correlation from the filters.

    python recipes/feature_maps.py                     (about 11 s on two cores)
    python recipes/feature_maps.py --data digit.png    (a picture of yours, ink dark on white)

Writes filters.png, maps.png, seen.png (where Grad-CAM says that the network looked) and wrong.png
into the current folder.

Measured on the 450 test digits: accuracy 0.9822, logistic regression 0.9689; maps within 5e-07.
"""

import argparse

import numpy as np
import torch
from scipy.signal import correlate2d
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch.nn import functional as F

import easydl as dl

arguments = argparse.ArgumentParser()
arguments.add_argument("--data", help="a picture of one digit, ink dark on white")
own = arguments.parse_args().data
torch.set_num_threads(1)  # enough at this size; results do not depend on the cores

digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
x_train, x_test, y_train, y_test = train_test_split(
    F.interpolate(x, size=20, mode="bilinear"), torch.tensor(digits.target),
    test_size=0.25, stratify=digits.target, random_state=0,
)  # fmt: skip

dl.seed(0)
model = dl.Sequential([
    dl.Conv2D(8, 5, activation="relu"), dl.MaxPooling2D(2),
    dl.Conv2D(16, 3, activation="relu"), dl.MaxPooling2D(2),
    dl.Flatten(), dl.Dense(64, activation="relu"), dl.Dropout(0.3), dl.Dense(10, "softmax"),
])  # fmt: skip
steps = 20 * -(-len(x_train) // 32)
adam = dl.optimizers.Adam(dl.optimizers.schedules.OneCycle(0.005, steps))
model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x_train, y_train, batch_size=32, epochs=20, verbose=0)
accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
plain = LogisticRegression(max_iter=1000, tol=1e-5).fit(x_train.flatten(1), y_train)
print(
    f"test accuracy {accuracy:.4f} · "
    f"logistic regression {plain.score(x_test.flatten(1), y_test):.4f}"
)

digit = x_test[0]
if own:
    grey = dl.vision.read_picture(own).convert("L").resize((20, 20))
    digit = 1 - torch.from_numpy(np.asarray(grey, np.float32))[None] / 255
said = model.predict(digit[None])[0]
true = "" if own else f", a {y_test[0]},"
print(f"the digit{true} is read as {said.argmax()} (probability {said.max():.2f})")

weights, maps = dl.vision.filters(model), dl.vision.feature_maps(model, digit)
for name, values in maps.values.items():
    print(f"{name}: {len(values)} maps of {values.shape[1]} × {values.shape[2]}, "
          f"{(values > 0).mean():.0%} of the units active")  # fmt: skip
bias = model.layers[0].bias.detach().numpy()
by_scipy = [correlate2d(digit[0].numpy(), kernel[0], mode="valid") for kernel in weights.values]
by_scipy = np.maximum(np.stack(by_scipy) + bias[:, None, None], 0)
difference = abs(maps.values["conv2d"] - by_scipy).max()
print(f"largest difference of the first maps to SciPy's: {difference:.0e}")

weights.figure.savefig("filters.png")
maps.figure.savefig("maps.png")
dl.vision.grad_cam(model, x_test[:8]).figure.savefig("seen.png")
dl.vision.most_wrong(model, x_test, y_test, n=8).figure.savefig("wrong.png")
print("filters.png, maps.png, seen.png and wrong.png were written")
