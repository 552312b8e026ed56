"""The flags that name a network, for every binary that judges one."""

from absl import flags

from train import models
from train.data.loading import Dataset
from train.networks.classifier import (
    Classifier,
    from_checkpoint,
    from_function,
    from_weights,
)
from train.utils.errors import UserError

FLAGS = flags.FLAGS
NAMES = ("checkpoint", "network", "weights", "model")


def define_network_flags(checkpoint: str | None = None) -> None:
    """Defines --checkpoint, --network, --weights and --model.

    Args:
        checkpoint: the default of --checkpoint.
    """
    flags.DEFINE_string("checkpoint", checkpoint, "folder of a training run")
    flags.DEFINE_string(
        "network",
        None,
        "FILE_OR_MODULE:NAME of a function from images, NHWC in [0, 1], to logits, or "
        "with --weights of load(weights), which makes one (docs/networks.md); instead "
        "of --checkpoint",
    )
    flags.DEFINE_string(
        "weights",
        None,
        "file of the weights of --network, .npz or .safetensors; without that, a file "
        "of `train --export`, or weights of a CIFAR ResNet of He et al. by PyTorch's "
        "names",
    )
    flags.DEFINE_enum(
        "model",
        None,
        models.NAMES,
        "architecture of --weights; default: what the file says",
    )


def network_from_flags() -> Classifier:
    """The network that the flags name.

    Raises:
        UserError: if they name none or several, or it cannot be loaded.
    """
    given = [f"--{name}" for name in ("network", "weights") if FLAGS[name].present]
    if given and FLAGS["checkpoint"].present:
        raise UserError(f"give --checkpoint or {given[0]}, one of them")
    if FLAGS.model and (FLAGS.network or not FLAGS.weights):
        raise UserError("--model is the architecture of --weights; leave out --network")
    if FLAGS.network is not None:
        return from_function(FLAGS.network, FLAGS.weights)
    if FLAGS.weights is not None:
        return from_weights(FLAGS.weights, FLAGS.model)
    if not FLAGS.checkpoint:
        raise UserError(
            "give --checkpoint, the folder of a training run, or --network or "
            "--weights, a network of your own (docs/networks.md)"
        )
    return from_checkpoint(FLAGS.checkpoint)


def network_for(dataset: Dataset) -> Classifier:
    """The network that the flags name, to be judged on a data set.

    Raises:
        UserError: as `network_from_flags`, or if it is not for these images.
    """
    network = network_from_flags()
    network.fit(dataset)
    return network
