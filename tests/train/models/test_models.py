"""Tests of train/models: against NumPy in float64, and the field's ResNet-18."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from train import models
from train.models.resnet import BasicBlock, ResNet


def count_parameters(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def images_of(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def filled(outline: nnx.Module) -> nnx.Module:
    """The model with random weights and statistics.

    Fresh statistics, scales and biases are 0 and 1, and would hide a mistake in their
    use. Drawn with NumPy, because compiling each shape's draw takes seconds.
    """
    rng = np.random.default_rng(0)
    graphdef, variables = models.split(outline)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        inputs = np.prod(leaf.shape[:-1])
        values = rng.normal(0, np.sqrt(2 / inputs), leaf.shape)
        if len(leaf.shape) == 1:
            values = rng.uniform(0.5, 1.5, leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(draw, variables))


@pytest.fixture(scope="module")
def small() -> ResNet:
    return filled(models.outline("small", 10))


# The same network, written in NumPy and float64.


def convolve(x: np.ndarray, layer: nnx.Conv, stride: int) -> np.ndarray:
    kernel = np.asarray(layer.kernel[...], np.float64)
    border = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    size = kernel.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows[:, ::stride, ::stride], kernel)


def normalize(x: np.ndarray, layer: nnx.BatchNorm) -> np.ndarray:
    mean, var, scale, bias = (
        np.asarray(value[...], np.float64)
        for value in (layer.mean, layer.var, layer.scale, layer.bias)
    )
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def run_block(x: np.ndarray, block: BasicBlock, stride: int) -> np.ndarray:
    y = np.maximum(normalize(convolve(x, block.convolution1, stride), block.norm1), 0)
    y = normalize(convolve(y, block.convolution2, 1), block.norm2)
    if block.projects:
        x = normalize(convolve(x, block.shortcut, stride), block.shortcut_norm)
    return np.maximum(x + y, 0)


@pytest.mark.parametrize("inputs, outputs, stride", [(3, 3, 1), (2, 5, 2)])
def test_block_is_the_formula(inputs: int, outputs: int, stride: int) -> None:
    block = filled(
        nnx.eval_shape(lambda: BasicBlock(inputs, outputs, stride, rngs=nnx.Rngs(0)))
    )
    x = np.random.default_rng(2).normal(size=(2, 8, 6, inputs)).astype(np.float32)
    expected = run_block(np.asarray(x, np.float64), block, stride)
    assert expected.shape == (2, 8 // stride, 6 // stride, outputs)
    np.testing.assert_allclose(
        jax.jit(lambda x: block(x))(x), expected, rtol=1e-4, atol=1e-4
    )


def test_small_is_the_formula(small: ResNet) -> None:
    model = small
    images = images_of((2, 8, 8, 3))
    x = (np.asarray(images, np.float64) - 0.5) / 0.25
    x = np.maximum(normalize(convolve(x, model.stem, 1), model.stem_norm), 0)
    for block, stride in zip(model.blocks, (1, 2, 2), strict=True):
        x = run_block(x, block, stride)
    kernel, bias = (np.asarray(v[...]) for v in (model.head.kernel, model.head.bias))
    expected = x.mean(axis=(1, 2)) @ kernel + bias
    logits = jax.jit(models.logits_function(*models.split(model)))(images)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def test_features_are_what_the_last_layer_sees(small: ResNet) -> None:
    images = images_of((3, 8, 8, 3))
    split = models.split(small)
    features = jax.jit(models.features_function(*split))(images)
    assert features.shape == (3, 64)
    kernel, bias = (np.asarray(v[...]) for v in (small.head.kernel, small.head.bias))
    logits = jax.jit(models.logits_function(*split))(images)
    np.testing.assert_allclose(features @ kernel + bias, logits, rtol=1e-4, atol=1e-4)


def test_denoising_starts_as_the_network_without_it() -> None:
    images = images_of((2, 8, 8, 3))
    plain, denoised = (
        nnx.state(models.create(name, 10, 0)) for name in ("small", "small_denoise")
    )
    # The same weights in the same blocks; a denoising block follows each stage.
    blocks = dict(denoised["blocks"])
    for stage in range(3):
        blocks[2 * stage] = plain["blocks"][stage]
    denoised["blocks"] = nnx.State(blocks)
    for name in ("stem", "stem_norm", "head"):
        denoised[name] = plain[name]
    expected, found = (
        jax.jit(models.logits_function(nnx.split(models.outline(name, 10))[0], state))(
            images
        )
        for name, state in (("small", plain), ("small_denoise", denoised))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_resnet18_has_the_size_of_the_literature() -> None:
    # The number that kuangliu/pytorch-cifar's ResNet18 has.
    model = models.outline("resnet18", 10)
    assert count_parameters(model) == 11_173_962
    convolutions = [
        node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Conv)
    ]
    assert len([c for c in convolutions if c.kernel_size == (3, 3)]) == 17


def test_small_has_eight_layers_and_less_than_100_000_parameters() -> None:
    model = models.outline("small", 10)
    kernels = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Conv)]
    assert len([c for c in kernels if c.kernel_size == (3, 3)]) + 1 == 8
    assert count_parameters(model) < 100_000


@pytest.mark.parametrize("name", models.NAMES)
@pytest.mark.parametrize("channels, classes", [(3, 10), (1, 4)])
def test_shapes(name: str, channels: int, classes: int) -> None:
    graphdef, variables = models.split(models.outline(name, classes, channels=channels))
    images = jax.ShapeDtypeStruct((5, 32, 32, channels), jnp.float32)
    result = jax.eval_shape(
        lambda variables, images: nnx.merge(graphdef, variables)(images),
        variables,
        images,
    )
    assert result.shape == (5, classes)
    assert result.dtype == jnp.float32


def test_weights_come_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.STAGES, "small", ((4, 1),))
    first, again, other = (
        models.split(models.create("small", 10, seed))[1] for seed in (0, 0, 1)
    )
    same = jax.tree.map(lambda a, b: bool((a == b).all()), first, again)
    assert jax.tree.all(same)
    assert (first["stem"]["kernel"][...] != other["stem"]["kernel"][...]).all()
    # He et al. 2015: variance 2 / fan-in.
    spread = np.std(first["blocks"][0]["convolution1"]["kernel"][...])
    np.testing.assert_allclose(spread, np.sqrt(2 / 36), rtol=0.2)


def test_an_image_does_not_see_its_batch(small: ResNet) -> None:
    logits_function = jax.jit(models.logits_function(*models.split(small)))
    images = images_of((3, 8, 8, 3))
    together = logits_function(images)
    np.testing.assert_array_equal(together, logits_function(images))
    alone = jnp.concatenate([logits_function(image[None]) for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_gradient_of_the_input_is_the_finite_difference(small: ResNet) -> None:
    logits_function = models.logits_function(*models.split(small))
    images = images_of((2, 8, 8, 3))
    direction = images_of(images.shape, seed=5) - 0.5

    @jax.jit
    def score(images):
        return logits_function(images)[:, 3].sum()

    slope = jnp.vdot(jax.jit(jax.grad(score))(images), direction)
    step = 1e-3 * direction
    difference = (score(images + step) - score(images - step)) / 2e-3
    assert abs(difference) > 0.1
    np.testing.assert_allclose(slope, difference, rtol=0.05)


def test_statistics_change_in_training_only(small: ResNet) -> None:
    model = small
    images = images_of((4, 8, 8, 3))
    graphdef, variables = models.split(model)

    @functools.partial(jax.jit, static_argnames="train")
    def statistics_after(variables, train):
        model = nnx.merge(graphdef, variables, copy=True)
        model(images, train)
        return nnx.state(model, nnx.BatchStat)

    before = nnx.state(model, nnx.BatchStat)
    same = jax.tree.map(
        lambda a, b: bool((a == b).all()), before, statistics_after(variables, False)
    )
    assert jax.tree.all(same)

    after = statistics_after(variables, True)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert jax.tree.all(moved)
    stem = convolve((np.asarray(images, np.float64) - 0.5) / 0.25, model.stem, 1)
    mean, var = stem.mean(axis=(0, 1, 2)), stem.var(axis=(0, 1, 2))
    measured = after["stem_norm"]
    old = before["stem_norm"]
    for name, new in (("mean", mean), ("var", var)):
        expected = 0.9 * np.asarray(old[name][...]) + 0.1 * new
        np.testing.assert_allclose(measured[name][...], expected, rtol=1e-4, atol=1e-5)


def test_two_models_share_a_compilation(small: ResNet) -> None:
    compiled = jax.jit(lambda logits_function, images: logits_function(images))
    images = images_of((2, 8, 8, 3))
    graphdef, variables = models.split(small)
    other = jax.tree.map(lambda leaf: 0.9 * leaf, variables)
    first = compiled(models.logits_function(graphdef, variables), images)
    second = compiled(models.logits_function(graphdef, other), images)
    assert compiled._cache_size() == 1
    assert (first != second).all()


@pytest.mark.parametrize(
    "arguments, word", [(("resnet19", 10, 0), "resnet19"), (("small", 0, 0), "got 0")]
)
def test_mistakes_are_named(arguments: tuple[str, int, int], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        models.create(*arguments)
