"""A torchvision that is missing or broken is named, and breaks only what needs it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

BROKEN = {
    "mismatch": "raise RuntimeError('operator torchvision::nms does not exist')",
    "symbol": "raise ImportError('_C.so: undefined symbol: _ZN3c104cuda9SetDeviceEab')",
    "library": "raise OSError('libcudart.so.13: cannot open shared object file')",
    "half": "from torchvision import missing",
}


@pytest.fixture
def fake(tmp_path):
    """A folder with a torchvision 0.1.2, to be filled with ways to fail."""
    for name in BROKEN:
        package = tmp_path / name / "torchvision"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(BROKEN[name])
        metadata = tmp_path / name / "torchvision-0.1.2.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1.2\n"
        )
    return tmp_path


def test_torchvision_of_another_torch_or_none_is_an_error_with_the_cure(fake):
    code = f"""
        import importlib.metadata, sys
        import easydl as dl
        from easydl.vision import torchvision

        for name in {list(BROKEN)}:
            sys.path.insert(0, {str(fake)!r} + "/" + name)
            importlib.invalidate_caches()
            for attempt in range(2):
                try:
                    torchvision()
                except ImportError as error:
                    print(error)
            sys.path.pop(0)

        model = dl.Sequential([dl.Conv2D(2, 3, activation="relu"), dl.Flatten(), dl.Dense(1)])
        model.compile("adam", "mse")
        model.fit([[[[1.0] * 5] * 5]] * 4, [0.0, 1.0, 0.0, 1.0], verbose=0)
        model.summary(print_fn=None)
        print("trained")

        class Hide:
            def find_spec(self, name, path=None, target=None):
                if name == "torchvision":
                    raise ModuleNotFoundError("No module named 'torchvision'")

        def version(name):
            raise importlib.metadata.PackageNotFoundError(name)

        sys.meta_path.insert(0, Hide())
        importlib.metadata.version = version
        try:
            torchvision()
        except ImportError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *errors, trained, missing = result.stdout.splitlines()
    assert trained == "trained" and len(errors) == 8
    for error in errors:
        assert f"torchvision 0.1.2 cannot be loaded beside torch {torch.__version__} (" in error
        assert error.endswith("pip install --upgrade torch torchvision")
    assert "operator torchvision::nms does not exist" in errors[0]
    assert missing == (
        "torchvision is not installed, and this needs it. Write: pip install torchvision"
    )
