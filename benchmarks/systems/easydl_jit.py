"""easydl's ``fit`` after ``compile(jit=True)``."""

from systems import easydl_fit


def start(work):
    return easydl_fit.start(work, jit=True)
