"""Attacks on any classifier given as `logits_fn(images, key) -> logits`.

Images are NHWC floats in [0, 1], labels integers; randomness is a key passed in.

Attacks, each of which returns an `Attacked`:
    pgd: projected gradient descent, L-infinity, untargeted.

Gradients through a defence that has none, or a useless one:
    bpda: a transform with a stand-in derivative.
"""

from attacks.bpda import bpda as bpda
from attacks.pgd import pgd as pgd
from attacks.types import Attacked as Attacked
from attacks.types import LogitsFunction as LogitsFunction
from attacks.types import Transform as Transform
