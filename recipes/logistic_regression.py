"""Logistic regression, then a hidden layer: gradients by hand in NumPy, then the same in easydl.

The from-scratch example of the slides: four rows of three bits, the label is the first bit, sigmoid
units, squared error E = Σ ½(f − y)², every step on all four rows. By hand (⊙ is the product
entry by entry, σ′ = σ(1 − σ)):

    one neuron      f = σ(Xw)               ∂E/∂w = Xᵀ[(f − y) ⊙ f(1 − f)]
    hidden layer    h = σ(XV), f = σ(hU)    δ_k = (f − y) ⊙ f(1 − f)     ∂E/∂U = hᵀδ_k
                                            δ_j = δ_k Uᵀ ⊙ h(1 − h)      ∂E/∂V = Xᵀδ_j

Reference: Rumelhart, Hinton and Williams, 1986, "Learning representations by back-propagating
errors", Nature 323. The NumPy weights after the same steps are what easydl must reach.

    python recipes/logistic_regression.py        (about 5 s on two cores)

Measured: after 1,000 steps in float64 the largest difference between the weights is below 1e-14,
without and with the hidden layer. In float32, easydl's default, it is 4e-06, which is float32's
rounding of weights as large as 7.
"""

import numpy as np

import easydl as dl

X = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=float)
y = np.array([[0], [0], [1], [1]], dtype=float)
STEPS, LEARNING_RATE = 1000, 1.0


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def neuron_by_hand(w):
    for _ in range(STEPS):
        f = sigmoid(X @ w)
        w = w - LEARNING_RATE * X.T @ ((f - y) * f * (1 - f))
    return [w]


def hidden_layer_by_hand(V, U):
    for _ in range(STEPS):
        h = sigmoid(X @ V)  # (4, 4)
        f = sigmoid(h @ U)  # (4, 1)
        delta_k = (f - y) * f * (1 - f)
        delta_j = delta_k @ U.T * h * (1 - h)
        V, U = V - LEARNING_RATE * X.T @ delta_j, U - LEARNING_RATE * h.T @ delta_k
    return [V, U]


def half_squared_error(f, y):
    return 0.5 * ((f - y) ** 2).sum()


def show(epoch, logs):
    if (epoch + 1) % 200 == 0:
        print(f"    step {epoch + 1:4} · error {logs['loss']:.5f}")


def with_easydl(start, precision):
    """The same start, rate and steps; a Dense layer keeps its weights as (outputs, inputs)."""
    model = dl.Sequential([
        dl.Dense(w.shape[1], activation="sigmoid", use_bias=False, input_dim=w.shape[0])
        for w in start
    ])  # fmt: skip
    if precision == "float64":
        model.double()
    model.set_weights([w.T for w in start])
    model.compile(dl.optimizers.SGD(LEARNING_RATE), half_squared_error)
    model.fit(X, y, batch_size=4, epochs=STEPS, verbose=0, callbacks=[show])
    return model, [w.T for w in model.get_weights()]


rng = np.random.default_rng(0)
one_neuron = [rng.normal(size=(3, 1))]
hidden_layer = [rng.normal(size=(3, 4)), rng.normal(size=(4, 1))]

for name, by_hand, start in [
    ("one neuron", neuron_by_hand, one_neuron),
    ("hidden layer", hidden_layer_by_hand, hidden_layer),
]:
    expected = by_hand(*start)
    for precision in ("float64", "float32"):
        print(f"{name}, easydl in {precision}:")
        model, found = with_easydl(start, precision)
        difference = max(np.abs(a - b).max() for a, b in zip(expected, found))
        print(f"{name} · {precision} · largest difference to the weights by hand {difference:.1e}")
    print(f"    outputs {model.predict(X).ravel().round(3)} for y = {y.ravel()}\n")
