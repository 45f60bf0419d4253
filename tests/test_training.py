"""Training: repeatable, resumed after interruptions, on images that are changed but still true."""

import dataclasses
import shutil

import keras
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from brainlib import CLASS_NAMES, models, training
from brainlib.training import augmentation, calibration, healthy_head, reading
from brainlib.training.batches import erase


def small_model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(4, activation="softmax")]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def small_examples(brightness=255):
    random = np.random.default_rng(0)
    pixels = random.integers(0, brightness, (50, 8, 8, 1), dtype=np.uint8)
    return training.Examples(pixels, random.integers(0, 4, 50).astype(np.int32))


def small_fit(folder, seed=0, epochs=2, brightness=255, validated=True):
    model, seen = small_model(), small_examples(brightness)
    schedule = training.Schedule(epochs=epochs, seed=seed)
    return model, training.fit(model, seen, seen if validated else None, schedule, folder)


def test_the_starting_network_is_trained_as_keras_does_it_step_by_step(tmp_path):
    fitted, _ = small_fit(tmp_path / "fitted", seed=4)
    model = small_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    seen = small_examples()
    for epoch in range(2):
        order = np.random.default_rng((4, epoch)).permutation(50)
        for rows in (np.sort(order[:32]), np.sort(order[32:])):
            model.train_on_batch(seen.pixels[rows], seen.classes[rows])
    for found, expected in zip(fitted.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    (state,) = (tmp_path / "fitted").iterdir()
    written = state.stat().st_mtime_ns
    small_fit(tmp_path / "fitted", seed=4)  # nothing is left to do
    assert written == state.stat().st_mtime_ns


def test_the_state_of_another_fit_is_not_taken_over_and_the_history_has_each_epoch(tmp_path):
    for validated in (True, False):
        _, history = small_fit(tmp_path / "shared", validated=validated)
        assert tuple(history.columns) == training.HISTORY_COLUMNS
        assert history["epoch"].tolist() == [1, 2]
        known = history.notna().all()
        assert known[["accuracy", "loss"]].all() and known["validation_loss"] == validated
    for change in ({"seed": 1}, {"brightness": 200}):
        after_other, _ = small_fit(tmp_path / "shared", epochs=1, **change)
        alone, _ = small_fit(tmp_path / str(change), epochs=1, **change)
        for first, second in zip(after_other.get_weights(), alone.get_weights(), strict=True):
            np.testing.assert_array_equal(first, second)


NONE = CLASS_NAMES.index("notumor")


def lesion_examples(count=8):
    """Draw textured heads with a bright square, its place the outline; without one no tumour."""
    random = np.random.default_rng(0)
    rows, columns = (np.mgrid[:64, :64] + 0.5) / 64 - 0.5
    inside = np.hypot(rows / 0.45, columns / 0.38) < 1
    pixels = inside * random.normal(90, 12, (count, 64, 64))
    outlines = np.zeros((count, 64, 64), np.uint8)
    classes = (np.arange(count) % 4).astype(np.int32)
    for row, (y, x) in enumerate(random.integers(19, 32, (count, 2))):
        if classes[row] != NONE:
            pixels[row, y : y + 10, x : x + 10] = 200
            outlines[row, y : y + 10, x : x + 10] = 255
    pixels = pixels.clip(0, 255).astype(np.uint8)[..., None]
    return training.Examples(pixels, classes, outlines, np.ones(count, bool))


SMALL = training.Schedule(
    epochs=2, batch_size=4, weight_decay=0.05, warm_up=0.1, average=0.9, outline_weight=1.0,
    frozen_blocks=1,
)  # fmt: skip


def fit_small(build_small, state, kept):
    """Fit a network, note which epochs begin, keep what an interruption in the second leaves."""
    model, seen, begun = build_small(), lesion_examples(), []
    start = {weight.path: np.array(weight) for weight in model.weights}

    def keep(epoch, logs):
        begun.append(epoch)
        if epoch == 1 and not kept.exists():
            shutil.copytree(state, kept)

    watcher = keras.callbacks.LambdaCallback(on_epoch_begin=keep)
    history = training.fit(model, seen, seen, SMALL, state, watchers=[watcher])
    return model, history, begun, start


@pytest.fixture(scope="module")
def fitted(build_small, tmp_path_factory):
    """Return a fit of a small LesionNet, and the state on disk when its last epoch began."""
    state, kept = (tmp_path_factory.mktemp("network") / name for name in ("state", "kept"))
    return *fit_small(build_small, state, kept), kept


def test_an_interrupted_training_resumes_at_its_last_epoch_and_ends_the_same(fitted, build_small):
    whole, expected, begun, _, kept = fitted
    assert begun == [0, 1]
    resumed, history, begun, _ = fit_small(build_small, kept, kept)
    assert begun == [1]
    pd.testing.assert_frame_equal(history, expected)
    for found, wanted in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_class_and_outline_are_learned_and_the_first_blocks_keep_their_weights(fitted):
    model, history, _, start, _ = fitted
    assert history.notna().all(axis=None)
    moved = {weight.path for weight in model.weights
             if not np.array_equal(weight, start[weight.path])}  # fmt: skip
    assert {"kinds/kernel", "tissue/kernel", "block5_project/kernel"} <= moved
    assert not [path for path in moved if path.startswith(("stem_", "block0_"))]


def test_what_is_kept_is_an_average_of_the_last_weights():
    weight, seen = keras.Variable([4.0]), []
    optimizer = training.fitting._optimizer(dataclasses.replace(SMALL, average=0.995), steps=10)
    for _ in range(10):
        optimizer.apply([keras.ops.ones(1)], [weight])
        seen.append(float(weight[0]))
    optimizer.finalize_variable_values([weight])
    assert seen[-1] < float(weight[0]) < seen[3]


def batches_of(seen, **how):
    """Return batches in which nothing is changed but what is asked for."""
    still = dict.fromkeys((field.name for field in dataclasses.fields(training.Augmentation)), 0.0)
    augmenter = training.Augmenter(training.Augmentation(**{**still, **how}), 64)
    return training.AugmentedBatches(seen, len(seen), 0, augmenter)


def test_an_outline_moves_with_its_image_and_each_tumour_has_its_own_channel():
    seen = lesion_examples(16)
    grey = ("overlays", "degraded", "gamma", "matched", "inverted", "bias", "noise", "coarse",
            "erased", "sham", "healthy")  # fmt: skip
    how = training.Augmentation(**dict.fromkeys(grey, 0.0))
    random = np.random.default_rng(3)
    pixels, inside = training.Augmenter(how, 64)(
        seen.pixels[..., 0], seen.outlines, random, seen.pixels[..., 0]
    )
    tumors = np.flatnonzero(seen.classes != NONE)
    for row in tumors:
        marked = inside[row] > 0.5
        near = pixels[row] * ndimage.binary_dilation(marked, iterations=4)
        bright = near > 0.72 * near.max()
        assert 2 * (bright & marked).sum() > 0.95 * (bright.sum() + marked.sum())
    places = [np.argwhere(inside[row] > 0.5).mean(axis=0) for row in tumors]
    before = [np.argwhere(seen.outlines[row]).mean(axis=0) for row in tumors]
    assert np.median(np.abs(np.subtract(places, before))) > 1
    unknown = dataclasses.replace(seen, outlined=np.zeros(16, bool))
    _, _, weights = batches_of(unknown)[0]  # which teach the class alone
    assert not weights["tissue"].any() and (weights["logits"] == 1).all()
    # tissue shares put each tumour into its own channel
    seen = lesion_examples(8)
    shares = training.tissue_shares(seen.outlines / 255.0, seen.classes)
    assert shares.shape == (8, 32, 32, 4)
    np.testing.assert_allclose(shares.sum(axis=-1), 1, atol=1e-6)
    expected = 100 / 4 * np.delete(np.eye(4)[seen.classes], NONE, axis=1)
    np.testing.assert_allclose(shares[..., 1:].sum(axis=(1, 2)), expected, atol=1e-4)


def test_a_degraded_image_is_noisy_smooth_or_compressed_and_still_the_same_head(heads):
    images = np.stack([heads[0].pixels] * 40)
    same, changed = (augmentation._degrade(images, share, np.random.default_rng(0))
                     for share in (0.0, 1.0))  # fmt: skip
    np.testing.assert_array_equal(same, images)
    likeness = [np.corrcoef(images[0].ravel(), each.ravel())[0, 1] for each in changed]
    assert 0.8 < min(likeness) < 0.99 and max(likeness) < 1
    detail = np.abs(np.diff(changed.astype(float), axis=2)).mean(axis=(1, 2))
    before = np.abs(np.diff(images[0].astype(float), axis=1)).mean()
    assert detail.max() > 1.2 * before and detail.min() < 0.8 * before


def test_an_image_whose_lesion_was_erased_is_one_without_tumour_of_half_the_weight():
    seen = lesion_examples(8)
    plain, all_erased = batches_of(seen), batches_of(seen, erased=1.0)
    pixels, targets, weights = all_erased[0]
    rows = all_erased.rows(0)
    erased = np.isin(rows, list(all_erased.erased))
    assert erased.sum() >= 3 and set(all_erased.erased) <= set(np.flatnonzero(seen.classes != NONE))
    assert (targets["logits"][erased].argmax(axis=1) == NONE).all()
    assert (targets["tissue"][erased, ..., 0] == 1).all()
    np.testing.assert_array_equal(weights["logits"], np.where(erased, 0.5, 1.0))
    assert weights["tissue"].all()
    before = plain[0]
    np.testing.assert_array_equal(targets["logits"][~erased], before[1]["logits"][~erased])
    lesions = before[1]["tissue"][..., 0] < 0.5
    contrasts = []
    for row in np.flatnonzero(erased):
        inside = np.kron(lesions[row], np.ones((2, 2), bool))
        contrasts.append([part[row][inside].mean() / np.median(part[row][part[row] > 50])
                          for part in (before[0], pixels)])  # fmt: skip
    lesion, filled = np.median(contrasts, axis=0)
    assert lesion > 1.8 and 0.8 < filled < 1.2
    # healthy tissue is erased too, and changes no label
    sham, plain = (batches_of(lesion_examples(8), sham=share) for share in (1.0, 1e-9))
    (pixels, targets, weights), (before, expected, _) = sham[0], plain[0]
    assert sham.sham and np.abs(pixels - before).max() > 10
    np.testing.assert_array_equal(targets["logits"], expected["logits"])
    np.testing.assert_allclose(targets["tissue"], expected["tissue"], atol=0.15)
    assert (weights["logits"] == 1).all()


def test_a_slice_of_the_healthy_head_takes_the_place_of_an_image_and_shows_no_tumour():
    _, targets, weights = batches_of(lesion_examples(8), healthy=1.0, erased=1.0)[0]
    assert (targets["logits"].argmax(axis=1) == NONE).all()
    assert (targets["tissue"][..., 0] == 1).all() and (weights["logits"] == 1).all()
    slices = [healthy_head.draw_healthy(96, np.random.default_rng(seed)) for seed in range(60)]
    assert min((each > 12).mean() for each in slices) > 0.1  # the head, not its rim
    assert np.ptp([np.median(each[each > 12]) for each in slices]) > 100  # many contrasts


def test_erasing_puts_tissue_in_a_lesions_place_and_hides_the_seam():
    random = np.random.default_rng(0)
    size = 128
    rows, columns = np.mgrid[:size, :size] + 0.5 - size / 2
    head = np.hypot(rows / 58, columns / 48) < 1
    shading = 100 + 0.4 * columns  # brighter on one side, as near a coil
    healthy = head * (shading + ndimage.gaussian_filter(random.normal(0, 30, (size, size)), 1.5))
    lesion = np.hypot(rows + 5, columns - 20) < 11
    image = np.where(lesion, 230, healthy).clip(0, 255).astype(np.uint8)
    erased = erase(image, lesion, np.random.default_rng(1)).astype(float)

    assert abs(erased[lesion].mean() - healthy[lesion].mean()) < 8
    assert 0.5 < erased[lesion].std() / healthy[lesion].std() < 2
    far = ~ndimage.binary_dilation(lesion, iterations=8)
    np.testing.assert_array_equal(erased[far], image[far])
    # steps are no larger across the seam than in the tissue around it
    steps = np.hypot(*np.gradient(erased))
    seam = ndimage.binary_dilation(lesion, iterations=5) & ~ndimage.binary_erosion(lesion)
    around = ndimage.binary_dilation(lesion, iterations=16) & far & head
    assert np.percentile(steps[seam], 95) < 1.5 * np.percentile(steps[around], 95)
    assert erase(image, head, np.random.default_rng(0)) is None  # no tissue is left to copy


def test_a_calibration_moves_shifted_evidence_back():
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 600)
    logits = random.normal(0, 1.5, (600, 4))
    logits[np.arange(600), truth] += 3
    right = calibration.fit_calibration(logits, np.eye(4)[truth])
    shifted = logits - 5 * np.float32([1, 1, 0, 1])
    offset, temperature, kinds = calibration.fit_calibration(shifted, np.eye(4)[truth])
    assert offset - right[0] == pytest.approx(5, abs=0.2)
    assert (temperature, kinds) == pytest.approx(right[1:], rel=0.1)


def test_a_second_reading_changes_kind_and_evidence_but_no_outline(build_small):
    model, outlined = build_small(), lesion_examples()
    pixels = outlined.pixels
    before = models.with_maps(model).predict_on_batch(pixels)
    whole, trained = (of(model)(pixels)["logits"] for of in (models.network_of, models.learner_of))
    np.testing.assert_allclose(trained, whole, atol=1e-5)  # it is left out of the training
    both = training.add_second_reading(model, outlined)
    after = models.with_maps(both).predict_on_batch(pixels)
    np.testing.assert_array_equal(after["outline"], before["outline"])
    change = np.log(after["probabilities"]) - np.log(before["probabilities"])
    healthy = CLASS_NAMES.index("notumor")
    kinds = np.delete(change, healthy, axis=1)
    assert np.ptp(kinds, axis=1).max() > 0.01 and np.abs(change[:, healthy]).max() > 0.01
    (offset, *temperatures), (moved, *expected) = map(models.calibration_of, (both, model))
    assert temperatures == pytest.approx(np.multiply(expected, [1, 2])) and offset != moved
    unknown = dataclasses.replace(outlined, outlined=np.zeros(len(outlined), bool))
    assert training.add_second_reading(model, unknown) is model
    # its kernel takes features as they are
    random = np.random.default_rng(0)
    classes = np.repeat([0, 1, 3], 40)
    features = 1000 + random.normal(0, 1, (120, 5)) * [1, 10, 0.1, 1, 1]
    features[..., 2] += 0.5 * classes
    kernel, bias = reading.fit_reading(features, classes, 0.1)
    answers = np.array([0, 1, 3])[(features @ kernel + bias).argmax(axis=-1)]
    assert (answers == classes).mean() > 0.95


def test_added_evidence_is_zero_where_tumour_and_none_are_equally_likely():
    random = np.random.default_rng(0)
    is_tumor = np.arange(4000) < 3600  # however many there are of each
    values = random.normal(np.where(is_tumor, 7, 4), 1)
    assert reading.midpoint(values, is_tumor) == pytest.approx(5.5, abs=0.15)


def test_places_are_drawn_inside_and_outside_the_outline(small_network):
    network = models.network_of(small_network)
    side = network.input_shape[1]
    squares = np.zeros((3, side, side, 1), np.float32)
    squares[:, : side // 2] = 200
    inside = (squares[:, ::2, ::2] > 0).astype(np.float32)
    inside[2] = 0  # no outline
    places, is_lesion = reading.draw_places(network, squares, inside)
    assert len(places) == len(is_lesion) == 2 * (reading.LESION_PLACES + reading.OTHER_PLACES)
    kernel, bias = reading.fit_reading(places, is_lesion, 1.0)
    assert ((places @ kernel + bias)[:, 0] > 0).astype(bool).tolist() == is_lesion.tolist()


def test_a_recalibrated_model_draws_maps_of_its_own_calibration(small_network, heads):
    moved = models.recalibrate(small_network, (1.0, 2.0, 3.0))
    pixels = heads[0].pixels[None, ..., None]
    answers = np.asarray(moved.predict_on_batch(pixels))
    maps = models.with_maps(moved).predict_on_batch(pixels)
    np.testing.assert_allclose(maps["probabilities"], answers, atol=1e-5)
    assert np.abs(answers - small_network.predict_on_batch(pixels)).max() > 1e-3
    assert training.calibrate(small_network, None) is small_network
