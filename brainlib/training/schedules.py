"""How a model is fitted, and the recipe of each model."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Schedule:
    """How a model is fitted.

    Attributes
    ----------
    epochs : int
    batch_size : int
        Pictures in a step.
    learning_rate : float
        Of Adam (Kingma and Ba, 2015), the highest where there is a warm-up.
    seed : int
        Seed of the order of the pictures, of augmentation and of dropout.
    weight_decay : float
        Decoupled (AdamW, Loshchilov and Hutter, 2019), on kernels only.
    warm_up : float
        Share of the steps in which the rate rises; then it falls along a cosine. 0 keeps it
        constant.
    sizes : tuple of (size, share)
        Progressive resizing (Howard, 2018): pictures are of this many pixels until that share of
        the epochs is over. Empty for a model that scales its pictures itself.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 0
    weight_decay: float = 0.0
    warm_up: float = 0.0
    sizes: tuple[tuple[int, float], ...] = ()

    def phases(self) -> list[tuple[int, int, int]]:
        """Return size (0 where the model scales), first epoch and epoch after the last of each."""
        ends = [round(share * self.epochs) for _, share in self.sizes] or [self.epochs]
        sizes = [size for size, _ in self.sizes] or [0]
        starts = [0, *ends[:-1]]
        return [
            (size, start, end) for size, start, end in zip(sizes, starts, ends, strict=True)
            if end > start
        ]  # fmt: skip


RECIPES: dict[str, Schedule] = {
    "brain_tumor": Schedule(
        epochs=40,
        batch_size=16,
        learning_rate=3e-3,
        weight_decay=0.05,
        warm_up=0.1,
        sizes=((96, 0.7), (128, 1.0)),
    ),
    "seed_cnn": Schedule(),
}
"""What each model is fitted with unless something else is asked for."""


def recipe(
    model: str, seed: int = 0, epochs: int = 0, batch_size: int = 0, learning_rate: float = 0.0
) -> Schedule:
    """Return the recipe of a model with what is not 0 in place of its own.

    Examples
    --------
    >>> recipe("seed_cnn", epochs=7).epochs
    7
    >>> recipe("seed_cnn").epochs
    5
    """
    asked = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    changed = {name: value for name, value in asked.items() if value}
    return replace(RECIPES[model], seed=seed, **changed)
