"""The settings of SPLIC, with the paper's symbols."""

import dataclasses
import math
from typing import Literal, get_args

from splic_jax.fields import config, require_choice, require_integer, require_number
from splic_jax.masks.designs import Design


@config
class SPLICConfig:
    """Settings of the completion (paper Algorithm 1) and of the purification.

    Frozen and hashable, so it can be a static argument of `jax.jit`. The defaults are
    the best of a sweep on CIFAR-10 (docs/findings.md); `paper` has the constants that
    the paper prints.

    Attributes:
        rank: r, the rank each iterate is cut to; None means min(m, n) // 4, at least 1.
        tv_weight: lambda of eq. (5); >= 0; 0 turns the total variation off. At
            most 2 / (mu L), above which steps on the total variation diverge; see
            `tv_curvature` for L, 8 by default.
        delta_decay: rho, the factor on delta after each round; in (0, 1).
        step_size: mu, the gradient step; > 0. With the step relative to delta^2 at most
            2, above which singular values below delta grow from step to step.
        inner_steps: gradient steps in a round, that is at one delta; >= 1.
        tolerance: epsilon, the relative change of the last step of a round at which
            the loop stops; >= 0. With 0 it stops early only where nothing changes.
        max_steps: maxiter; tested between rounds, so rounded up to whole rounds; >= 1.
            The default is for sides of 32 pixels and more. Smaller images often have
            rows without an anchor, which fill in only as fast as the total variation
            spreads: use thousands of steps.
        keep_probability: probability that a pixel is an anchor; in (0, 1].
        alternate: also complete the anchors from the completed pixels (section 3.4).
        step_scaling: "relative" multiplies the gradient of the smoothed rank by
            delta^2, as reference [4] does, which makes the step independent of the unit
            of the pixels; "printed" is line 11 of Algorithm 1 as printed.
        tv_form: "exact" is the gradient of eq. (6); "printed" is eq. (10), which is a
            different formula.
        rank_cut: cut to `rank` before each step (line 6); if False only the smoothed
            rank lowers the rank.
        tv_scales: levels of the dyadic pyramid that the TV term is summed over; >= 1.
        pixel_scale: the value of a pixel of 1.0 during the iteration; in [1e-3, 1e6].
            Matters for ``step_scaling="printed"`` alone.
        channels: "separate" completes each channel as a matrix of its own;
            "concatenated" puts them side by side into one m x (c n) matrix (ME-Net).
        solver: how the singular vectors of each step are found. "fast" tracks them from
            step to step by matrix products, in float32 with a rank cut; "exact"
            decomposes every iterate, as "fast" does in all other cases. On a GPU "fast"
            runs a whole completion as one kernel where `splic_jax.solvers.kernel`
            supports it; "tracked" never uses the kernel.
        mask: "shared" draws one mask for all channels of an image; "independent" one
            for each channel.
        mask_design: how the anchors are drawn: "iid" each pixel independently; "exact"
            the same number in every mask; "checkerboard" every other pixel;
            "blue_noise" evenly spread; "blocks" 4 x 4 pixels together.

    Raises:
        ValueError: for an invalid value, naming the field.
    """

    rank: int | None = None
    tv_weight: float = 0.15
    delta_decay: float = 0.45
    step_size: float = 0.5
    inner_steps: int = 7
    tolerance: float = 2e-4
    max_steps: int = 112
    keep_probability: float = 0.5
    alternate: bool = True
    step_scaling: Literal["relative", "printed"] = "relative"
    tv_form: Literal["exact", "printed"] = "exact"
    rank_cut: bool = True
    tv_scales: int = 1
    pixel_scale: float = 1.0
    channels: Literal["separate", "concatenated"] = "concatenated"
    mask: Literal["shared", "independent"] = "independent"
    solver: Literal["fast", "exact", "tracked"] = "fast"
    mask_design: Design = "iid"

    @classmethod
    def paper(cls) -> "SPLICConfig":
        """The paper's constants for images of 32 x 32: lambda 0.02, rank 8.

        With the exact derivative and the step relative to delta^2; `printed` has the
        formulas to the letter. One mask for all channels, completed one by one, is how
        the paper reads; it does not say.
        """
        return cls(rank=8, tv_weight=0.02, channels="separate", mask="shared")

    @classmethod
    def printed(cls) -> "SPLICConfig":
        """The formulas as printed: line 11 unscaled, eq. (10), pixels in [0, 255].

        With the lambda of `paper`, and its masks and channels.
        """
        return dataclasses.replace(
            cls.paper(),
            rank=None,
            step_scaling="printed",
            tv_form="printed",
            pixel_scale=255.0,
        )

    def __post_init__(self) -> None:
        require_integer(self, "inner_steps", "max_steps", "tv_scales")
        if self.rank is not None:
            require_integer(self, "rank")
        for name, interval in (
            ("tv_weight", "[0, inf)"),
            ("tolerance", "[0, inf)"),
            ("delta_decay", "(0, 1)"),
            ("step_size", "(0, 1e9]"),
            ("pixel_scale", "[1e-3, 1e6]"),
            ("keep_probability", "(0, 1]"),
        ):
            require_number(self, name, interval)
        for name, choices in (
            ("step_scaling", ("relative", "printed")),
            ("tv_form", ("exact", "printed")),
            ("channels", ("separate", "concatenated")),
            ("mask", ("shared", "independent")),
            ("mask_design", get_args(Design)),
            ("solver", ("fast", "exact", "tracked")),
            ("alternate", (True, False)),
            ("rank_cut", (True, False)),
        ):
            require_choice(self, name, choices)
        if self.step_scaling == "relative" and self.step_size > 2:
            raise ValueError(
                "step_size must be at most 2 for the step relative to delta^2, above "
                f"which it diverges, got {self.step_size!r}"
            )
        # Products of decimals are rounded, such as 0.1 * 2.5 * 8.
        if self.step_size * self.tv_weight * self.tv_curvature > 2 * (1 + 1e-9):
            most = 2 / (self.step_size * self.tv_curvature)
            raise ValueError(
                f"tv_weight must be at most 2 / ({self.tv_curvature} step_size) = "
                f"{most:.4g} for step_size={self.step_size!r}, got "
                f"{self.tv_weight!r}: the steps would diverge"
            )
        if self.mask_design == "checkerboard" and self.keep_probability != 0.5:
            raise ValueError(
                "keep_probability must be 0.5 for mask_design='checkerboard', got "
                f"{self.keep_probability!r}"
            )

    def rank_of(self, shape: tuple[int, ...]) -> int:
        """The rank to cut a matrix of this shape to.

        Raises:
            ValueError: if `rank` exceeds the smaller side.
        """
        smaller = min(shape)
        if self.rank is None:
            return max(1, smaller // 4)
        if self.rank > smaller:
            raise ValueError(
                f"rank={self.rank} exceeds the smaller side of a "
                f"{shape[0]} x {shape[1]} matrix; choose at most {smaller}"
            )
        return self.rank

    @property
    def tv_curvature(self) -> int:
        r"""L, a bound on the norm of the gradient of the total variation.

        A step ``X - mu lambda G(X)`` on the total variation increases no norm while
        ``mu lambda L <= 2``. For eq. (6) L is the largest eigenvalue of the 5-point
        Laplacian, below 8 for every shape and near it for large ones. In a pyramid the
        second level adds nothing, as averages of 2 x 2 pixels remove the highest
        frequency, and each further one less than 2, at the repeated corner of odd
        sides. Eq. (10) has half the neighbors: ``|2 - e^{ia} - e^{ib}| <= 4`` for
        every wave, and with ``mu lambda 4 <= 2`` each new pixel is a mean of old ones.

        The rank cut and the return to the anchors are projections, which increase no
        norm. The step on the smoothed rank adds less than mu delta to each singular
        value, so an iterate grows by a bounded amount per step.
        """
        largest = 8 if self.tv_form == "exact" else 4
        return largest + 2 * max(0, self.tv_scales - 2)

    @property
    def max_rounds(self) -> int:
        """The number of rounds that reach `max_steps`."""
        return math.ceil(self.max_steps / self.inner_steps)
