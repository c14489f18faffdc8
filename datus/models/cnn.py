"""A CNN that embeds crops (paper IV-D, Table VI): MoCo's or DINO's ResNet, any timm CNN that pools.

    in    float32 (3, h, w) crops, normalised, sides of any size that the CNN takes
    out   float32 (B, E): the pooled feature of each crop

It has no keys, so it cannot find segments. Importing this module loads neither torch nor timm.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datus.errors import BackboneError
from datus.models.forward import check_image, forward_pass, map_images, not_finite
from datus.types import Array

PROBE_PX = 224
"""Side of the black crop that shows what comes out of an unknown CNN."""


class CnnEmbedder:
    """A frozen CNN. Threads may share it.

    name        as given to `load_embedder`
    patch_px    1: sides need not be multiples of anything
    embed_dim   E, size of the pooled feature
    device      cpu, cuda or cuda:N
    """

    def __init__(self, model: Any, name: str, precision: str, device: str) -> None:
        """`model`: of timm, made with num_classes = 0. BackboneError if it does not pool."""
        model.eval().requires_grad_(False).to(device)
        self._model = model
        self._precision = precision
        self.name = name
        self.patch_px = 1
        self.device = device
        found = self._pooled([np.zeros((3, PROBE_PX, PROBE_PX), np.float32)])
        if found.ndim != 2:
            raise BackboneError(
                f"{name}: a {type(model).__name__} gives features of shape {found.shape[1:]} for "
                "a crop; expected one pooled vector: take another CNN, or a ViT"
            )
        self.embed_dim = int(found.shape[1])

    def class_tokens(self, images: Sequence[Array], n_threads: int, batch: int) -> Array:
        """float32 (B, E): the pooled feature of each image; float32 (3, h, w), normalised.

        Threads and batch as in `Backbone.features`. Raises ValueError if an image is of another
        kind, BackboneError if the CNN cannot take its size.
        """
        for image in images:
            check_image(image)
        rows = map_images(
            lambda several: list(self._pooled(several)), images, self.device, n_threads, batch
        )
        return np.array(rows, np.float32).reshape(len(rows), self.embed_dim)

    def _pooled(self, images: list[Array]) -> Array:
        height, width = images[0].shape[1:]
        try:
            with forward_pass(images, self.device, self._precision) as pixels:
                found = self._model(pixels).float()
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BackboneError(
                f"{self.name}: cannot take images of {height} x {width} ({reason}); "
                "set embeddings.crop_px to what it takes"
            ) from error
        array: Array = found.cpu().numpy()
        if not np.isfinite(array).all():
            raise BackboneError(not_finite(self.name, self._precision))
        return array
