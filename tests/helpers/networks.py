"""Small classifiers for the tests: linear ones, and one trained here.

The trained one comes as a JAX and as a PyTorch function. Its data are drawn: each class
is a smooth pattern of colours, shifted, scaled and with noise on it, so that a small
network gets most of it right and an attack has work to do.
"""

import functools
import hashlib
import os
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

CLASSES, SHAPE = 6, (12, 10, 3)
OPTIMIZED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}


def some_images(n, shape, seed=1):
    """Float32 in [0, 1), every pixel drawn on its own."""
    return np.random.default_rng(seed).random((n, *shape), np.float32)


def linear(shape, classes, *, seed=0, middle=0.0, in_order=False):
    """A linear classifier of ``images - middle``, and its float64 weights.

    With `in_order` its sums are, so that an image's logits do not depend on its batch.
    """
    weights = np.random.default_rng(seed).normal(size=(np.prod(shape), classes))

    def logits_fn(images, key):
        flat = (images - middle).reshape(len(images), -1)
        if in_order:
            return (flat[:, :, None] * weights.astype(images.dtype)).sum(axis=1)
        return jnp.matmul(flat, weights.astype(images.dtype), precision="highest")

    return logits_fn, weights


def noting_keys(network):
    """The network, and a list that the keys of its queries are put into."""
    seen = []

    def logits_fn(images, key):
        note = lambda data: seen.append(tuple(np.asarray(data).tolist()))
        jax.debug.callback(note, jax.random.key_data(key))
        return network(images, key)

    return logits_fn, seen


def inner_images(n, shape, weights, seed=1):
    """Away from the box's ends; their labels and logits if `linear` is around 0.5."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0.35, 0.65, (n, *shape)).astype(np.float32)
    logits = (images.astype(np.float64) - 0.5).reshape(n, -1) @ weights
    return images, logits.argmax(axis=1), logits


def half_spaces(logits, labels, weights, order=2, confidence=0.0):
    """How far it is to where a class leads the label by the confidence, if linear.

    Float64 [n, classes], infinite for the label itself; `order` is that of the dual
    norm.
    """
    found = np.full(logits.shape, np.inf)
    for i, (z, y) in enumerate(zip(logits, labels, strict=True)):
        for k in set(range(len(z))) - {y}:
            slope = np.linalg.norm(weights[:, k] - weights[:, y], order)
            found[i, k] = max(z[y] - z[k] + confidence, 0) / slope
    return found


def data(count, seed):
    """Images float32 [count, 12, 10, 3] in [0, 1] and labels int32."""
    patterns = _smooth(np.random.default_rng(0).normal(size=(CLASSES, *SHAPE)))
    rng = np.random.default_rng([1, seed])
    labels = rng.integers(CLASSES, size=count).astype(np.int32)
    others = rng.integers(CLASSES, size=count)
    share = rng.uniform(0, 0.35, size=(count, 1, 1, 1))
    mixed = (1 - share) * patterns[labels] + share * patterns[others]
    noise = _smooth(rng.normal(size=mixed.shape)) + rng.normal(size=mixed.shape) / 2
    images = 0.5 + 0.12 * mixed + 0.08 * noise
    return np.clip(images, 0, 1).astype(np.float32), labels


def _smooth(x):
    for axis in (1, 2):
        for _ in range(2):
            x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
    return x / x.std(axis=(1, 2, 3), keepdims=True)


def logits(weights, images):
    """Two convolutions, each followed by ReLU, and a linear layer."""
    x = (images - 0.5) * 4
    for kernel, bias, stride in (
        (weights["conv1"], weights["bias1"], 1),
        (weights["conv2"], weights["bias2"], 2),
    ):
        x = jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + bias)
    return x.reshape(len(x), -1) @ weights["dense"] + weights["bias3"]


@functools.cache
def trained():
    """Weights after a short training on FGSM images; kept beside compiled programs."""
    source = pathlib.Path(__file__).read_bytes()
    cache = pathlib.Path(jax.config.jax_compilation_cache_dir)
    path = cache / f"network-{hashlib.sha256(source).hexdigest()[:12]}.npz"
    if path.exists():
        with np.load(path) as weights:
            return dict(weights)
    weights = train()
    # Other processes may be at it too.
    temporary = path.with_name(f"{path.stem}-{os.getpid()}.npz")
    np.savez(temporary, **weights)
    temporary.replace(path)
    return weights


def train():
    rng = np.random.default_rng(2)
    sizes = {
        "conv1": (3, 3, 3, 8),
        "bias1": (8,),
        "conv2": (3, 3, 8, 16),
        "bias2": (16,),
        "dense": (6 * 5 * 16, CLASSES),
        "bias3": (CLASSES,),
    }
    weights = {
        name: (rng.normal(size=size) / np.sqrt(np.prod(size[:-1]))).astype(np.float32)
        if len(size) > 1
        else np.zeros(size, np.float32)
        for name, size in sizes.items()
    }
    optimizer = optax.adam(3e-3)

    def loss(weights, images, labels):
        z = logits(weights, images)
        return optax.losses.softmax_cross_entropy_with_integer_labels(z, labels).mean()

    @jax.jit
    def run(weights, images, labels):
        def step(carry, batch):
            weights, state = carry
            x, y = batch
            slope = jax.grad(loss, argnums=1)(weights, x, y)
            x = jnp.clip(x + 8 / 255 * jnp.sign(slope), 0, 1)
            updates, state = optimizer.update(jax.grad(loss)(weights, x, y), state)
            return (optax.apply_updates(weights, updates), state), None

        (weights, _), _ = jax.lax.scan(
            step, (weights, optimizer.init(weights)), (images, labels)
        )
        return weights

    images, labels = data(64 * 300, seed=1)
    batches = weights, images.reshape(300, 64, *SHAPE), labels.reshape(300, 64)
    # All optimizations, whatever the tests around it compile with; and by itself, as a
    # test may ask for the network while it traces a program.
    compiled = run.lower(*batches).compile(compiler_options=OPTIMIZED)
    return jax.tree.map(np.asarray, compiled(*batches))


def network():
    """The trained classifier, `(images, key) -> logits`."""
    weights = trained()
    return lambda images, key: logits(weights, images)


def import_or_skip(*names):
    """Packages to compare with; without one the module's tests are skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            pytest.importorskip(name, reason=f"{name} is not installed: no parity test")
            for name in names
        ]


def torch_network():
    """The same as a PyTorch module on NCHW images."""
    import torch

    # On images this small its threads cost more than they do, up to fifty times.
    torch.set_num_threads(1)
    weights = {k: torch.tensor(v) for k, v in trained().items()}

    class Network(torch.nn.Module):
        def forward(self, x):
            x = (x - 0.5) * 4
            for kernel, bias, stride in (("conv1", "bias1", 1), ("conv2", "bias2", 2)):
                kernel = weights[kernel].permute(3, 2, 0, 1)
                x = torch.nn.functional.conv2d(
                    x, kernel, weights[bias], stride=stride, padding=1
                )
                x = torch.relu(x)
            x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
            return x @ weights["dense"] + weights["bias3"]

    return Network().eval()


def to_torch(images):
    """NHWC arrays to NCHW tensors."""
    import torch

    return torch.tensor(np.asarray(images)).permute(0, 3, 1, 2).contiguous()


def from_torch(images):
    """NCHW tensors to NHWC arrays."""
    return images.detach().permute(0, 2, 3, 1).numpy()
