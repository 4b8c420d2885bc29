"""LeNet-5 reads real handwritten digits: the whole of easydl in one short script.

1,797 digits of 8 × 8 pixels that scikit-learn ships (no download), enlarged to 32 × 32, three
quarters for training. Architecture: LeCun et al., 1998, "Gradient-based learning applied to
document recognition", with ReLU and max pooling.

Reference, in the same run: logistic regression of scikit-learn on the 8 × 8 pixels.
`lenet5_digits.py` trains the same network on moved digits, beside plain PyTorch.

    python recipes/demo.py        (about 10 s on two cores)

Measured on the 450 test digits: easydl 0.9756, logistic regression 0.9689.
"""

import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import easydl as dl
from easydl import plotting

torch.set_num_threads(1)  # enough at this size; results do not depend on the cores
dl.seed(0)
digits = load_digits()
x = torch.nn.functional.interpolate(
    torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, size=32, mode="bilinear"
)
x_train, x_test, pixels, test_pixels, y_train, y_test = train_test_split(
    x, digits.data / 16, digits.target, test_size=0.25, stratify=digits.target, random_state=0
)

model = dl.Sequential([
    dl.Conv2D(6, 5, activation="relu", input_shape=(1, 32, 32)),
    dl.MaxPooling2D(2),
    dl.Conv2D(16, 5, activation="relu"),
    dl.MaxPooling2D(2),
    dl.Flatten(),
    dl.Dense(120, activation="relu"),
    dl.Dense(84, activation="relu"),
    dl.Dense(10, activation="softmax"),
])  # fmt: skip
model.summary()
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

start = time.perf_counter()
history = model.fit(
    x_train, y_train, epochs=30, validation_split=0.1, split="stratified",
    callbacks=[dl.callbacks.EarlyStopping(patience=6, restore_best_weights=True)],
)  # fmt: skip
seconds = time.perf_counter() - start

loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
picture = Path("out/demo.png")
picture.parent.mkdir(exist_ok=True)
plotting.report(history, x_test, y_test, model.predict(x_test), picture)
reference = LogisticRegression(max_iter=1000).fit(pixels, y_train).score(test_pixels, y_test)
print(f"test accuracy {accuracy:.4f} on {len(y_test)} digits never seen, after {seconds:.1f} s")
print(f"logistic regression of scikit-learn on the 8 × 8 pixels: {reference:.4f}")
print(f"curves, confusion matrix and the most-wrong digits: {picture.resolve()}")
