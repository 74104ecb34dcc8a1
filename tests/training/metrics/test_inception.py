"""The network FID is defined on: against a second forward, and against files that are not it."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad, unfold

from training.metrics.inception import (
    SOURCE_SHA256,
    Inception,
    content_digest,
    load_inception,
    pack,
    tensor_shapes,
    to_input,
)
from training.model.checkpoint import CheckpointError


def draw(name, shape):
    """Weights under which neither features vanish nor batch norms do nothing."""
    if name.endswith(("running_var", "bn.weight")):
        return torch.rand(shape) + 0.5
    if len(shape) > 1:
        return torch.randn(shape) * math.sqrt(2 / math.prod(shape[1:]))
    return torch.randn(shape) * 0.1


@pytest.fixture(scope="module")
def tensors():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {name: draw(name, shape) for name, shape in tensor_shapes().items()}


@pytest.fixture(scope="module")
def path(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    path.write_bytes(pack(tensors, SOURCE_SHA256))
    return path


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# The second forward: float64, unfold and matmul, nothing folded, the graph written as text.

UNPADDED = {"Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_4a_3x3"}
HALVING = {
    "Conv2d_1a_3x3",
    "Mixed_6a.branch3x3",
    "Mixed_6a.branch3x3dbl_3",
    "Mixed_7a.branch3x3_2",
    "Mixed_7a.branch7x7x3_4",
}
STEM = "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 max/2 Conv2d_3b_1x1 Conv2d_4a_3x3 max/2"
AT_35 = "1x1 | 5x5_1 5x5_2 | 3x3dbl_1 3x3dbl_2 3x3dbl_3 | avg _pool"
AT_17 = "1x1 | 7x7_1 7x7_2 7x7_3 | 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 | avg _pool"
AT_8 = "1x1 | 3x3_1 3x3_2a,3x3_2b | 3x3dbl_1 3x3dbl_2 3x3dbl_3a,3x3dbl_3b | {} _pool"
BLOCKS = {
    **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), AT_35),
    "Mixed_6a": "3x3 | 3x3dbl_1 3x3dbl_2 3x3dbl_3 | max/2",
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), AT_17),
    "Mixed_7a": "3x3_1 3x3_2 | 7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4 | max/2",
    "Mixed_7b": AT_8.format("avg"),
    "Mixed_7c": AT_8.format("max"),
}


def windows(x, kernel, stride, margin, fill=0.0):
    """(B, C, H, W) → (B, C, kernel area, places), and the places' height and width."""
    x = pad(x, (margin[1], margin[1], margin[0], margin[0]), value=fill)
    size = [(s - k) // stride + 1 for s, k in zip(x.shape[2:], kernel, strict=True)]
    columns = unfold(x, kernel, stride=stride)
    return columns.reshape(len(x), x.shape[1], -1, columns.shape[-1]), size


def pooled(x, kind):
    if kind == "avg":  # the mean of the pixels there are
        sums, size = windows(x, (3, 3), 1, (1, 1))
        there, _ = windows(torch.ones_like(x), (3, 3), 1, (1, 1))
        return (sums.sum(2) / there.sum(2)).unflatten(-1, size)
    halving = kind == "max/2"
    margin = (0, 0) if halving else (1, 1)
    columns, size = windows(x, (3, 3), 2 if halving else 1, margin, fill=-math.inf)
    return columns.amax(2).unflatten(-1, size)


def convolved(x, tensors, name):
    weight = tensors[f"{name}.conv.weight"].double()
    kernel = weight.shape[2:]
    halving = name in HALVING
    margin = (0, 0) if halving or name in UNPADDED else [(k - 1) // 2 for k in kernel]
    columns, size = windows(x, kernel, 2 if halving else 1, margin)
    x = (weight.flatten(1) @ columns.flatten(1, 2)).unflatten(-1, size)
    scale, shift, mean, variance = (
        tensors[f"{name}.bn.{part}"].double()[:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return ((x - mean) / (variance + 0.001).sqrt() * scale + shift).clamp(min=0)


def followed(x, tensors, path, prefix=""):
    for step in path.split():
        if step in ("avg", "max", "max/2"):
            x = pooled(x, step)
        else:
            x = torch.cat([convolved(x, tensors, prefix + name) for name in step.split(",")], 1)
    return x


def second_forward(x, tensors):
    x = followed(x.double(), tensors, STEM)
    for block, text in BLOCKS.items():
        paths = text.split("|")
        x = torch.cat([followed(x, tensors, path, f"{block}.branch") for path in paths], dim=1)
    assert x.shape[1:] == (2048, 8, 8)
    return x.mean(dim=(2, 3)).numpy()


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (1, 28, 28, 1)], ids=["colour", "grey"])
def test_features_are_those_of_a_second_forward_in_float64(tensors, shape):
    found = Inception(tensors, "", torch.device("cpu"))(images(*shape))
    expected = second_forward(
        to_input(torch.from_numpy(images(*shape)).permute(0, 3, 1, 2)), tensors
    )
    assert found.dtype == np.float32
    # fp32 leaves 94 layers some 1e-6; a wrong pool or padding leaves more than 1e-2.
    np.testing.assert_allclose(found, expected, atol=2e-5 * expected.max())


def test_the_batch_an_image_comes_in_does_not_change_its_features(tensors):
    inception = Inception(tensors, "", torch.device("cpu"))
    together = inception(images(3, 8, 8, 3))
    np.testing.assert_allclose(together[2:], inception(images(3, 8, 8, 3)[2:]), rtol=1e-4)


def test_the_network_has_the_published_number_of_parameters():
    # 23,834,568 with 1000 outputs (torchvision, without its auxiliary classifier); 8 more of 2049.
    sizes = {name: math.prod(shape) for name, shape in tensor_shapes().items()}
    assert sum(n for name, n in sizes.items() if "running" not in name) == 23_834_568 + 8 * 2049
    # Keras counts 21,802,784 without the classifier: one number a channel for scale it leaves out.
    scales = sum(n for name, n in sizes.items() if name.endswith("bn.weight"))
    assert sum(sizes.values()) - scales - 1008 * 2049 == 21_802_784


def test_the_network_has_94_convolutions_of_the_known_kernels():
    convs = [shape for name, shape in tensor_shapes().items() if name.endswith("conv.weight")]
    assert Counter(shape[2:] for shape in convs) == {
        (1, 1): 40, (3, 3): 17, (5, 5): 3, (1, 7): 13, (7, 1): 13, (1, 3): 4, (3, 1): 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape"),
    {
        "Conv2d_4a_3x3": (192, 80, 3, 3),
        "Mixed_5b.branch_pool": (32, 192, 1, 1),
        "Mixed_5d.branch5x5_2": (64, 48, 5, 5),
        "Mixed_6a.branch3x3": (384, 288, 3, 3),
        "Mixed_6b.branch7x7_2": (128, 128, 1, 7),
        "Mixed_6c.branch7x7_3": (192, 160, 7, 1),
        "Mixed_6d.branch7x7dbl_2": (160, 160, 7, 1),
        "Mixed_6e.branch7x7dbl_5": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_2": (192, 192, 1, 7),
        "Mixed_7b.branch3x3_2a": (384, 384, 1, 3),
        "Mixed_7b.branch3x3dbl_3b": (384, 384, 3, 1),
        "Mixed_7c.branch_pool": (192, 2048, 1, 1),
    }.items(),
)
def test_layers_have_the_shapes_of_the_published_file(name, shape):
    assert tensor_shapes()[f"{name}.conv.weight"] == shape


# What the graph is fed.


def resized_by_the_formula(image, size=299):
    """TensorFlow 1: output (i, j) is read at (i · H/size, j · W/size), computed in fp32; beyond the
    edge stands the edge."""
    height, width = image.shape
    row, column = np.float32(height / size), np.float32(width / size)
    out = np.empty((size, size))
    for i in range(size):
        y = float(i * row)
        top, bottom = int(y), min(int(y) + 1, height - 1)
        for j in range(size):
            x = float(j * column)
            left, right = int(x), min(int(x) + 1, width - 1)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            out[i, j] = upper + (lower - upper) * (y - top)
    return out


def network_input(image):
    """(H, W) uint8 → the three channels the network is fed, in grey levels."""
    return to_input(torch.from_numpy(image)[None, None])[0].numpy() * 128 + 128


@pytest.mark.parametrize("shape", [(28, 32), (400, 301)], ids=["larger", "smaller"])
def test_images_are_resized_as_tensorflow_1_did(shape):
    image = images(*shape)
    expected = resized_by_the_formula(image.astype(np.float64))
    for channel in network_input(image):
        np.testing.assert_allclose(channel, expected, atol=1e-4)  # of 255


def test_pixel_centres_are_not_aligned():
    # Two columns: a ramp over the left half, the right column over the rest.
    row = network_input(np.array([[0, 255], [0, 255]], np.uint8))[0, 0]
    np.testing.assert_allclose(row, np.minimum(np.arange(299) * 2 / 299, 1) * 255, atol=1e-3)


def test_shrinking_takes_pixels_and_averages_none():
    image = images(598, 598)
    np.testing.assert_array_equal(network_input(image)[0], image[::2, ::2])


def test_pixels_run_from_minus_1_to_just_under_1():
    ends = to_input(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    assert (ends.min().item(), ends.max().item()) == (-1, 127 / 128)


@pytest.mark.parametrize("shape", [(1, 8, 8, 4), (8, 8, 3)])
def test_what_is_neither_grey_nor_colour_is_refused(tensors, shape):
    with pytest.raises(ValueError, match=r"expected uint8 \(n, H, W, 1\) or \(n, H, W, 3\)"):
        Inception(tensors, "", torch.device("cpu"))(images(*shape))


# The file.


def test_a_converted_file_gives_the_network_it_holds(path, tensors):
    inception = load_inception(path)
    assert inception.digest == content_digest(tensors)
    direct = Inception(tensors, "", torch.device("cpu"))
    np.testing.assert_array_equal(inception(images(1, 8, 8, 1)), direct(images(1, 8, 8, 1)))


def test_one_flipped_bit_is_seen(path, tmp_path):
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    altered = tmp_path / "altered.safetensors"
    altered.write_bytes(data)
    with pytest.raises(CheckpointError, match="was altered"):
        load_inception(altered)


def test_a_missing_file_is_told_with_how_to_make_it(tmp_path):
    with pytest.raises(CheckpointError, match=r"no Inception file at .*tools/inception.py convert"):
        load_inception(tmp_path / "nothing.safetensors")


def test_a_truncated_file_is_refused(path, tmp_path):
    short = tmp_path / "short.safetensors"
    short.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_inception(short)


@pytest.mark.parametrize("about", [None, {}, {"source_sha256": "0" * 64}])
def test_a_file_from_another_source_is_refused(tmp_path, about):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path, metadata=about)
    with pytest.raises(CheckpointError, match=f"FID is defined on '{SOURCE_SHA256[:12]}'"):
        load_inception(path)


def test_a_file_without_its_digest_is_refused(path, tmp_path):
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(path), bare, metadata={"source_sha256": SOURCE_SHA256})
    with pytest.raises(CheckpointError, match="was altered"):
        load_inception(bare)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("fc.weight", torch.zeros(1000, 2048)),
        ("fc.bias", torch.zeros(1008, dtype=torch.float64)),
        ("fc.bias", None),
        ("AuxLogits.fc.bias", torch.zeros(1000)),
    ],
    ids=["another shape", "another type", "one missing", "one more"],
)
def test_tensors_of_another_inception_are_refused(tensors, tmp_path, name, tensor):
    others = {n: t for n, t in (tensors | {name: tensor}).items() if t is not None}
    path = tmp_path / "other.safetensors"
    save_file(others, path, metadata={"source_sha256": SOURCE_SHA256})
    with pytest.raises(CheckpointError, match=f"is not the Inception-v3 of 2015-12-05: .*'{name}'"):
        load_inception(path)


def test_weights_that_are_not_finite_are_refused(tensors):
    with pytest.raises(CheckpointError, match=r"NaN or infinity in 'fc\.bias'"):
        pack(tensors | {"fc.bias": torch.full((1008,), math.nan)}, SOURCE_SHA256)


def test_the_digest_tells_names_shapes_and_values_apart():
    one = {"a": torch.tensor([1.0, 2.0])}
    others = [
        {"b": one["a"]},
        {"a": one["a"][None]},
        {"a": torch.tensor([1.0, 2.5])},
        {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])},
    ]
    assert len({content_digest(tensors) for tensors in [one, *others]}) == 5
