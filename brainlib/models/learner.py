"""The form in which a network is trained: the same weights, computed faster.

Keras composes batch normalisation from a dozen operations, each a pass over memory, and multiplies
in float32. Here TensorFlow normalises in one operation, and where bfloat16 is asked for,
convolutions and what lies between them compute in it, while weights, heads and losses stay float32
(Micikevicius et al., 2018; Kalamkar et al., 2019). Neither is left in a model's file.
"""

import keras
from keras import layers

_COARSE = (layers.Conv2D, layers.BatchNormalization, layers.ReLU, layers.Add, layers.UpSampling2D)
"""Layers that may compute in bfloat16; what pools over a picture, or gives an answer, may not."""


class FusedBatchNormalization(layers.BatchNormalization):
    """Batch normalisation that TensorFlow trains in one operation; elsewhere the layer of Keras.

    For features of shape (n, height, width, channels), with scale and offset.
    """

    def call(
        self,
        inputs: keras.KerasTensor,
        training: bool | None = None,
        mask: keras.KerasTensor | None = None,
    ) -> keras.KerasTensor:
        """Normalise over all axes but the last, and while it learns move the averages."""
        is_learning = training and self.trainable
        if not is_learning or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow

        answer = tensorflow.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        batch, height, width, _ = keras.ops.shape(inputs)
        places = keras.ops.cast(batch * height * width, "float32")
        # of the sample (1 / (n - 1)), where Keras keeps that of the batch (1 / n)
        variance = answer.batch_variance * (places - 1) / places
        for moving, new in (
            (self.moving_mean, answer.batch_mean), (self.moving_variance, variance),
        ):  # fmt: skip
            moving.assign(moving * self.momentum + new * (1 - self.momentum))
        return answer.y


def learner_of(network: keras.Model, precision: str = "float32") -> keras.Model:
    """Return a copy of a network to be trained, with weights of its own.

    Parameters
    ----------
    network : keras.Model
        As `network_of` gives it.
    precision : {"float32", "bfloat16"}
        What convolutions, normalisation and the sums between them are computed in.

    Returns
    -------
    keras.Model
        Its weights, layers and outputs are in the same order and have the same names.
    """

    def copy(layer: layers.Layer) -> layers.Layer:
        config = layer.get_config()
        if precision != "float32" and isinstance(layer, _COARSE):
            config["dtype"] = f"mixed_{precision}"
        if isinstance(layer, layers.BatchNormalization):
            return FusedBatchNormalization.from_config(config)
        return type(layer).from_config(config)

    learner = keras.models.clone_model(network, clone_function=copy)
    learner.set_weights(network.get_weights())
    return learner
