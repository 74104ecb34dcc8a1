import pytest
import torch

from training.model.pixels import to_float, to_uint8


def test_every_pixel_value_survives_the_way_there_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(pixels)), pixels)


def test_black_is_minus_one_and_white_is_one() -> None:
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("value", "pixel"),
    [(-1.0, 0), (1.0, 255), (-7.0, 0), (7.0, 255), (0.0, 128), (0.5, 191), (-0.5, 64)],
)
def test_floats_are_clamped_and_rounded(value: float, pixel: int) -> None:
    # (v + 1) · 127.5, a half goes to the even neighbour: 127.5 → 128, 191.25 → 191, 63.75 → 64.
    assert to_uint8(torch.tensor([value])).item() == pixel


def test_bf16_images_are_rounded_in_full_precision() -> None:
    images = torch.tensor([129 / 512], dtype=torch.bfloat16)  # held exactly
    assert to_uint8(images).item() == 160  # 159.6; bf16 arithmetic would say 159
