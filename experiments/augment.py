"""Show the same image a little differently each time: moved by chance, perhaps mirrored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Sampler = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def sampler(images: np.ndarray, shift: int = 0, flip: bool = False) -> Sampler:
    """Return a function from the numbers of some images, and a generator, to these images.

    Each comes moved by up to `shift` pixels up or down and left or right. With `flip`, half of
    them come mirrored left to right as well: right for clothes, wrong for digits and letters.
    """
    height, width = images.shape[1:3]
    border = ((0, 0), (shift, shift), (shift, shift), (0, 0))
    padded = np.pad(images, border, constant_values=images.min())  # with background
    # A view: [N, 2·shift + 1, 2·shift + 1, C, H, W], every image at every place.
    places = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))

    def draw(chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        down, right = rng.integers(0, 2 * shift + 1, (2, len(chosen)))
        batch = np.moveaxis(places[chosen, down, right], 1, -1)
        if flip:
            mirrored = rng.random(len(chosen)) < 0.5
            batch[mirrored] = batch[mirrored, :, ::-1]
        return np.ascontiguousarray(batch)

    return draw
