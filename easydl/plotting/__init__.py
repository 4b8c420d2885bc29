"""Every picture: curves, confusion matrix, pictures, mistakes, boundaries, codes, series.

Each function returns a matplotlib ``Figure``: the last line of a notebook cell shows it,
``figure.savefig("name.png")`` keeps it, and in a script with a window
``matplotlib.pyplot.show()`` opens it. matplotlib is imported when a function is called.
"""

from easydl.plotting.learning import confusion_matrix, curves, report
from easydl.plotting.pictures import filters, manifold, most_wrong, pictures, reconstructions
from easydl.plotting.plane import codes, decision_boundary, series

__all__ = [
    "codes",
    "confusion_matrix",
    "curves",
    "decision_boundary",
    "filters",
    "manifold",
    "most_wrong",
    "pictures",
    "reconstructions",
    "report",
    "series",
]
