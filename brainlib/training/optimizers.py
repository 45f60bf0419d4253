"""The optimizer of a schedule, and how its rate rises and falls."""

from collections.abc import Sequence
from typing import Any

import keras

from brainlib.training.schedules import Schedule


class FusedAdamW(keras.optimizers.AdamW):
    """AdamW with `clipnorm`, in few operations of TensorFlow; elsewhere the optimizer of Keras.

    Keras composes a step from some twenty operations for each variable. For a small network on
    small pictures, to dispatch them is a tenth of a step, and to trace them almost half of the time
    that passes before the first.
    """

    def apply(
        self,
        grads: Sequence[keras.KerasTensor],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """Clip each gradient, then shrink and move its variable."""
        if keras.backend.backend() != "tensorflow":
            super().apply(grads, trainable_variables)
            return
        import tensorflow

        if not self.built:
            self.build(trainable_variables)
        ops, raw = keras.ops, tensorflow.raw_ops
        step = ops.cast(self.iterations + 1, "float32")
        shared = {
            "beta1_power": ops.power(self.beta_1, step),
            "beta2_power": ops.power(self.beta_2, step),
            "lr": self.learning_rate,
            "beta1": self.beta_1,
            "beta2": self.beta_2,
            "epsilon": self.epsilon,
        }
        norms = ops.sqrt(2 * ops.stack([raw.L2Loss(t=gradient) for gradient in grads]))
        factors = tensorflow.unstack(self.clipnorm / ops.maximum(norms, self.clipnorm))
        kept = 1 - self.learning_rate * self.weight_decay
        for variable, gradient, factor in zip(trainable_variables, grads, factors, strict=True):
            if self._use_weight_decay(variable):
                variable.assign(variable * kept)
            place = self._get_variable_index(variable)
            raw.ResourceApplyAdam(
                var=variable.value.handle,
                m=self._momentums[place].value.handle,
                v=self._velocities[place].value.handle,
                grad=gradient * factor,
                **shared,
            )
        self.iterations.assign_add(1)


def optimizer_for(schedule: Schedule, highest: float, steps: int) -> keras.optimizers.Optimizer:
    """Return the optimizer of one cycle.

    Parameters
    ----------
    schedule : Schedule
    highest : float
        What its rate rises to.
    steps : int
        Of the cycle.
    """
    rate: Any = highest
    if schedule.warm_up:
        rising = int(schedule.warm_up * steps)
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 25, steps - rising, alpha=1e-3, warmup_target=rate, warmup_steps=rising
        )
    if not schedule.weight_decay:
        return keras.optimizers.Adam(rate)
    optimizer = FusedAdamW(rate, weight_decay=schedule.weight_decay, beta_2=0.99, clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
