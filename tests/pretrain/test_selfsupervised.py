"""The tasks of pretraining, on small hand-made arrays and against slow references."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from datus.models.appearance import MEAN, STD
from datus.selfsupervised import (
    ARCHITECTURE,
    N_BINS,
    N_TARGETS,
    Learner,
    Settings,
    Views,
    encode,
    new_encoder,
    places_in_second,
    sinkhorn,
    symmetric,
    targets,
    waves,
)
from datus.types import Array

TINY = {**ARCHITECTURE, "embed_dim": 32, "depth": 2, "num_heads": 2}


def encoder() -> Any:
    torch.manual_seed(0)
    return new_encoder(TINY).eval()


def images(n: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


# --- encoder ------------------------------------------------------------------------------------


def test_all_patches_at_once_is_the_forward_pass_of_timm() -> None:
    model, image = encoder(), torch.rand(2, 3, 32, 48)
    mean, std = (torch.tensor(three).view(1, 3, 1, 1) for three in (MEAN, STD))
    expected = VisionTransformer.forward_features(model, (image - mean) / std)[:, 1:]
    torch.testing.assert_close(encode(model, image, None), expected)


def test_the_order_of_patches_does_not_matter() -> None:
    model, image = encoder(), images(1, 32)
    places = torch.tensor([[5, 0, 15, 3, 8]])
    found = encode(model, image, places)
    again = encode(model, image, places.flip(1)).flip(1)
    torch.testing.assert_close(found, again)


def test_a_mirror_image_of_one_colour_a_row_has_the_same_tokens_mirrored() -> None:
    """No left and no right gets in, whatever the positions have become in training."""
    model = encoder()
    with torch.no_grad():
        model.pos_embed.normal_()
    rows = torch.rand(1, 3, 64, 1).expand(-1, -1, -1, 64)
    tokens = encode(model, rows, None)[0].reshape(8, 8, -1)
    torch.testing.assert_close(tokens, tokens.flip(1), atol=1e-5, rtol=0)
    assert (tokens[:, 0] - tokens[:, 3]).abs().max() > 1e-3, "the rim is not the middle"


def test_symmetric_positions_are_their_own_mirror_image() -> None:
    positions = torch.randn(1, 1 + 16, 5)
    found = symmetric(positions)
    torch.testing.assert_close(found[:, 0], positions[:, 0])
    grid, given = found[0, 1:].reshape(4, 4, 5), positions[0, 1:].reshape(4, 4, 5)
    torch.testing.assert_close(grid, grid.flip(1))
    torch.testing.assert_close(grid[2, 1], (given[2, 1] + given[2, 2]) / 2)
    model = encoder()
    assert torch.equal(model.pos_embed, symmetric(model.pos_embed))


# --- same places --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ((0, 0, 8, 8), [(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)]),
        ((0, 8, 8, 0), [(0.5, -0.5), (-0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]),  # mirrored
        ((0, 0, 4, 4), [(0, 0), (2, 0), (0, 2), (2, 2)]),
        ((4, 0, 12, 8), [(-0.5, -1.5), (0.5, -1.5), (-0.5, -0.5), (0.5, -0.5)]),
    ],
)
def test_centres_of_patches_in_the_other_crop(
    second: tuple[float, ...], expected: list[tuple[float, float]]
) -> None:
    """A first crop of 8 x 8 pixels in 2 x 2 patches; x and y, -1 and 1 are the edges."""
    boxes = torch.tensor([[[0, 0, 8, 8], second]], dtype=torch.float32)
    found = places_in_second(boxes, torch.arange(4)[None], 2)
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float32))


def test_sinkhorn_fills_prototypes_evenly() -> None:
    scores = torch.randn(600, 6, generator=torch.Generator().manual_seed(1))
    scores[:, 0] += 3.0  # one that would take nearly all
    shares = sinkhorn(scores, rounds=50)
    torch.testing.assert_close(shares.sum(1), torch.ones(600))
    torch.testing.assert_close(shares.sum(0), torch.full((6,), 100.0), rtol=1e-3, atol=0)


def test_crops_of_the_same_part_are_the_easier_task_after_a_few_steps() -> None:
    torch.manual_seed(0)
    tasks = Settings(n_prototypes=16)
    learner, teacher = Learner(tasks, TINY), Learner(tasks, TINY)
    teacher.load_state_dict(learner.state_dict())
    same = torch.tensor([[[0, 0, 32, 32]] * 2] * 4, dtype=torch.float32)
    views = Views(images(4, 32), images(4, 32), same)
    optimiser = torch.optim.Adam(learner.parameters(), 1e-3)
    losses = []
    for step in range(30):
        drawn = torch.Generator().manual_seed(step)
        hidden, places = learner.both_losses(views, teacher, drawn)
        optimiser.zero_grad()
        (hidden + places).backward()
        optimiser.step()
        losses.append((hidden.item(), places.item()))
    assert all(math.isfinite(one) for pair in losses for one in pair)
    assert np.mean(losses[-5:], axis=0)[0] < np.mean(losses[:5], axis=0)[0]
    assert np.mean(losses[-5:], axis=0)[1] < np.mean(losses[:5], axis=0)[1]
    assert all(one.grad is None for one in teacher.parameters())


# --- hidden patches -----------------------------------------------------------------------------


def test_only_hidden_patches_count() -> None:
    torch.manual_seed(0)
    learner = Learner(Settings(), TINY)
    image = images(1, 32)
    tokens, places = torch.zeros(1, 12, 32), torch.arange(12)[None]
    predicted = learner.decoder(tokens, places, 4)
    errors = ((predicted - targets(image)) ** 2).mean(-1)[0]
    found = learner._hidden_loss(tokens, places, image, 4)
    torch.testing.assert_close(found, errors[12:].mean())


def test_targets_equal_loops() -> None:
    image = images(1, 32)
    expected = slow_targets(image[0].double().numpy())
    np.testing.assert_allclose(targets(image)[0].numpy(), expected, atol=1e-4)


def slow_targets(image: Array) -> Array:
    """float64 (16, N_TARGETS) of (3, 32, 32), pixel by pixel."""
    grey, side = image.mean(0), 4
    histogram, mean, square = np.zeros((side, side, N_BINS)), *np.zeros((2, side, side, 3))
    for y in range(32):
        for x in range(32):
            dx = grey[y, x + 1] - grey[y, x - 1] if 0 < x < 31 else 0.0
            dy = grey[y + 1, x] - grey[y - 1, x] if 0 < y < 31 else 0.0
            angle = math.atan2(dy, dx) % math.pi
            bin_ = min(int(angle / math.pi * N_BINS), N_BINS - 1)
            histogram[y // 8, x // 8, bin_] += math.hypot(dx, dy) / 64
            mean[y // 8, x // 8] += image[:, y, x] / 64
            square[y // 8, x // 8] += image[:, y, x] ** 2 / 64
    rows = []
    for y in range(side):
        for x in range(side):
            row = []
            for reach in (0, 1):
                here = np.s_[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
                edges, colour, squares = (
                    one[here].mean((0, 1)) for one in (histogram, mean, square)
                )
                row += [*(edges / (np.linalg.norm(edges) + 0.02)), *((colour - 0.45) / 0.25)]
                row += [*(np.sqrt(np.maximum(squares - colour**2, 0)) / 0.1)]
            rows.append(row)
    return np.array(rows)


def test_targets_have_the_stated_size() -> None:
    assert targets(images(2, 32)).shape == (2, 16, N_TARGETS)


def test_waves_tell_every_place_apart() -> None:
    found = waves(16, 128)
    assert found.shape == (256, 128)
    assert torch.cdist(found, found).fill_diagonal_(9).min() > 0.1
