"""The learning rate of every step, as a function of its number: nothing to keep, so nothing to restore."""

import math

from evo.training.recipe import Recipe

RISE = 0.2
"""Share of onecycle's steps in which the learning rate rises."""

START = 0.05
"""Share of the highest learning rate that onecycle starts with."""


def learning_rate(recipe: Recipe, step: int, steps: int, steps_per_epoch: int) -> float:
    """Return the learning rate of `step`, from 0, out of `steps`.

    Constant, step and cosine are torch's ConstantLR(factor=1), StepLR and CosineAnnealingLR, one call per step; a warm-up of
    w steps gives (step + 1) / w of `lr`, and cosine then falls over the steps that are left. Cuts of the step schedule are
    counted from the beginning of training (FNP: lr 0.01, ÷ 10 every 50 epochs; or cosine from 0.2 to 0.02).
    """
    warmup = round(recipe.warmup * steps_per_epoch)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "step":
        cuts = step // max(1, round(recipe.step_epochs * steps_per_epoch))
        return recipe.lr * recipe.step_factor**cuts
    progress = (step - warmup) / (steps - warmup)
    if recipe.schedule == "onecycle":
        if progress < RISE:
            return recipe.lr * (START + (1 - START) * progress / RISE)
        progress = (progress - RISE) / (1 - RISE)
    share = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.final_lr + (recipe.lr - recipe.final_lr) * share
