"""A convolution by hand: by loops, as a layer, and as a sparse linear layer with shared weights.

The 5 × 5 picture and 3 × 3 kernel of the slides. Every output is the sum of a window times the
kernel (turned by 180° in a mathematician's convolution; this kernel is the same turned). As a
matrix it is 9 × 25: each output reads 9 of 25 pixels, and the same 9 weights stand in every row.
The gradients agree too: a kernel's weight gets the sum of those of all the places where it stands.

Then what this saves: a 200 × 200 picture and as many units (40,000), each unit reading all pixels,
or a 10 × 10 window with weights of its own (locally connected), or with everybody's (convolution).

Reference: LeCun, Bottou, Bengio and Haffner, 1998, "Gradient-based learning applied to document
recognition", section II.A. The slides' result [[4, 3, 4], [2, 4, 3], [2, 3, 4]].

    python recipes/convolution_by_hand.py        (about 5 s on two cores)

Measured: loops, Conv2D and matrix give the slides' result, differences 0, gradients too; 81 of 225
entries of the matrix connect, with 9 weights. 1600, 4 and 0.0001 million weights for 200 × 200.
"""

import numpy as np
import torch

import easydl as dl

PICTURE = np.array(
    [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]
)
KERNEL = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
EXPECTED = np.array([[4, 3, 4], [2, 4, 3], [2, 3, 4]])  # the slides'


def by_loops(picture, kernel):
    size = len(picture) - len(kernel) + 1
    result = np.zeros((size, size), dtype=int)
    for row in range(size):
        for column in range(size):
            for i in range(len(kernel)):
                for j in range(len(kernel)):
                    result[row, column] += kernel[i, j] * picture[row + i, column + j]
    return result


def as_matrix(kernel, side):
    """One row an output, one column a pixel; each row has the kernel at its window's place."""
    size = side - len(kernel) + 1
    matrix = np.zeros((size, size, side, side), dtype=int)
    for row in range(size):
        for column in range(size):
            matrix[row, column, row : row + len(kernel), column : column + len(kernel)] = kernel
    return matrix.reshape(size**2, side**2)


def count_weights(make_layer, *sample_shape):
    """Counted on the meta device, which keeps shapes and no numbers."""
    with torch.device("meta"):
        return dl.Sequential([dl.Input(sample_shape), make_layer()]).count_params()


x = torch.tensor(PICTURE, dtype=torch.float32)[None, None]  # (N, C, H, W) = (1, 1, 5, 5)
convolution = dl.Sequential([dl.Conv2D(1, 3, use_bias=False, input_shape=(1, 5, 5))])
convolution.set_weights([KERNEL[None, None]])
linear = dl.Sequential([dl.Flatten(input_shape=(1, 5, 5)), dl.Dense(9, use_bias=False)])
linear.set_weights([as_matrix(KERNEL, 5)])

loops = by_loops(PICTURE, KERNEL)
layer, sparse = convolution(x)[0, 0], linear(x).reshape(3, 3)
print("picture ∗ kernel, by loops:")
print("\n".join("  " + " ".join(map(str, row)) for row in loops))
for name, found in [("loops", loops), ("Conv2D", layer), ("matrix", sparse)]:
    difference = np.abs(np.asarray(torch.as_tensor(found).detach()) - EXPECTED).max()
    print(f"{name} · largest difference to the slides' result {difference:g}")

places = as_matrix(np.arange(1, 10).reshape(3, 3), 5)  # which weight stands where; 0: none
print("\nthe matrix, a row for each output; the digit says which of the weights stands there:")
print("\n".join("  " + "".join(map(str, row)).replace("0", "·") for row in places))
connected = np.count_nonzero(places)
weights = len(np.unique(places[places > 0]))
print(
    f"{places.shape[0]} × {places.shape[1]}: {connected} of {places.size} entries connect "
    f"({100 * (1 - connected / places.size):.0f} % are empty), with {weights} weights; this kernel "
    f"leaves {np.count_nonzero(as_matrix(KERNEL, 5))} that are not 0"
)

wanted = torch.randint(0, 5, (3, 3), generator=torch.Generator().manual_seed(0))
for result in (layer, sparse):
    ((result - wanted) ** 2).sum().backward()
by_place = linear.layers[1].weight.grad.numpy()
shared = [by_place[places == number].sum() for number in range(1, 10)]
difference = np.abs(convolution.layers[0].weight.grad.numpy().ravel() - shared).max()
print(f"gradient of the kernel, and the matrix's summed over each weight's places: {difference:g}")

print("\n200 × 200 pixels, a unit at each:")
units, window = 200 * 200, {"padding": "same", "use_bias": False}
every = count_weights(lambda: dl.Dense(units, use_bias=False), units)
local = count_weights(lambda: dl.LocallyConnected2D(1, 10, **window), 1, 200, 200)
shared = count_weights(lambda: dl.Conv2D(1, 10, **window), 1, 200, 200)
print(f"every unit reads every pixel · {every / 1e6:g} million weights")
print(f"10 × 10 windows, weights of their own · {local / 1e6:g} million weights")
print(f"10 × 10 windows, shared weights · {shared / 1e6:g} million weights")
