"""How a model is fitted, and the recipe of each model."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Cycle:
    """One rise and fall of the learning rate.

    Attributes
    ----------
    until : float
        Share of the epochs at which it is over.
    factor : float
        Part of the schedule's learning rate that it rises to.
    mixup : float
        Half the batches are mixed, as far as a Beta distribution of this parameter says; 0 mixes
        none. See `batches.mix`. Only for a schedule with sizes.
    outline_weight : float
        How much the loss of the outlines counts beside that of the class. Only for a schedule with
        sizes.
    """

    until: float = 1.0
    factor: float = 1.0
    mixup: float = 0.0
    outline_weight: float = 1.0


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
    cycles : tuple of Cycle
        Warm restarts (SGDR, Loshchilov and Hutter, 2017): each begins with the weights of the one
        before and nothing else of it.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 0
    weight_decay: float = 0.0
    warm_up: float = 0.0
    sizes: tuple[tuple[int, float], ...] = ()
    cycles: tuple[Cycle, ...] = (Cycle(),)

    def phases(self, start: int = 0, end: int | None = None) -> list[tuple[int, int, int]]:
        """Return size (0 where the model scales), first epoch and epoch after the last of each.

        Parameters
        ----------
        start, end : int
            Only epochs from `start` to before `end`.
        """
        last = self.epochs if end is None else end
        spans = self._spans([size for size, _ in self.sizes] or [0], [e for _, e in self.sizes])
        clipped = [(size, max(begin, start), min(stop, last)) for size, begin, stop in spans]
        return [phase for phase in clipped if phase[1] < phase[2]]

    def spans(self) -> list[tuple[Cycle, int, int]]:
        """Return each cycle, its first epoch and the epoch after its last."""
        found = self._spans(list(self.cycles), [cycle.until for cycle in self.cycles])
        return [span for span in found if span[1] < span[2]]

    def _spans(self, values: list, shares: list[float]) -> list[tuple]:
        ends = [round(share * self.epochs) for share in shares] or [self.epochs]
        return list(zip(values, [0, *ends[:-1]], ends, strict=True))


RECIPES: dict[str, Schedule] = {
    "brain_tumor": Schedule(
        epochs=48,
        batch_size=32,
        learning_rate=3e-3,
        weight_decay=0.05,
        warm_up=0.1,
        sizes=((96, 0.5), (128, 1.0)),
        cycles=(
            Cycle(until=2 / 3, outline_weight=4.0),
            Cycle(mixup=0.3, outline_weight=4.0),
        ),
    ),
    "seed_cnn": Schedule(),
}
"""What each model is fitted with unless something else is asked for; others: `Schedule()`."""


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
    return replace(RECIPES.get(model, Schedule()), seed=seed, **changed)
