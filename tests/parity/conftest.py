import pytest

pytest.register_assert_rewrite("plain_loop")

from plain_loop import TASKS, Task  # noqa: E402


@pytest.fixture(params=list(TASKS))
def task(request) -> Task:
    return TASKS[request.param]
