"""The flags that name a network, for every binary that judges one."""

from absl import flags

from train.networks.classifier import Classifier, from_checkpoint, from_function
from train.utils.errors import UserError

FLAGS = flags.FLAGS


def define_network_flags(checkpoint: str | None = None) -> None:
    """Defines --checkpoint, --network and --weights.

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
        "weights", None, "file of the weights of --network, .npz or .safetensors"
    )


def network_from_flags() -> Classifier:
    """The network that the flags name.

    Raises:
        UserError: if they name none or several, or it cannot be loaded.
    """
    if FLAGS.network is not None:
        if FLAGS["checkpoint"].present:
            raise UserError("give --checkpoint or --network, one of them")
        return from_function(FLAGS.network, FLAGS.weights)
    if FLAGS.weights is not None:
        raise UserError("--weights needs --network, the function that they are for")
    if not FLAGS.checkpoint:
        raise UserError(
            "give --checkpoint, the folder of a training run, or --network, a function "
            "of your own"
        )
    return from_checkpoint(FLAGS.checkpoint)
