"""Owns what each player minimises on a batch: losses, penalties and their weights put together.

Pure in the networks' weights and the batch: nothing is drawn here and no gradient is taken but
inside the penalties.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.batches import Batch, Disguise
from training.config import TrainConfig
from training.losses import make_loss
from training.penalties import exact_penalty, finite_difference_penalty, one_centred_penalty
from training.schedules import Moment

Stats = dict[str, Tensor]


@dataclass(frozen=True)
class Seen:
    """What D says of N images: logits (N,), and class logits (N, num_classes) if it gives them."""

    logits: Tensor
    classes: Tensor | None

    def halves(self) -> "tuple[Seen, Seen]":
        """The first and the second half of the images."""
        logits = self.logits.chunk(2)
        classes = (None, None) if self.classes is None else self.classes.chunk(2)
        return Seen(logits[0], classes[0]), Seen(logits[1], classes[1])


def discriminator_loss(
    config: TrainConfig, generator: nn.Module, discriminator: nn.Module, batch: Batch, now: Moment
) -> Stats:
    """D's objective `loss_D` = λ·loss + γ/2·(λ₁R1 + λ₂R2) + λ_GP·GP and its parts, each a scalar.

    R1 and R2 are of the undisguised images. Fakes carry the classes of the reals they are paired
    with (R3GAN, arXiv 2501.05441). A D that names classes learns it from the disguised reals alone
    (λ_C·cross-entropy), so that it never takes a bad fake for a model of its class.
    """
    with torch.no_grad():
        fakes = generator(batch.z, batch.c)
    seen, penalties = _scored(config, discriminator, batch, fakes, now.gamma)
    real_logits, fake_logits = seen.logits.chunk(2)
    adversarial = make_loss(config.loss, config.label_smoothing).d(real_logits, fake_logits)
    loss = config.adversarial_weight * adversarial
    stats = {"adversarial_D": adversarial, "logit_gap": (real_logits - fake_logits).mean()}
    if penalties is not None:
        r1, r2 = (penalty.mean() for penalty in penalties.chunk(2))
        loss = loss + now.gamma / 2 * (config.r1_weight * r1 + config.r2_weight * r2)
        stats |= {"r1": r1, "r2": r2}
    if batch.mix is not None:
        gp = _gradient_penalty(discriminator, batch, fakes, batch.mix)
        loss = loss + config.gp_weight * gp
        stats["gp"] = gp
    if seen.classes is not None:
        named = cross_entropy(seen.classes.chunk(2)[0], batch.c)
        loss = loss + config.class_weight_d * named
        stats["class_D"] = named
    if config.augment_schedule == "adaptive":
        stats["sign_real"] = _sign(config, real_logits, fake_logits)
    return {"loss_D": loss, **stats}


def _scored(
    config: TrainConfig, discriminator: nn.Module, batch: Batch, fakes: Tensor, gamma: float
) -> tuple[Seen, Tensor | None]:
    """What D says of reals and fakes, 2B images, and their penalties if any, shape (2B,)."""
    views = [batch.images, fakes]
    disguises = [batch.real_disguise, batch.fake_disguise]
    if batch.direction is not None:
        steps = config.penalty_epsilon * batch.direction
        views += [batch.images + steps[:, 0], fakes + steps[:, 1]]
        # One pass over twice the images is cheaper than two passes.
        seen, moved = _look(discriminator, views, disguises * 2, batch.c).halves()
        return seen, finite_difference_penalty(seen.logits, moved.logits, config.penalty_epsilon)
    if not gamma:
        return _look(discriminator, views, disguises, batch.c), None
    both = torch.cat(views).requires_grad_(True)
    seen = _look(discriminator, list(both.chunk(2)), disguises, batch.c)
    return seen, exact_penalty(seen.logits, both)


def _look(
    discriminator: nn.Module, views: list[Tensor], disguises: list[Disguise], c: Tensor
) -> Seen:
    """What D says of disguised views of the batch, N = len(views)·B images."""
    images = [disguise(view) for disguise, view in zip(disguises, views, strict=True)]
    said = discriminator(torch.cat(images), c.repeat(len(images)))
    return Seen(*said) if isinstance(said, tuple) else Seen(said, None)


def _gradient_penalty(discriminator: nn.Module, batch: Batch, fakes: Tensor, mix: Tensor) -> Tensor:
    between = torch.lerp(batch.images, fakes, mix).requires_grad_(True)
    seen = _look(discriminator, [between], [batch.real_disguise], batch.c)
    return one_centred_penalty(seen.logits, between).mean()


def _sign(config: TrainConfig, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[sign(D(x))], ADA's sign of overfitting (arXiv 2006.06676, eq. 1).

    A relativistic D has no zero of its own: there a real is told by standing above its fake.
    """
    told = real_logits - fake_logits if config.loss == "relativistic" else real_logits
    return told.sign().mean()


def generator_loss(
    config: TrainConfig, generator: nn.Module, discriminator: nn.Module, batch: Batch
) -> Stats:
    """G's objective `loss_G` on fresh fakes, paired with the batch's reals where the loss pairs.

    Where D names classes, also λ_C·cross-entropy of what it takes the fakes for and the classes
    asked for (AC-GAN, arXiv 1610.09585, eq. 3; weights of 1 for D and .1 for G: Gulrajani et al.
    2017, arXiv 1704.00028, appendix).
    """
    loss = make_loss(config.loss)
    fakes = generator(batch.z, batch.c)
    seen = _look(discriminator, [fakes], [batch.fake_disguise], batch.c)
    real_logits = seen.logits
    if loss.g_needs_reals:
        with torch.no_grad():  # nothing of G stands behind them
            real_logits = _look(
                discriminator, [batch.images], [batch.real_disguise], batch.c
            ).logits
    objective = config.adversarial_weight * loss.g(real_logits, seen.logits)
    if seen.classes is None:
        return {"loss_G": objective}
    named = cross_entropy(seen.classes, batch.c)
    return {"loss_G": objective + config.class_weight_g * named, "class_G": named}


def vae_loss(config: TrainConfig, decoder: nn.Module, encoder: nn.Module, batch: Batch) -> Stats:
    """`loss` = ½‖x - x̂‖² + kl_weight·KL(q(z|x) ‖ N(0, I)), summed over an image, batch mean.

    Kingma & Welling 2013, arXiv 1312.6114, eq. 10 and appendix B, with a Gaussian of unit variance
    for the pixels.
    """
    mean, log_variance = encoder(batch.images, batch.c)
    decoded = decoder(mean + (log_variance / 2).exp() * batch.z, batch.c)
    reconstruction = (decoded - batch.images).square().flatten(1).sum(dim=1).mean() / 2
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean() / 2
    return {
        "loss": reconstruction + config.kl_weight * kl,
        "reconstruction": reconstruction,
        "kl": kl,
    }
