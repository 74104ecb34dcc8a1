"""The auxiliary classifier of D: what it learns from, what it pays G for."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from training.batches import Batch
from training.model.networks.build import build_discriminator
from training.objectives import discriminator_loss, generator_loss
from training.presets import PRESETS
from training.schedules import Moment

CONFIG = replace(PRESETS["tiny"], class_weight_d=2.0, class_weight_g=0.5)
NOW = Moment(
    lr_g=1.0,
    lr_d=1.0,
    beta2_g=0.9,
    beta2_d=0.9,
    gamma=0.0,
    instance_noise=0.0,
    augment_p=0.0,
    ema_half_lives=(),
)
CLASSES = torch.tensor([0, 2, 1, 2])


class Naming(nn.Module):
    """A D that says the mean of an image, and names its class by a linear map of its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(16, 3)

    def forward(self, images, c):
        return images.mean((1, 2, 3)), self.map(images.flatten(1))


class Silent(Naming):
    def forward(self, images, c):
        return super().forward(images, c)[0]


def as_is(images):
    return images


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, 4, 4, generator=rng)
    z = torch.randn(4, 16, generator=rng)
    return Batch(images, CLASSES, z, None, None, as_is, as_is)


def fakes_of(z, c):
    return z.view(4, 1, 4, 4)


def test_d_learns_to_name_classes_from_reals_alone(batch):
    d = Naming()
    named, silent = (
        discriminator_loss(CONFIG, fakes_of, net, batch, NOW)["loss_D"] for net in (d, Silent())
    )
    expected = cross_entropy(d.map(batch.images.flatten(1)), CLASSES)
    assert (named - silent).item() == pytest.approx(2 * expected.item(), rel=1e-5)


def test_g_is_paid_for_fakes_that_d_takes_for_the_class_asked_for(batch):
    d = Naming()
    named, silent = (
        generator_loss(CONFIG, fakes_of, net, batch)["loss_G"] for net in (d, Silent())
    )
    expected = cross_entropy(d.map(batch.z), CLASSES)
    assert (named - silent).item() == pytest.approx(0.5 * expected.item(), rel=1e-5)


def test_a_d_that_names_classes_has_a_logit_for_each_and_the_same_verdict():
    network = PRESETS["tiny"].network(28, 1, 10)
    torch.manual_seed(0)
    plain = build_discriminator(network)
    naming = build_discriminator(network, classifies=True)
    naming.load_state_dict(plain.state_dict(), strict=False)
    images, c = torch.randn(3, 1, 28, 28), torch.tensor([1, 5, 9])
    verdict, names = naming(images, c)
    torch.testing.assert_close(verdict, plain(images, c))
    assert names.shape == (3, 10)


def test_without_classes_there_is_nothing_to_name():
    network = PRESETS["tiny"].network(28, 1, 0)
    d = build_discriminator(network, classifies=True)
    assert isinstance(d(torch.randn(3, 1, 28, 28), torch.zeros(3, dtype=torch.int64)), torch.Tensor)
