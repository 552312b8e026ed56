"""Attacks on any classifier given as `logits_fn(images, key) -> logits`.

Images are NHWC floats in [0, 1], labels integers; randomness is a key passed in. Each
attack is a pure function to be compiled as a whole by `jax.jit`, and returns an
`Attacked` unless it says otherwise. docs/attacks.md says which to use when.

White-box, in a ball:
    fgsm, pgd, mi_fgsm: fixed step size, with or without momentum.
    autopgd, targeted_autopgd: adaptive step size, APGD and APGD-T.
    multi_targeted: PGD towards one class after another.

White-box, minimal perturbation:
    carlini_wagner: minimal L2 norm by Adam; also projected into a ball.
    deepfool: repeated linearization.
    fab, fab_minimal: steps along the decision boundary, FAB and FAB-T.

Black-box:
    square: random search by squares (scores).
    spsa: gradients from finite differences (scores).
    sparse_rs: random search for a few pixels, L0 (scores).
    boundary: random walk along the decision boundary (class only).
    transfer: any attack on a surrogate, evaluated on another classifier.

Ensembles:
    autoattack, autoattack_stages: AutoAttack's standard, plus and rand.

Defenses without a useful gradient:
    bpda: replaces the derivative of a transform.

8-bit images:
    quantized: rounds attacked images inside the ball and evaluates them again.

Evaluation:
    judge: accuracy over several keys, for random classifiers.
    check_classifier, check_attack, sentences: sanity checks of an evaluation.

`Attacked.status` says for each image why the attack stopped, as a code of `Status`.
Images and logits may have any floating dtype; attacks compute in the images' dtype, or
in float32 where that is narrower.

The losses are in `attacks.losses`, the single checks in `attacks.soundness`.
"""

from attacks import losses as losses
from attacks import soundness as soundness
from attacks.autoattack import Stage as Stage
from attacks.autoattack import autoattack as autoattack
from attacks.autoattack import autoattack_stages as autoattack_stages
from attacks.autopgd import autopgd as autopgd
from attacks.autopgd import targeted_autopgd as targeted_autopgd
from attacks.boundary import Boundary as Boundary
from attacks.boundary import boundary as boundary
from attacks.bpda import bpda as bpda
from attacks.carlini_wagner import CarliniWagner as CarliniWagner
from attacks.carlini_wagner import carlini_wagner as carlini_wagner
from attacks.deepfool import deepfool as deepfool
from attacks.fab import fab as fab
from attacks.fab import fab_minimal as fab_minimal
from attacks.judge import Judged as Judged
from attacks.judge import judge as judge
from attacks.multi_targeted import multi_targeted as multi_targeted
from attacks.pgd import fgsm as fgsm
from attacks.pgd import mi_fgsm as mi_fgsm
from attacks.pgd import pgd as pgd
from attacks.quantized import quantized as quantized
from attacks.soundness import Finding as Finding
from attacks.soundness import check_attack as check_attack
from attacks.soundness import check_classifier as check_classifier
from attacks.soundness import sentences as sentences
from attacks.sparse_rs import sparse_rs as sparse_rs
from attacks.spsa import spsa as spsa
from attacks.square import square as square
from attacks.transfer import transfer as transfer
from attacks.types import Attacked as Attacked
from attacks.types import LogitsFunction as LogitsFunction
from attacks.types import Status as Status
from attacks.types import Transform as Transform
