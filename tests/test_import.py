"""``import easydl`` stays light, and a broken torchvision breaks only what needs it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

HEAVY = [
    "IPython", "PIL", "h5py", "ipywidgets", "keras", "matplotlib", "pandas", "pyarrow", "scipy",
    "sklearn", "statsmodels", "sympy", "tensorboard", "tensorflow", "torch._dynamo",
    "torch._inductor", "torchvision",
]  # fmt: skip


def run(code: str) -> str:
    """The output of ``code`` in a fresh process."""
    code = "import sys\n" + textwrap.dedent(code)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_loads_nothing_heavy_and_few_modules():
    code = f"""
        import numpy, safetensors.torch, torch, tqdm
        before = set(sys.modules)
        import easydl
        added = set(sys.modules) - before
        import easydl.callbacks, easydl.layers, easydl.plotting, easydl.utils
        print([name for name in {HEAVY} if name in sys.modules])
        print(sum(name.startswith("easydl") for name in added), len(added))
    """
    heavy, counts = run(code).splitlines()
    assert heavy == "[]"
    own, added = map(int, counts.split())
    assert own <= 130
    assert added - own <= 10


def test_an_old_import_can_be_the_first_line_and_training_loads_nothing_heavy():
    # Drawing normal numbers on the meta device would import torch's compiler at the first layer;
    # torch's own optimizers import it, too.
    code = f"""
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            from easydl.utils.np_utils import to_categorical; import easydl.layers.convolutional
        import torch, easydl as dl
        words = dl.Sequential([dl.Embedding(9, 4, input_shape=(6,)), dl.LSTM(3), dl.Dense(2)])
        words.to_torch()
        dl.Sequential([dl.Conv2D(2, 3, input_shape=(3, 8, 8)), dl.BatchNormalization()]).to_torch()
        print([name for name in {HEAVY} if name in sys.modules])
        torch.optim.Adam([torch.zeros(1, requires_grad=True)])
        heavy = [name for name in {HEAVY} if name not in sys.modules]
        model = dl.Sequential([dl.Dense(3, "relu"), dl.Dense(2, "softmax")])
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit([[1.0, 2.0]] * 8, [0, 1] * 4, validation_split=0.5, split="random", verbose=0)
        model.predict([[1.0, 2.0]])
        print([name for name in heavy if name in sys.modules])
    """
    assert run(code).splitlines() == ["[]", "[]"]
