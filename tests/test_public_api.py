"""The public names, written out; each has a docstring that helps and matches its signature."""

from __future__ import annotations

import importlib
import inspect
import re
import types

import pytest

import easydl as dl

#: module -> its public names; a change here is a change for every user, and goes to the CHANGELOG
PUBLIC = {
    "easydl": """
        Activation Add AlexNet Autoencoder AveragePooling1D AveragePooling2D AveragePooling3D
        BatchNormalization Bidirectional Branches Callback Concatenate Conv1D Conv2D
        Conv2DTranspose Conv3D Cropping2D DBN DeepFace DeepKalmanFilter DenoisingAutoencoder Dense
        DepthwiseConv2D Dropout ELU Embedding Flatten GELU GRU GaussianNoise GlobalAveragePooling1D
        GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D
        GlobalMaxPooling3D GroupNormalization Hardsigmoid Hardswish Hardtanh History InceptionBlock
        Input LSTM LSTMStack Lambda Layer LayerNormalization LeNet5 LeakyReLU LocallyConnected1D
        LocallyConnected2D MLP MaskingNoise MaxPooling1D MaxPooling2D MaxPooling3D Mish Model
        Multiply PReLU Permute RBM ReLU RepeatVector ResNet Reshape Residual SELU
        SaltAndPepperNoise SemiSupervisedVAE SeparableConv2D Sequential SiLU Sigmoid SimpleRNN
        SmallVGG Softmax Softplus Softsign SpatialDropout1D SpatialDropout2D SpatialDropout3D
        StackedAutoencoder Swish Tanh TimeDistributed UpSampling2D VAE VGG11 VGG13 VGG16 VGG19
        ZeroPadding2D activations callbacks constraints data finetune initializers layers
        load_keras load_model losses metrics models optimizers plotting pretrained regularizers
        seed utils vision
    """,
    "easydl.activations": """
        get trace_module traced
    """,
    "easydl.callbacks": """
        BackupAndRestore CSVLogger Callback EarlyStopping History LambdaCallback
        LearningRateScheduler ModelCheckpoint ProgressBar ReduceLROnPlateau TensorBoard
        TerminateOnNaN get
    """,
    "easydl.constraints": """
        MaxNorm MinMaxNorm NonNeg UnitNorm get
    """,
    "easydl.data": """
        image_folder images parquet
    """,
    "easydl.initializers": """
        Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal
        LecunUniform Ones Orthogonal RandomNormal RandomUniform TruncatedNormal
        VarianceScaling Zeros fans get
    """,
    "easydl.layers": """
        Activation Add AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization
        Bidirectional Branches Concatenate Conv1D Conv2D Conv2DTranspose Conv3D Cropping2D
        Dense DepthwiseConv2D Dropout ELU Embedding Flatten GELU GRU GaussianNoise
        GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
        GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization
        Hardsigmoid Hardswish Hardtanh Input LSTM Lambda Layer LayerNormalization LeakyReLU
        LocallyConnected1D LocallyConnected2D MaxPooling1D MaxPooling2D MaxPooling3D Mish
        Multiply PReLU Permute ReLU RepeatVector Reshape Residual SELU SeparableConv2D SiLU
        Sigmoid SimpleRNN Softmax Softplus Softsign SpatialDropout1D SpatialDropout2D
        SpatialDropout3D Swish Tanh TimeDistributed UpSampling2D ZeroPadding2D
    """,
    "easydl.losses": """
        BinaryCrossentropy CategoricalCrossentropy CategoricalHinge CosineSimilarity Hinge
        Huber KLDivergence LogCosh Loss MeanAbsoluteError MeanAbsolutePercentageError
        MeanSquaredError MeanSquaredLogarithmicError NAMES Poisson
        SparseCategoricalCrossentropy SquaredHinge categorical_hinge cosine_similarity get
        hinge huber kl_divergence log_cosh mean_absolute_error
        mean_absolute_percentage_error mean_squared_error mean_squared_logarithmic_error
        poisson squared_hinge
    """,
    "easydl.metrics": """
        AUC Accuracy BinaryAccuracy CategoricalAccuracy ConfusionMatrix CosineSimilarity
        F1Score FunctionMetric MeanAbsoluteError MeanSquaredError Metric ObjectMetric Precision
        R2Score Recall RootMeanSquaredError SparseCategoricalAccuracy SparseTopKCategoricalAccuracy
        TopKCategoricalAccuracy get
    """,
    "easydl.models": """
        Input Model Sequential load_keras load_model
    """,
    "easydl.optimizers": """
        Adadelta Adagrad Adam AdamW Adamax FromTorch Nadam Optimizer RMSprop Ready SGD
        fastest get
    """,
    "easydl.plotting": """
        codes confusion_matrix curves decision_boundary filters manifold most_wrong pictures
        reconstructions report series
    """,
    "easydl.regularizers": """
        KLSparsity L1 L1L2 L2 get l1 l1_l2 l2
    """,
    "easydl.utils": """
        pad_sequences seed set_random_seed to_categorical
    """,
    "easydl.vision": """
        AlexNet Classifier DeepFace GradualUnfreezing InceptionBlock LSTMStack LeNet5 Look MLP
        Ranking ResNet SmallVGG Transforms VGG11 VGG13 VGG16 VGG19 confusion deep_dream
        feature_maps fetch filters finetune grad_cam most_wrong neighbours occlusion pretrained
        read_picture torchvision
    """,
}


def names_of(module: types.ModuleType) -> list[str]:
    """What a module offers: its ``__all__``, else the classes and functions written in it."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    )


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_those_written_here(module):
    assert names_of(importlib.import_module(module)) == PUBLIC[module].split()


def test_public_modules_are_all_written_here():
    modules = {getattr(dl, name).__name__ for name in dl.__all__ if is_module(getattr(dl, name))}
    assert set(PUBLIC) == {"easydl", *modules}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_exist_once(module):
    names = getattr(importlib.import_module(module), "__all__", [])
    assert len(names) == len(set(names))
    assert all(hasattr(importlib.import_module(module), name) for name in names)


def is_module(value) -> bool:
    return isinstance(value, types.ModuleType)


def objects() -> list:
    """Every public function and class, once, and the public methods written in the classes."""
    found = {}
    for module, names in PUBLIC.items():
        for name in names.split():
            value = getattr(importlib.import_module(module), name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found.setdefault(value, f"{module}.{name}")
    methods = {
        getattr(owner, name): f"{path}.{name}"
        for owner, path in found.items()
        if inspect.isclass(owner)
        for name, value in vars(owner).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    return [pytest.param(value, path, id=path) for value, path in {**found, **methods}.items()]


def text_of(value, path: str) -> str | None:
    """The docstring; of a method that overrides another, that of the other will do."""
    if value.__doc__ or inspect.isclass(value) or value.__qualname__.count(".") == 0:
        return value.__doc__
    module, owner, name = path.rsplit(".", 2)
    return inspect.getdoc(getattr(getattr(importlib.import_module(module), owner), name))


@pytest.mark.parametrize(("value", "path"), objects())
def test_docstring_begins_with_a_useful_line(value, path):
    text = text_of(value, path)
    assert text, "no docstring"
    first = text.strip().splitlines()[0]
    assert len(first.split()) >= 2 and len(first) <= 97
    assert first[-1] in ".:?", first


def documented_arguments(text: str) -> list[str]:
    block = re.search(r"^Args:\n((?: {4}.*\n|\n)+)", inspect.cleandoc(text) + "\n", re.M)
    lines = re.findall(r"^ {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*): ", block[1], re.M) if block else []
    return [name.strip(" *") for line in lines for name in line.split(",")]


@pytest.mark.parametrize(("value", "path"), objects())
def test_documented_arguments_are_those_of_the_signature(value, path):
    names = documented_arguments(value.__doc__ or "")
    parameters = inspect.signature(value).parameters
    assert [name for name in names if name not in parameters] == []
    if names and not value.__qualname__.startswith("LambdaCallback"):
        assert [n for n in parameters if n not in names and n not in ("self", "x", "y")] == []


@pytest.mark.parametrize("module", ["layers", "callbacks", "losses", "optimizers", "metrics"])
def test_arguments_come_in_keras_order(module):
    keras = pytest.importorskip("keras")
    theirs, ours = getattr(keras, module), getattr(dl, module)
    compared = 0
    for name in names_of(ours):
        if name in ("Layer", "Lambda", "Loss") or not inspect.isclass(getattr(theirs, name, None)):
            continue
        expected = [*inspect.signature(getattr(theirs, name)).parameters]
        found = [*inspect.signature(getattr(ours, name)).parameters]
        shared = [p for p in found if p in expected and p not in ("name", "trainable", "dtype")]
        assert shared == [p for p in expected if p in shared], name
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize("verb", ["fit", "evaluate", "predict", "compile", "train_on_batch"])
def test_verbs_take_keras_arguments_in_keras_order(verb):
    keras = pytest.importorskip("keras")
    expected = [*inspect.signature(getattr(keras.Model, verb)).parameters]
    ours = [*inspect.signature(getattr(dl.Model, verb)).parameters]
    shared = [name for name in ours if name in expected]
    assert shared == ours[: len(shared)], "Keras's come first"
    assert shared == [name for name in expected if name in shared]
