"""Owns the step from gradients to weights, and the settings that move between steps."""

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from training.config import PlayerConfig


def make_optimizer(net: nn.Module, player: PlayerConfig) -> Optimizer:
    """The player's optimizer over all of `net`; `set_schedule` gives it its rate before each step.

    One kernel for all weights where torch has one (fused Adam, AdamW, SGD). beta1 is the momentum
    of SGD and RMSprop, beta2 the smoothing of RMSprop.
    """
    parameters, decay = net.parameters(), player.weight_decay
    betas = (player.beta1, player.beta2)
    match player.optimizer:
        case "adam":
            return Adam(parameters, 0.0, betas, player.eps, decay, fused=True)
        case "adamw":
            return AdamW(parameters, 0.0, betas, player.eps, decay, fused=True)
        case "rmsprop":
            return RMSprop(parameters, 0.0, player.beta2, player.eps, decay, player.beta1)
        case "sgd":
            return SGD(parameters, 0.0, player.beta1, weight_decay=decay, fused=True)


def set_schedule(optimizer: Optimizer, lr: float, beta2: float) -> None:
    """Take these values from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (group["betas"][0], beta2)
        elif "alpha" in group:
            group["alpha"] = beta2
