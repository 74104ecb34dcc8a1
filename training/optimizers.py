"""Owns the step from gradients to weights, and the settings that move between steps."""

from torch import nn
from torch.optim import Adam, Optimizer

from training.config import TrainConfig


def make_optimizer(net: nn.Module, config: TrainConfig) -> Optimizer:
    """Fused Adam over all of `net`; `set_schedule` gives it its rate before every step."""
    betas = (config.beta1, config.beta2)
    return Adam(net.parameters(), lr=0.0, betas=betas, eps=config.adam_eps, fused=True)


def set_schedule(optimizer: Optimizer, lr: float, beta1: float, beta2: float) -> None:
    """Take these values from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["betas"] = (beta1, beta2)
