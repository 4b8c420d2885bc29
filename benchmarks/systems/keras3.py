"""Keras 3 on the backend that KERAS_BACKEND names; its own defaults."""

import keras
from keras import layers


def start(work):
    x, y = work.data()
    model = vae() if work.name == "vae" else keras.Sequential(LAYERS[work.name]())
    if work.name == "lenet":
        x = x.transpose(0, 2, 3, 1)  # the one layout that TensorFlow's CPU kernels take
    if work.name == "vae":
        model.compile(work.optimizer)
        y = None
    else:
        model.compile(work.optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])

    def train(epochs):
        history = model.fit(x, y, batch_size=work.batch, epochs=epochs, verbose=0)
        return history.history["loss"][-1]

    return train


LAYERS = {
    "small_mlp": lambda: [
        layers.Input((20,)), layers.Dense(64, "relu"), layers.Dropout(0.5),
        layers.Dense(10, "softmax"),
    ],
    "mlp": lambda: [
        layers.Input((784,)), layers.Dense(512, "relu"), layers.Dense(512, "relu"),
        layers.Dense(10, "softmax"),
    ],
    "lenet": lambda: [
        layers.Input((28, 28, 1)), layers.Conv2D(6, 5, padding="same", activation="relu"),
        layers.MaxPooling2D(2), layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D(2),
        layers.Flatten(), layers.Dense(120, "relu"), layers.Dense(84, "relu"),
        layers.Dense(10, "softmax"),
    ],
    "lstm": lambda: [
        layers.Input((50, 16)), layers.LSTM(32, return_sequences=True),
        layers.LSTM(32, return_sequences=True), layers.LSTM(32), layers.Dense(10, "softmax"),
    ],
}  # fmt: skip


class Sample(layers.Layer):
    """A code drawn around its mean; adds the bound of its input and reconstruction."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, mean, log_variance):
        noise = keras.random.normal(keras.ops.shape(mean), seed=self.seeds)
        return mean + keras.ops.exp(0.5 * log_variance) * noise


class Bound(layers.Layer):
    def call(self, x, picture, mean, log_variance):
        ops = keras.ops
        error = ops.maximum(picture, 0) - picture * x + ops.log1p(ops.exp(-ops.abs(picture)))
        kl = -0.5 * ops.sum(1 + log_variance - ops.square(mean) - ops.exp(log_variance), -1)
        self.add_loss(ops.mean(ops.sum(error, -1) + kl))
        return picture


def vae():
    x = layers.Input((784,))
    hidden = layers.Dense(400, "relu")(x)
    mean, log_variance = layers.Dense(20)(hidden), layers.Dense(20)(hidden)
    back = layers.Dense(400, "relu")(Sample()(mean, log_variance))
    return keras.Model(x, Bound()(x, layers.Dense(784)(back), mean, log_variance))
