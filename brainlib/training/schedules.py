"""Training recipes by model."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Schedule:
    """Hyperparameters of a training.

    Attributes
    ----------
    epochs : int
    batch_size : int
        Images in a step.
    learning_rate : float
        Of Adam (Kingma and Ba, 2015); the highest where there is a warm-up.
    seed : int
        Seed of the order of the images, of augmentation and of dropout.
    weight_decay : float
        Decoupled (AdamW, Loshchilov and Hutter, 2019), on kernels only.
    warm_up : float
        Share of the steps in which the rate rises; then it falls along a cosine. 0 keeps it
        constant.
    average : float
        Momentum of the exponential moving average of the weights, which is what is kept, lower
        for fits of few steps; 0 keeps the last weights.
    outline_weight : float
        Weight of the loss of the outlines beside that of the class; 0 trains the whole model on
        the classes alone, without augmentation.
    frozen_blocks : int
        Blocks of the backbone, from the first, that keep their ImageNet weights, the stem too.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 0
    weight_decay: float = 0.0
    warm_up: float = 0.0
    average: float = 0.0
    outline_weight: float = 0.0
    frozen_blocks: int = 0


RECIPES: dict[str, Schedule] = {
    "lesion_net": Schedule(epochs=30, weight_decay=0.03, warm_up=0.05, average=0.995,
                           outline_weight=1.0, frozen_blocks=3),
    "seed_cnn": Schedule(),
}  # fmt: skip
"""Default recipe of each model; a model that is not listed has `Schedule()`."""


def recipe(
    model: str, seed: int = 0, epochs: int = 0, batch_size: int = 0, learning_rate: float = 0.0
) -> Schedule:
    """Return the recipe of a model, with values other than 0 replacing its own.

    Examples
    --------
    >>> recipe("seed_cnn", epochs=7).epochs
    7
    >>> recipe("seed_cnn").epochs
    5
    """
    asked = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    changed = {name: value for name, value in asked.items() if value}
    return replace(RECIPES.get(model, Schedule()), seed=seed, **changed)
