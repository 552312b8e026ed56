"""The Square attack: random search by squares, without gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer, Num, PRNGKeyArray, Real

from attacks import inputs, norms
from attacks.ascent import (
    Best,
    Preference,
    choose,
    finish,
    initial_best,
    latest,
    merge,
    preference,
    stop_status,
    update_best,
)
from attacks.empty import allow_no_images
from attacks.keys import fold_in_index, image_keys
from attacks.losses import Loss, margin
from attacks.oracle import make_goal, make_sampling, query
from attacks.precision import in_working_precision
from attacks.remaining import QUERY_DIVISORS, Remaining
from attacks.types import Attacked, LogitsFunction

Image = Float[Array, "h w c"]

# The query counts, of 10,000, after which the share of changed pixels is halved.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@allow_no_images
@in_working_precision
def square(
    logits_fn: LogitsFunction,
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Num[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    epsilon: Real[ArrayLike, ""] = 8 / 255,
    norm: str = "linf",
    queries: int = 5000,
    restarts: int = 1,
    p_init: float = 0.8,
    loss: Loss = margin,
    resc_schedule: bool = True,
    eot_samples: int | None = None,
    eot_chunk: int = 1,
    evaluations: int = 1,
    first_index: Integer[ArrayLike, ""] = 0,
) -> Attacked:
    r"""Random search: a change in a random square is accepted if it raises the loss.

    .. math::
        x_{t+1} = \begin{cases}
            x' & L(f(x'), y) > L(f(x_t), y) \text{ or } f(x') \text{ is wrong} \\
            x_t & \text{otherwise} \end{cases}

    In the L-infinity ball the search starts at vertical stripes of
    :math:`\pm \epsilon`, and a proposal is :math:`x' = \Pi_B(x_t + 2 \epsilon \rho)` in
    a random square, with a random sign :math:`\rho` for each of its colours. In the L2
    ball it starts at a grid of tiles, each a pair of peaks of opposite signs, and a
    proposal moves the norm of the perturbation in one random square to another, where a
    pair of peaks is added. The squares cover a share p of the image, which is
    ``p_init`` at first and is halved nine times.

    An image stops once it is misclassified, unless `eot_samples` above 1 implies a
    random classifier: then one misclassification is no proof, and every image uses its
    whole budget for the highest mean loss. Squares and signs depend on the key and the
    image's index, so the result does not depend on the batch. Only the logits are used.

    Args:
        logits_fn: ``(images, key) -> logits [n, classes]``; not differentiated.
        images, labels, key: as in `pgd`.
        epsilon: radius of the ball in pixel values; >= 0.
        norm: "linf" or "l2".
        queries: the largest number of proposals of each restart; >= 1.
        restarts: searches from independent random starts, each for the images not yet
            misclassified.
        p_init: the share of pixels in the first squares; in (0, 1].
        loss: ``(logits, labels) -> [n]``; see `attacks.losses`.
        resc_schedule: rescale the schedule of p from 10,000 queries to `queries`.
            AutoAttack, with 5,000, does not.
        eot_samples: keys over which each loss is averaged; None for as many as
            `evaluations`.
        eot_chunk, evaluations, first_index: as in `pgd`.

    Returns:
        The attacked images, that of highest loss if none is misclassified. ``queries``
        is, for each image, ``eot_samples`` for the clean image, for each start and for
        each proposal until the image stops, and ``evaluations``.

    Raises:
        ValueError, TypeError: as `pgd`.

    References:
        Andriushchenko et al. 2020, "Square attack: a query-efficient black-box
        adversarial attack via random search", algorithms 1 to 3, with the proposals of
        AutoAttack's version. There all images of a batch share their squares; here each
        has its own, which may also touch the last row and column, as in the paper.

    Example:
        >>> import attacks, jax, jax.numpy as jnp
        >>> def brightness(images, key):  # two classes: dark and light
        ...     return (images.mean((1, 2, 3)) - 0.5)[:, None] * jnp.array([-1, 1])
        >>> images, labels = jnp.full((1, 8, 8, 3), 0.51), jnp.array([1])
        >>> attacks.square(brightness, images, labels, jax.random.key(0)).success
        Array([ True], dtype=bool)
    """
    inputs.require_finite(epsilon=epsilon)
    inputs.require_choice("norm", norm, ("linf", "l2"))
    samples = evaluations if eot_samples is None else eot_samples
    sampling = make_sampling(samples, eot_chunk, evaluations)
    inputs.require_at_least(1, queries=queries, restarts=restarts)
    inputs.require_share(p_init=p_init)
    clean, labels, _ = inputs.checked(logits_fn, images, labels, key)
    goal = make_goal(loss, labels)
    randomized = samples > 1
    prefers = preference(randomized=randomized)
    oracle = partial(query, logits_fn, goal, sampling=sampling, gradient=False)
    batches = goal.batch_sizes(
        logits_fn, clean, key, samples=samples, divisors=QUERY_DIVISORS
    )
    epsilon = jnp.asarray(epsilon, clean.dtype)
    start, propose = (_stripes, _squares) if norm == "linf" else (_tiles, _peaks)
    sizes = proposal_sides(clean.shape[1:], queries, p_init, resc_schedule, norm)
    distinct, places = np.unique(sizes, return_inverse=True)
    windows = [two_peaks(int(side)) for side in distinct]
    peaks = jnp.asarray(_padded(windows), clean.dtype)
    sides, stages = jnp.asarray(distinct), jnp.asarray(places)
    start_key, query_key, final_key = jax.random.split(key, 3)
    keys = image_keys(start_key, first_index, clean)

    def unfinished(best: Best) -> Bool[Array, " n"]:
        return (best.wrong < 1) | randomized

    def run(index: Array, carry: tuple[Best, Array]) -> tuple[Best, Array]:
        best, spent = carry
        to_attack = unfinished(best)
        run_keys = fold_in_index(keys, index)
        run_query_key = jax.random.fold_in(query_key, index)

        def try_candidates(
            run_best: Best,
            moved: Array,
            index: Array | int,
            prefers: Preference,
            searching: Array,
        ) -> Best:
            moved = norms.project(moved, clean, epsilon, norm)
            answer = oracle(
                moved,
                jax.random.fold_in(run_query_key, index),
                remaining=Remaining(searching, batches),
            )
            new = update_best(run_best, moved, answer, prefers)
            return choose(searching, new, run_best)

        def searching(state: tuple[Array, Best, Array]) -> Bool[Array, " n"]:
            return to_attack & unfinished(state[1])

        def step(state: tuple[Array, Best, Array]) -> tuple[Array, Best, Array]:
            index, run_best, spent = state
            stage = stages[index]
            moved = jax.vmap(propose, (0, 0, 0, None, None, None))(
                fold_in_index(run_keys, index + 1),
                run_best.images,
                clean,
                epsilon,
                sides[stage],
                peaks[stage],
            )
            run_best = try_candidates(
                run_best, moved, index + 1, prefers, searching(state)
            )
            return index + 1, run_best, spent + searching(state)

        first = jax.vmap(start, (0, 0, None))(
            fold_in_index(run_keys, 0), clean, epsilon
        )
        run_best = try_candidates(initial_best(clean), first, 0, latest, to_attack)
        _, run_best, spent = jax.lax.while_loop(
            lambda state: (state[0] < queries) & searching(state).any(),
            step,
            (jnp.zeros((), jnp.int32), run_best, spent + to_attack),
        )
        return merge(best, run_best, prefers), spent

    answer = oracle(clean, jax.random.fold_in(query_key, restarts))
    best = update_best(initial_best(clean), clean, answer, prefers)
    best, spent = jax.lax.fori_loop(
        0, restarts, run, (best, jnp.ones(len(clean), jnp.int32))
    )
    spent, status = spent * samples, stop_status(best, at_wrong=not randomized)
    return finish(
        logits_fn, goal, best, final_key, evaluations, queries=spent, status=status
    )


def proposal_sides(
    shape: tuple[int, ...], queries: int, p_init: float, rescaled: bool, norm: str
) -> np.ndarray:
    """The side of each proposal's square; for L2 odd, and at least 3 where it fits."""
    index = np.arange(queries)
    if rescaled:
        index = (index / queries * 10_000).astype(int)
    halvings = (index[:, None] > np.array(HALVINGS)).sum(axis=1)
    pixels = shape[0] * shape[1]
    sides: np.ndarray = np.rint(np.sqrt(p_init / 2.0**halvings * pixels)).astype(int)
    shortest = min(shape[:2])
    if norm == "linf":
        sides = np.clip(sides, 1, shortest)
    else:
        odd = np.maximum(sides, 3) // 2 * 2 + 1
        sides = np.minimum(odd, shortest - (shortest + 1) % 2)
    return sides


def _stripes(key: PRNGKeyArray, clean: Image, epsilon: Array) -> Image:
    """A sign for each column and colour."""
    signs = jax.random.rademacher(key, (1, *clean.shape[1:]), clean.dtype)
    return clean + epsilon * signs


def _squares(
    key: PRNGKeyArray,
    current: Image,
    clean: Image,
    epsilon: Array,
    side: Array,
    peaks: Array,
) -> Image:
    """Adds 2 epsilon with a random sign per colour in one square, before projection."""
    del clean, peaks
    drawn = jax.random.uniform(key, (2 + current.shape[2],), current.dtype)
    _, inside = _place(drawn[:2], current.shape, side)
    return current + 2 * epsilon * _signs(drawn[2:]) * inside


def _tiles(key: PRNGKeyArray, clean: Image, epsilon: Array) -> Image:
    """Two peaks in each tile of a grid, with five tiles or more on the shorter side."""
    height, width, colours = clean.shape
    side = max(min(height, width) // 5, 1)
    rows, columns = height // side, width // side
    turn_key, sign_key = jax.random.split(key)
    tile = jnp.asarray(two_peaks(side), clean.dtype)
    turned = jax.random.bernoulli(turn_key, shape=(rows, 1, columns, 1))
    tiles = jnp.where(turned, tile.T[:, None], tile[:, None])
    signs = jax.random.rademacher(sign_key, (rows, 1, columns, 1, colours), clean.dtype)
    grid = (tiles[..., None] * signs).reshape(rows * side, columns * side, colours)
    spare = height - rows * side, width - columns * side
    before = [(n // 2, n - n // 2) for n in spare]
    return clean + _of_length(jnp.pad(grid, (*before, (0, 0))), epsilon)


def _peaks(
    key: PRNGKeyArray,
    current: Image,
    clean: Image,
    epsilon: Array,
    side: Array,
    peaks: Array,
) -> Image:
    """Moves the norm of one square's perturbation to another, and adds two peaks."""
    change = current - clean
    height, width, colours = change.shape
    drawn = jax.random.uniform(key, (5 + colours,), current.dtype)
    (row, column), inside = _place(drawn[:2], change.shape, side)
    _, emptied = _place(drawn[2:4], change.shape, side)
    turned = jnp.where(drawn[4] < 0.5, peaks.T, peaks)
    rows = jnp.clip(jnp.arange(height) - row, 0, len(peaks) - 1)
    columns = jnp.clip(jnp.arange(width) - column, 0, len(peaks) - 1)
    placed = turned[rows[:, None], columns][..., None] * inside
    # Both normalized to length 1 in each colour before the sum.
    added = placed * _signs(drawn[5:]) + _of_length(change * inside, 1, axis=(0, 1))
    unused = jnp.maximum(epsilon**2 - jnp.sum(change**2), 0)
    moved = jnp.sum((change * (inside | emptied)) ** 2)
    added = _of_length(added, jnp.sqrt(unused / colours + moved), axis=(0, 1))
    change = jnp.where(inside, added, jnp.where(emptied, 0, change))
    return clean + _of_length(change, epsilon)


def _place(
    drawn: Float[Array, " 2"], shape: tuple[int, ...], side: Array
) -> tuple[tuple[Array, Array], Bool[Array, "h w 1"]]:
    """The upper left corner of a random square, and the mask of its pixels."""
    row = jnp.floor(drawn[0] * (shape[0] - side + 1)).astype(side.dtype)
    column = jnp.floor(drawn[1] * (shape[1] - side + 1)).astype(side.dtype)
    rows, columns = jnp.arange(shape[0]) - row, jnp.arange(shape[1]) - column
    inside = (rows >= 0) & (rows < side), (columns >= 0) & (columns < side)
    return (row, column), (inside[0][:, None] & inside[1])[..., None]


def _signs(drawn: Float[Array, " n"]) -> Float[Array, " n"]:
    return jnp.where(drawn < 0.5, -1, 1).astype(drawn.dtype)


def _of_length(
    change: Image, length: Array | int, axis: tuple[int, ...] = (0, 1, 2)
) -> Image:
    current = jnp.sqrt(jnp.sum(change**2, axis=axis, keepdims=True))
    return change / (current + 1e-12) * length


def two_peaks(side: int) -> np.ndarray:
    """The window of the L2 attack, of norm 1: peaks of opposite signs (eq. (2))."""
    upper, lower = _peak(side // 2, side), _peak(side - side // 2, side)
    both = np.concatenate([upper, -lower])
    window: np.ndarray = both / np.sqrt((both**2).sum())
    return window


def _peak(height: int, width: int) -> np.ndarray:
    """Nested squares around the centre, each adding the inverse square of its rank."""
    rows, columns = np.arange(height) - height // 2, np.arange(width) - width // 2
    rank = np.maximum(np.abs(rows)[:, None], np.abs(columns))
    rings = 1.0 / np.arange(1, max(height, width) // 2 + 2) ** 2
    hill = np.cumsum(rings[::-1])[::-1][rank]
    peak: np.ndarray = hill / max(np.sqrt((hill**2).sum()), 1e-12)
    return peak


def _padded(windows: list[np.ndarray]) -> np.ndarray:
    """Windows of different sides in one array, each at the upper left."""
    largest = max(len(window) for window in windows)
    return np.stack([np.pad(window, (0, largest - len(window))) for window in windows])
