"""LeNet-5 reads real handwritten digits: the whole of easydl in one short script.

1,797 digits of 8 × 8 pixels that scikit-learn ships (no download), enlarged to 32 × 32, three
quarters for training. Architecture: LeCun et al., 1998, "Gradient-based learning applied to
document recognition", with ReLU and max pooling.

    python recipes/demo.py        (about 20 s on two cores)
"""

import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import easydl as dl
from easydl import plotting

dl.seed(0)
digits = load_digits()
x = torch.nn.functional.interpolate(
    torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, size=32, mode="bilinear"
)
x_train, x_test, y_train, y_test = train_test_split(
    x, digits.target, test_size=0.25, stratify=digits.target, random_state=0
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
    x_train, y_train, epochs=15, validation_split=0.1, split="stratified",
    callbacks=[dl.callbacks.EarlyStopping(patience=4, restore_best_weights=True)],
)  # fmt: skip
seconds = time.perf_counter() - start

loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
picture = Path("out/demo.png")
picture.parent.mkdir(exist_ok=True)
plotting.report(history, x_test, y_test, model.predict(x_test), picture)
print(f"test accuracy {accuracy:.4f} on {len(y_test)} digits never seen, after {seconds:.1f} s")
print(f"curves, confusion matrix and the most-wrong digits: {picture.resolve()}")
