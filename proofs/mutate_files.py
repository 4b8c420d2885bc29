"""Damage saved files at random and open them: an error, or the very same model, never another.

Truncates, flips bits, zeroes, splices (a piece of the file over another, or out of another file),
appends and changes headers of ``.easydl`` files and of ``save_weights``'s safetensors.

    python -m proofs.mutate_files [how many of each format: 2000]
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import easydl as dl


def models() -> list[dl.Model]:
    """A perceptron, and a small CNN whose weights are of many shapes; trained a little."""
    dl.seed(0)
    dense = dl.Sequential([dl.Dense(6, "relu", input_dim=4), dl.Dropout(0.5), dl.Dense(3)])
    dense.compile("adam", "mse", metrics=["mae"])
    dense.fit(torch.rand(16, 4), torch.rand(16, 3), epochs=3, verbose=0)
    cnn = dl.Sequential(
        [dl.Conv2D(4, 3, activation="relu", input_shape=(1, 6, 6)), nn.BatchNorm2d(4)]
    )
    cnn.add(dl.Flatten())
    cnn.add(dl.Dense(3, "softmax"))
    cnn.compile(dl.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    cnn.fit(torch.rand(16, 1, 6, 6), torch.arange(16) % 3, verbose=0)
    return [dense, cnn]


def mutated(content: bytes, other: bytes, dice: random.Random) -> tuple[str, bytes]:
    """One way of damage and what it leaves; never the content as it was."""
    kind = dice.choice(["truncate", "flip", "flips", "zero", "splice", "append", "header"])
    data, size = bytearray(content), len(content)
    start = dice.randrange(size)
    length = min(dice.choice([1, 4, 16, 64, 512]), size - start)
    if kind == "truncate":
        del data[start:]
    elif kind == "flip":
        data[start] ^= 1 << dice.randrange(8)
    elif kind == "flips":
        for _ in range(dice.randrange(2, 9)):
            data[dice.randrange(size)] ^= 1 << dice.randrange(8)
    elif kind == "zero":
        data[start : start + length] = bytes(length)
    elif kind == "splice":
        source = dice.choice([content, other])
        place = dice.randrange(len(source))
        data[start : start + dice.choice([0, length])] = source[place : place + length]
    elif kind == "append":
        data += dice.choice([bytes(length), content[:length], content])
    else:  # the first or last bytes, where formats keep what they are
        place = dice.choice(
            [dice.randrange(min(64, size)), size - 1 - dice.randrange(min(200, size))]
        )
        data[place] = dice.randrange(256)
    return (kind, bytes(data)) if data != content else mutated(content, other, dice)


def state_of(model: dl.Model) -> str:
    """Everything that a model is, as text: settings, optimizer, history and every bit."""
    optimizer = model.optimizer.state_dict() if model.optimizer is not None else None
    settings = {k: v for k, v in vars(model._compiled).items() if isinstance(v, (bool, int, str))}
    parts = [model.state_dict(), optimizer, model.history.history, settings, model.built_shape]
    configs = [getattr(layer, "config", None) for layer in model.layers]
    return "\n".join(map(exact, [str(model), *parts, configs]))


def exact(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {value.cpu().tolist()!r}"
    if isinstance(value, dict):
        return repr({key: exact(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return repr([exact(item) for item in value])
    return repr(value)


def prove(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Outcomes over ``count`` damaged files of each format."""
    torch.set_num_threads(1)
    dice = random.Random(seed)
    made = models()
    outcomes = dict.fromkeys(("errors", "identical", "silently wrong", "crashes"), 0)
    for suffix in (".easydl", ".safetensors"):
        files, expected = [], []
        for number, model in enumerate(made):
            path = folder / f"{number}{suffix}"
            model.save(path) if suffix == ".easydl" else model.save_weights(path)
            files.append(path.read_bytes())
            model.load_weights(path)
            whole = dl.load_model(path) if suffix == ".easydl" else model
            expected.append(state_of(whole) if suffix == ".easydl" else exact(model.state_dict()))
        for _ in range(count):
            which = dice.randrange(len(made))
            kind, content = mutated(files[which], files[1 - which], dice)
            path = folder / f"damaged{suffix}"
            path.write_bytes(content)
            try:
                if suffix == ".easydl":
                    found = state_of(dl.load_model(path))
                else:
                    made[which].load_weights(path)
                    found = exact(made[which].state_dict())
                if found != expected[which]:
                    print(f"  {kind} in {path.name} went unseen")
                outcomes["identical" if found == expected[which] else "silently wrong"] += 1
            except (ValueError, OSError) as error:
                outcomes["errors" if 0 < len(str(error)) <= 600 else "crashes"] += 1
            except Exception as error:
                print(f"  {kind}: {type(error).__name__}: {error}")
                outcomes["crashes"] += 1
    return outcomes


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as place:
        result = prove(Path(place), number)
    figures = ", ".join(f"{count} {name}" for name, count in result.items())
    print(f"2 × {number} damaged files: {figures} | goal: 0 silently wrong, 0 crashes")
    sys.exit(bool(result["silently wrong"] or result["crashes"]))
