"""Every recipe runs as its first lines say, and what it prints reaches its goal."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_model

import easydl as dl

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
MOST_LINES = 100
# name -> (pattern of the printed result, what must hold of its numbers)
GOALS: dict[str, tuple[str, Callable[..., bool]]] = {
    "autoencoder_vs_pca": (
        r"2 codes · .*ratio (\S+) [\s\S]*8 codes · .*ratio (\S+) ",
        lambda two, eight: two <= 0.52 and eight <= 0.45,
    ),
    "denoising_autoencoder": (
        r"gaussian · test error: corrupted (\S+) · easydl (\S+) · Wiener (\S+) · median (\S+) "
        r"[\s\S]*salt.*: corrupted (\S+) · easydl (\S+) · Wiener (\S+) · median (\S+) ",
        lambda *e: e[1] <= min(e[0] / 2, *e[2:4]) and e[5] <= min(e[4] / 2, *e[6:]),
    ),
    "stacked_autoencoder": (
        r"mean of 5 seeds: pretrained (\S+) · random (\S+) ",
        lambda pretrained, random: pretrained >= random + 0.03,
    ),
    "dbn_pretraining": (
        r"mean of 5 seeds: pretrained (\S+) · random (\S+) ",
        lambda pretrained, random: pretrained >= random + 0.03,
    ),
    "rbm_autoencoder": (
        r"8 codes: pretrained (\S+) · random (\S+) · PCA (\S+)",
        lambda pretrained, random, pca: pretrained <= 0.7 * min(random, pca),
    ),
    "semi_supervised_vae": (
        r"semi-supervised VAE (\S+) · classifier alone (\S+) · LabelSpreading (\S+)",
        lambda vae, alone, spreading: vae >= alone + 0.02,  # spreading is better: 0.9493
    ),
    "deep_kalman_filter": (
        r"nats per sequence: deep (\S+) \(bound \S+\) · Kalman (\S+)[\s\S]*"
        r"RMSE: deep (\S+) · Kalman (\S+) ",
        lambda deep, exact, error, linear: deep >= exact + 10 and error <= 0.7 * linear,
    ),
    "demo": (r"test accuracy (\S+) on 450 digits", lambda accuracy: accuracy >= 0.96),
    "logistic_regression": (
        r"one neuron · float64 · largest difference to the weights by hand (\S+)[\s\S]*"
        r"hidden layer · float64 · largest difference to the weights by hand (\S+)",
        lambda neuron, hidden: max(neuron, hidden) <= 1e-6,
    ),
    "mlp_digits": (
        r"mean of 3 seeds: easydl (\S+) · MLPClassifier (\S+)",
        lambda easydl, sklearn: 0.97 <= sklearn <= easydl,
    ),
    "feature_maps": (
        r"test accuracy (\S+) · logistic regression (\S+)\n[\s\S]*difference .* SciPy's: (\S+)",
        lambda easydl, linear, maps: easydl >= linear and maps <= 1e-5,
    ),
    "deep_dream": (
        r"accuracy (\S+) · logistic regression on colours (\S+)\n[\s\S]*dream (\S+) · noise (\S+)",
        lambda easydl, linear, dream, noise: easydl >= linear and dream >= 2 * noise,
    ),
    "colorize": (
        r"network (\S+) · nearest neighbours (\S+) · linear (\S+) · mean colour (\S+)",
        lambda network, near, linear, mean: network <= 0.75 * min(near, linear, mean),
    ),
    "finetune_folder": (  # with digits that fill the picture it does not pay: 0.8993, 0.9206
        r"moved · mean of 5 seeds · fine-tuned (\S+) · from scratch (\S+) ",
        lambda tuned, scratch: tuned >= scratch + 0.05,
    ),
    "cnn_descriptors_svm": (
        r"validation · hidden .*SVM (\S+) [\s\S]*output .*SVM (\S+) [\s\S]*maps 3, all .*SVM (\S+) "
        r"[\s\S]*test · pixels .*SVM (\S+) .*\ntest · maps .*SVM (\S+) .*\n"
        r"test · untrained .*SVM (\S+) ",
        lambda hidden, output, maps, pixels, best, untrained: (
            output < hidden < maps and best > max(pixels - 0.01, untrained)
        ),
    ),
    "lenet5_digits": (r"mean of 3 seeds: easydl (\S+)", lambda easydl: easydl >= 0.99),
    "convolution_by_hand": (
        r"by loops:\n  4 3 4\n  2 4 3\n  2 3 4\nloops .* (\S+)\nConv2D .* (\S+)\nmatrix .* (\S+)\n"
        r"[\s\S]*: (\d+) of 225 entries connect .*with (\d+) weights"
        r"[\s\S]*places: (\S+)[\s\S]*weights of their own · (\S+) million",
        lambda *found: found == (0, 0, 0, 81, 9, 0, 4),
    ),
    "depth_and_error": (
        r"best: (\d+) hidden layers, (\S+) %; logistic regression (\S+) %",
        lambda depth, error, linear: depth in (1, 2, 4, 8, 12) and error <= linear,
    ),
    "mnist_lenet5": (r"digits · seed 0 · test accuracy (\S+)", lambda accuracy: accuracy >= 0.97),
    "lstm_digits": (r"mean of 3 seeds: easydl (\S+)", lambda easydl: easydl >= 0.975),
    "series_lstm": (
        r"LSTM (\S+) \(mean of 3 seeds\) · autoregression (\S+) · persistence (\S+)",
        lambda lstm, linear, last: lstm <= min(linear, last),
    ),
    "vae_digits": (
        r"VAE (\S+) · mixture of \d+ Gaussians \(\w+\) (\S+) · factorised Gaussian (\S+)",
        lambda vae, mixture, single: single < mixture <= vae,
    ),
}
# longer than about 15 s; the demo trains a LeNet-5 in the default suite, series_lstm an LSTM
SLOW = {
    "cnn_descriptors_svm",
    "colorize",
    "convolution_by_hand",
    "deep_dream",
    "depth_and_error",
    "finetune_folder",
    "mlp_digits",
    "mnist_lenet5",
    "lstm_digits",
    "autoencoder_vs_pca",
    "dbn_pretraining",
    "deep_kalman_filter",
    "denoising_autoencoder",
    "semi_supervised_vae",
    "lenet5_digits",
    "rbm_autoencoder",
    "stacked_autoencoder",
    "vae_digits",
}


def test_every_recipe_has_a_goal():
    assert {path.stem for path in RECIPES} == set(GOALS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_short_and_says_what_it_measured(path):
    text = path.read_text()
    assert text.count("\n") <= MOST_LINES
    assert text.startswith('"""')
    opening = text.split('"""')[1]
    assert f"python recipes/{path.name}" in opening
    assert re.search(r"about \d+ s on two cores", opening)
    assert re.search(r"^Measured", opening, re.MULTILINE)


def run(path: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    # One thread: beside other work, several threads on networks this small wait for each other.
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }
    return subprocess.run(
        [sys.executable, path, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """All recipes that this session tests, two at a time."""
    ours = [i for i in request.session.items if i.nodeid.startswith(request.node.nodeid)]
    paths = [i.callspec.params["path"] for i in ours if "runs" in i.fixturenames]
    with ThreadPoolExecutor(2) as pool:
        yield {path: pool.submit(run, path, tmp_path_factory.mktemp(path.stem)) for path in paths}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
        for path in RECIPES
    ],
)
def test_recipe_reaches_its_goal(path, runs):
    done = runs[path].result()
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    pattern, holds = GOALS[path.stem]
    found = re.search(pattern, done.stdout)
    assert found, f"no line matches {pattern!r} in:\n{done.stdout}"
    numbers = [float(number) for number in found.groups()]
    assert holds(*numbers), f"{found[0]!r} misses the goal"


@pytest.mark.slow
def test_cnn_descriptors_svm_describes_the_pictures_of_a_folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, bright in {"black": 0, "white": 1}.items():
        folder = tmp_path / "own" / name
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = 150 * bright + rng.integers(0, 100, (20, 24, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    torch.manual_seed(0)
    weights = get_model("squeezenet1_1").state_dict()
    torch.save(weights, tmp_path / "own.pth")
    arguments = ("--data", "own", "--network", "squeezenet1_1", "--weights", "own.pth")
    done = run(ROOT / "recipes" / "cnn_descriptors_svm.py", tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "14 train, 6 validation; 2 classes: black, white" in done.stdout
    found = re.findall(r"validation · (\d+) \w+ +· k-NN (\S+) · SVM (\S+) · log", done.stdout)
    assert found == [("768", "1.0000", "1.0000"), ("512", "1.0000", "1.0000")]
    dl.seed(0)  # a second run finds the descriptors
    model = dl.pretrained("squeezenet1_1", tmp_path / "own.pth", classes=["black", "white"])
    data = dl.data.image_folder(tmp_path / "own", split=0.3)
    found = model.features(data.train, cache=tmp_path / "descriptors")
    kept = sorted((tmp_path / "descriptors").iterdir())
    assert len(kept) == 2 and any(np.array_equal(np.load(path), found) for path in kept)
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def write_mnist(folder: Path, rows: int) -> None:
    """MNIST's four files with few pictures: class k has a white bar at height 2k + 4."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    labels = np.arange(rows, dtype=np.uint8) % 10
    pictures = np.zeros((rows, 28, 28), dtype=np.uint8)
    for row, label in enumerate(labels):
        pictures[row, 2 * label + 4 : 2 * label + 6] = 255
    for part in ("train", "t10k"):
        header = b"\0\0\x08\x03" + struct.pack(">3I", rows, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pictures.tobytes())
        header = b"\0\0\x08\x01" + struct.pack(">I", rows)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


@pytest.mark.slow
def test_mnist_lenet5_reads_mnist_where_its_files_are(tmp_path):
    write_mnist(tmp_path / "here", 500)
    recipe = ROOT / "recipes" / "mnist_lenet5.py"
    done = run(recipe, tmp_path, "--data", "here", "--download", "--epochs", "8")
    assert done.returncode == 0, done.stderr
    assert "MNIST: 500 digits for training, 500 for the test" in done.stdout
    assert "61,706" in done.stdout
    accuracy = re.search(r"MNIST · seed 0 · test accuracy (\S+)", done.stdout)
    assert accuracy and float(accuracy[1]) >= 0.9, done.stdout
    assert "nearest three of 500 digits: 1.0000" in done.stdout
    assert "the literature's: 0.9905" in done.stdout


@pytest.mark.slow
def test_mnist_lenet5_says_where_files_belong_when_nothing_can_be_fetched(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    done = run(ROOT / "recipes" / "mnist_lenet5.py", tmp_path, "--download")
    assert done.returncode == 1
    assert "the download failed" in done.stderr and "data/MNIST/raw" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_mnist_lenet5_says_what_to_write_when_there_is_no_mnist(tmp_path):
    done = run(ROOT / "recipes" / "mnist_lenet5.py", tmp_path, "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert "there is no MNIST in data/MNIST/raw" in done.stdout and "--download" in done.stdout
    assert "1347 digits for training, 450 for the test" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_finetune_folder_takes_a_folder_of_ones_own(tmp_path):
    generator = np.random.default_rng(0)
    for number, label in enumerate(("dark", "light")):
        (tmp_path / "own" / label).mkdir(parents=True)
        for i in range(10):
            pixels = generator.integers(0, 100, (40, 40, 3), dtype=np.uint8) + 150 * number
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "own" / label / f"{i}.png")
    dl.seed(0)
    network = dl.vision.Classifier("squeezenet1_1", 2).network
    torch.save(network.state_dict(), tmp_path / "w.pth")
    arguments = ("--data", "own", "--network", "squeezenet1_1", "--weights", "w.pth")
    done = run(ROOT / "recipes" / "finetune_folder.py", tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "16 train, 4 validation; 2 classes: dark, light" in done.stdout
    assert re.search(r"validation accuracy [01]\.\d{4}", done.stdout)
    model = dl.load_model(tmp_path / "finetuned.easydl")
    assert {label for label, _ in model.predict_labels(tmp_path / "own" / "dark" / "0.png", 2)} == {
        "dark",
        "light",
    }
    assert (tmp_path / "most_wrong.png").stat().st_size > 1000
