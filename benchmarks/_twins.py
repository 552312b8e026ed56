"""The networks of `train` as PyTorch modules."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from train.models import cifar_resnet, resnet


def torch_twin(
    model: nnx.Module, device: str = "cpu", *, channels_last: bool = False
) -> Any:
    """A PyTorch module on NCHW images with the weights of `train.models.resnet.ResNet`.

    Args:
        model: in evaluation mode, without denoising blocks.
        device: of the weights, as PyTorch names it.
        channels_last: whether kernels have the channels-last memory format.
    """
    import torch
    from torch.nn import functional as F

    def tensor(values: Any) -> Any:
        return torch.tensor(np.asarray(values[...]), device=device)

    def convolution(layer: nnx.Conv) -> Callable:
        kernel = tensor(layer.kernel).permute(3, 2, 0, 1).contiguous()
        if channels_last:
            kernel = kernel.contiguous(memory_format=torch.channels_last)
        stride, pad = layer.strides, kernel.shape[-1] // 2
        return lambda x: F.conv2d(x, kernel, stride=stride, padding=pad)

    def norm(layer: nnx.BatchNorm) -> Callable:
        mean, variance = tensor(layer.mean), tensor(layer.var)
        scale, bias = tensor(layer.scale), tensor(layer.bias)
        return lambda x: F.batch_norm(x, mean, variance, scale, bias, eps=layer.epsilon)

    def block(layer: resnet.BasicBlock) -> Callable:
        first, second = convolution(layer.convolution1), convolution(layer.convolution2)
        norm1, norm2 = norm(layer.norm1), norm(layer.norm2)
        shortcut = lambda x: x  # noqa: E731
        stride, added = layer.stride, layer.added
        if layer.projects:
            project, rescale = convolution(layer.shortcut), norm(layer.shortcut_norm)
            shortcut = lambda x: rescale(project(x))  # noqa: E731
        elif stride != 1 or added:
            pads = (0, 0, 0, 0, added, added)
            shortcut = lambda x: F.pad(x[:, :, ::stride, ::stride], pads)  # noqa: E731
        return lambda x: torch.relu(
            shortcut(x) + norm2(second(torch.relu(norm1(first(x)))))
        )

    mean, std = (
        torch.tensor(value, device=device).reshape(-1, 1, 1)
        for value in model.normalization
    )

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.stem_norm = convolution(model.stem), norm(model.stem_norm)
            self.stages = [block(layer) for layer in model.blocks]
            self.head = tensor(model.head.kernel), tensor(model.head.bias)
            # torchattacks asks the parameters for the device.
            self.anchor = torch.nn.Parameter(torch.zeros(()), requires_grad=False)

        def forward(self, x):
            x = (x - mean) / std
            x = torch.relu(self.stem_norm(self.stem(x)))
            for stage in self.stages:
                x = stage(x)
            return x.mean((2, 3)) @ self.head[0] + self.head[1]

    return Twin().to(device).eval()


def cifar_twin(arrays: Mapping[str, np.ndarray]) -> Any:
    """A PyTorch module on NCHW images with the weights of `cifar_resnet.from_arrays`.

    Args:
        arrays: by PyTorch's names.
    """
    import torch
    from torch.nn import functional as F

    weights = {name: torch.tensor(array) for name, array in arrays.items()}
    blocks = sum(name.startswith("layer1.") for name in arrays if "conv1" in name)
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (cifar_resnet.PIXEL_MEAN, cifar_resnet.PIXEL_STD)
    )

    def normed(x: Any, name: str, number: int, stride: int) -> Any:
        norm = f"{name}bn{number}"
        x = F.conv2d(x, weights[f"{name}conv{number}.weight"], None, stride, padding=1)
        return F.batch_norm(
            x,
            weights[f"{norm}.running_mean"],
            weights[f"{norm}.running_var"],
            weights[f"{norm}.weight"],
            weights[f"{norm}.bias"],
        )

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            # torchattacks asks the parameters for the device.
            self.anchor = torch.nn.Parameter(torch.zeros(()), requires_grad=False)

        def forward(self, x):
            x = torch.relu(normed((x - mean) / std, "", 1, 1))
            for stage in (1, 2, 3):
                for block in range(blocks):
                    name = f"layer{stage}.{block}."
                    stride = 2 if stage > 1 and not block else 1
                    y = torch.relu(normed(x, name, 1, stride))
                    if stride == 2:
                        added = x.shape[1] // 2
                        x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, added, added))
                    x = torch.relu(x + normed(y, name, 2, 1))
            return x.mean((2, 3)) @ weights["linear.weight"].T + weights["linear.bias"]

    return Twin().eval()


def difference(network: Callable, twin: Any, images: np.ndarray) -> float:
    """The largest difference between the twins' logits; raises if above 1e-2."""
    import torch

    with torch.no_grad():
        theirs = twin(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    largest = float(np.abs(np.asarray(network(images)) - theirs).max())
    if largest > 1e-2:
        raise RuntimeError(f"the twins' logits differ by {largest}")
    return largest
