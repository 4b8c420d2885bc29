"""An LSTM forecasts the sunspots of the next year, beside the last value and a linear model.

Data: the yearly sunspot numbers 1700–2008 (National Geophysical Data Center) that statsmodels
ships; it has no monthly ones. Every forecast sees the LAGS years before it. The last quarter of the
years is the test set and nothing is shuffled between the two: a forecaster knows the past only, and
a random split would train on the neighbours of every test year.

References: persistence (next year = this year), and a linear autoregression by least squares, which
was invented for this series (Yule, 1927, "On a method of investigating periodicities in disturbed
series").

LAGS is the autoregression's best, and the LSTM's size and training were chosen, on the last half of
the training part, cut in two: each piece was forecast from all years before it. RMSE there:
autoregression 14.23 with 9 lags (14.36 to 19.31 with 1 to 22 others); LSTM with 9 lags 12.28 with
16 units and 100 epochs (8 or 32 units 12.4 and 13.0; 50 or 200 epochs 12.6).

    python recipes/series_lstm.py        (about 8 s on two cores)

Measured on the 77 test years, root of the mean squared error: LSTM 17.97 (mean of 3 seeds),
autoregression 18.40, persistence 31.94.
"""

import time
from pathlib import Path

import numpy as np
from statsmodels.datasets import sunspots

import easydl as dl
from easydl import plotting

LAGS, UNITS, EPOCHS, BATCH_SIZE, SCALE = 9, 16, 100, 16, 100

table = sunspots.load_pandas().data
years, series = table["YEAR"].to_numpy(), table["SUNACTIVITY"].to_numpy()
first_test = len(series) - len(series) // 4


def windows(values):
    """``values`` -> the LAGS values before each one (N, LAGS), and the one itself (N,)."""
    return np.lib.stride_tricks.sliding_window_view(values[:-1], LAGS), values[LAGS:]


def rmse(forecast):
    return np.sqrt(np.mean((forecast - truth) ** 2))


past, following = windows(series[:first_test])
past_of_test, truth = windows(series[first_test - LAGS :])


def autoregression():
    with_one = np.column_stack([past, np.ones(len(past))])
    weights, *_ = np.linalg.lstsq(with_one, following)
    return past_of_test @ weights[:-1] + weights[-1]


def lstm(seed):
    dl.seed(seed)
    model = dl.Sequential([dl.LSTM(UNITS, input_shape=(LAGS, 1)), dl.Dense(1)])
    steps = EPOCHS * -(-len(past) // BATCH_SIZE)
    one_cycle = dl.optimizers.schedules.OneCycle(0.01, steps)
    model.compile(dl.optimizers.AdamW(one_cycle, weight_decay=0.01), "mse")
    x, y = past[:, :, None] / SCALE, following / SCALE
    model.fit(x, y, BATCH_SIZE, EPOCHS, verbose=0)
    return model.predict(past_of_test[:, :, None] / SCALE)[:, 0] * SCALE


errors = []
for seed in range(3):
    start = time.perf_counter()
    forecast = lstm(seed)
    seconds = time.perf_counter() - start
    errors.append(rmse(forecast))
    print(f"LSTM · seed {seed} · test RMSE {errors[-1]:.2f} · {seconds:.1f} s")

linear, last_value = autoregression(), past_of_test[:, -1]
shown = {f"LSTM, RMSE {errors[-1]:.1f}": forecast, f"linear, RMSE {rmse(linear):.1f}": linear}
figure = plotting.series(series[200:], shown, time=years[200:])
figure.axes[0].set(xlabel="year", ylabel="sunspot number")
picture = Path("out/series_lstm.png")
picture.parent.mkdir(exist_ok=True)
figure.savefig(picture)
print(f"picture: {picture.resolve()}")
print(
    f"test RMSE: LSTM {np.mean(errors):.2f} (mean of 3 seeds) · "
    f"autoregression {rmse(linear):.2f} · persistence {rmse(last_value):.2f}"
)
