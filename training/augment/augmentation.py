"""Owns the names of the augmentations."""

from typing import Literal

from training.augment.ada import EVERYTHING, Ada, Strengths
from training.augment.diffaugment import DiffAugment
from training.augment.draws import Augmentation

AugmentationName = Literal["ada", "ada_full", "diffaugment"]

AUGMENTATIONS: dict[AugmentationName, Augmentation] = {
    "ada": Ada(Strengths()),
    "ada_full": Ada(EVERYTHING),
    "diffaugment": DiffAugment(),
}


def make_augmentation(kind: AugmentationName) -> Augmentation:
    return AUGMENTATIONS[kind]
