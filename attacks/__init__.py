"""Attacks on any classifier given as `logits_fn(images, key) -> logits`.

Images are NHWC floats in [0, 1], labels integers; randomness is a key passed in. Each
attack is a pure function to be compiled whole by `jax.jit`, and returns an `Attacked`
unless it says otherwise. docs/attacks.md says which to use when.

Along the gradient, in a ball:
    fgsm, pgd, mi_fgsm: steps of a fixed size, with or without momentum.
    autopgd, targeted_autopgd: steps that adapt themselves, APGD and APGD-T.
    multi_targeted: PGD towards one class after another.

To the nearest error:
    carlini_wagner: least L2 norm by Adam; the result inside the ball as well.
    deepfool: one linearisation after another.
    fab, fab_minimal: along the boundary, FAB and FAB-T.

Without the gradient:
    square: random search by squares; sees the logits.
    spsa: a gradient from differences; sees the logits.
    sparse_rs: a few pixels, changed at will (L0); sees the logits.
    boundary: a walk along the boundary; sees the class alone.
    transfer: any attack on one classifier, judged on another.

All together:
    autoattack, autoattack_stages: AutoAttack's standard, plus and rand.

Gradients through a defence that has none, or a useless one:
    bpda: a transform with a stand-in derivative.

Images as 8-bit files hold them:
    quantized: rounds what an attack returned, inside the ball, and judges it again.

Verdicts:
    judge: accuracy over several keys, for classifiers that are random.
    check_classifier, check_attack, sentences: can the evaluation be believed?

Every result says for each image why the attack stopped, in `Attacked.status`, a code of
`Status`. Images and logits may be of any floating dtype; attacks compute in the images'
own, or in float32 where theirs is narrower.

What attacks maximise is in `attacks.losses`, single checks in `attacks.soundness`.
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
