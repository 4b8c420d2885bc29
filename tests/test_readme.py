"""The README's first program prints what the README shows, and its links lead somewhere."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_three_lines_print_what_the_readme_shows():
    program, shown = re.search(
        r"## Three lines\n+```python\n(.*?)```\n+```\n(.*?)```", README, re.S
    ).groups()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(program, "README.md", "exec"), {})
    printed = out.getvalue().splitlines()
    for line in shown.splitlines():
        if line != "…":
            match = next(p for p in printed if p.split(" · ")[0] == line.split(" · ")[0])
            assert words(line) == words(match)
            assert numbers(line) == pytest.approx(numbers(match), abs=0.01)


def words(line: str) -> str:
    return re.sub(r"[\d.,]+", "#", line)


def numbers(line: str) -> list[float]:
    """Losses and accuracies: what is printed with four digits, not the seconds."""
    return [float(number) for number in re.findall(r"\d\.\d{4}", line)]


def test_readme_links_and_recipes_exist():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
    named = set(re.findall(r"recipes/(\w+\.py)", README))
    assert named == {path.name for path in (ROOT / "recipes").glob("*.py")}


def test_readme_starts_with_the_two_commands():
    assert README.index("make demo") < README.index("make test") < README.index("```python")
