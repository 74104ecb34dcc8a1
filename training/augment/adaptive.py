"""Owns the adaptive control of p: more augmentation while D overfits, less when it does not."""


def adjust(p: float, sign_mean: float, target: float, images: int, adapt_nimg: float) -> float:
    """The next p in [0, 1], one step of `images`/`adapt_nimg` up or down from p.

    sign_mean: E[sign(D(real))] in [-1, 1] over the last `images` images, r_t of Karras et al. 2020
    (arXiv 2006.06676, section 3), whose target is .6. The logits of a relativistic loss have no
    zero of their own; E[sign(D(real) - D(fake))] over the pairs stands in for it there.
    adapt_nimg: images in which p can move from 0 to 1; 500 000 in the paper.
    """
    step = images / adapt_nimg
    if sign_mean > target:
        return min(p + step, 1.0)
    if sign_mean < target:
        return max(p - step, 0.0)
    return p
