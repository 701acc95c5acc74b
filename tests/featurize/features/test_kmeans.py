"""k-means: its rounds against one written out, vector by vector."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrace.featurize.features import kmeans
from headrace.featurize.features.kmeans import Sums, fit, nearest, nearest_in_blocks, update

SUMS = (kmeans.sums_in_order, kmeans.sums_by_product)


def vectors(count: int, width: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count))


def test_the_nearest_is_that_of_all_distances() -> None:
    x_NW, means_KW = vectors(200, 5), vectors(17, 5)
    assert torch.equal(nearest(x_NW, means_KW), torch.cdist(x_NW, means_KW).argmin(1))
    assert nearest(torch.zeros(1, 2), torch.ones(3, 2)).tolist() == [0]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x_NW, means_KW = vectors(200, 5), vectors(17, 5)
    monkeypatch.setattr(kmeans, "BLOCK", 64)
    assert torch.equal(nearest_in_blocks(x_NW, means_KW), nearest(x_NW, means_KW))


@pytest.mark.parametrize("sums", SUMS)
def test_a_round_moves_means_to_their_vectors(sums: Sums) -> None:
    x_NW, means_KW = vectors(60, 3), vectors(8, 3)
    means_KW[3] = 1e3  # nearest to none
    nearest_N = nearest(x_NW, means_KW)
    moved_KW, count_K = update(x_NW, means_KW, nearest_N, sums)
    for k in range(8):
        own = [x for x, of in zip(x_NW, nearest_N.tolist(), strict=True) if of == k]
        assert int(count_K[k]) == len(own)
        expected = torch.stack(own).mean(0) if own else means_KW[k]
        torch.testing.assert_close(moved_KW[k], expected)


def test_clusters_are_found_where_they_are() -> None:
    centres = torch.eye(8) * 10
    x_NW = centres[torch.arange(400) % 8] + torch.randn(400, 8, generator=torch.Generator().manual_seed(0)) / 10
    means, left = fit(x_NW, 8, 25)
    assert torch.cdist(means, centres).min(0).values.max() < 0.1 and left < 0.01
    assert torch.equal(nearest(x_NW[:8], means), nearest(x_NW[8:16], means))
    assert torch.equal(fit(x_NW, 8, 25)[0], means)


def test_every_round_is_told_with_what_is_left() -> None:
    told: list[tuple[int, float]] = []
    _, left = fit(vectors(300, 4), 6, 5, lambda *done: told.append(done))
    assert [done for done, _ in told] == [1, 2, 3, 4, 5] and told[-1][1] == left < told[0][1]


def test_what_is_left_is_a_share_of_the_variance() -> None:
    x_NW = vectors(300, 4) + 5
    means, left = fit(x_NW, 6, 1)
    first = x_NW[torch.randperm(300, generator=torch.Generator().manual_seed(0))[:6]]
    expected = torch.cdist(x_NW, first).min(1).values.square().sum() / (x_NW - x_NW.mean(0)).square().sum()
    assert left == pytest.approx(float(expected), rel=1e-4)
    assert torch.equal(means, update(x_NW, first, nearest(x_NW, first), kmeans.sums_in_order)[0])


def test_means_nearest_to_nothing_move_to_the_farthest_vectors() -> None:
    x_NW = torch.cat((torch.zeros(50, 2), torch.full((1, 2), 9.0), torch.full((1, 2), -9.0)))
    means, left = fit(x_NW, 3, 25)
    assert sorted(means[:, 0].tolist()) == [-9, 0, 9] and left == 0
