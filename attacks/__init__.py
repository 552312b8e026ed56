"""Attacks on any classifier given as `logits_fn(images, key) -> logits`.

Images are NHWC floats in [0, 1], labels integers; randomness is a key passed in.

Attacks, each of which returns an `Attacked`:
    fgsm, pgd, mi_fgsm: gradient steps in an L-infinity, L2 or L1 ball.

Gradients through a defence that has none, or a useless one:
    bpda: a transform with a stand-in derivative.

Verdicts:
    judge: accuracy over several keys, for classifiers that are random.

What attacks maximise is in `attacks.losses`.
"""

from attacks import losses as losses
from attacks.bpda import bpda as bpda
from attacks.judge import Judged as Judged
from attacks.judge import judge as judge
from attacks.pgd import fgsm as fgsm
from attacks.pgd import mi_fgsm as mi_fgsm
from attacks.pgd import pgd as pgd
from attacks.types import Attacked as Attacked
from attacks.types import LogitsFunction as LogitsFunction
from attacks.types import Transform as Transform
