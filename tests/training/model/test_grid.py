import numpy as np
import pytest

from training.model.grid import make_grid


def numbered(n: int, channels: int = 1) -> np.ndarray:
    """n images of 2×3 pixels, the i-th all i + 1."""
    values = np.arange(1, n + 1, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], (n, 2, 3, channels))


@pytest.mark.parametrize(
    ("n", "layout"),
    [(1, [[1]]), (2, [[1, 2]]), (4, [[1, 2], [3, 4]]), (5, [[1, 2, 3], [4, 5, 0]])],
)
def test_a_grid_is_the_squarest_and_reads_row_by_row(n: int, layout: list[list[int]]) -> None:
    grid = make_grid(numbered(n))
    assert np.array_equal(grid, np.kron(layout, np.ones((2, 3), np.uint8))[:, :, None])


def test_columns_and_channels_are_kept() -> None:
    grid = make_grid(numbered(6, channels=3), columns=6)
    assert grid.shape == (2, 18, 3)
    assert grid[0, ::3, 2].tolist() == [1, 2, 3, 4, 5, 6]
