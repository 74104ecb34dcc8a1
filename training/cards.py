"""Owns the model card: what a version is, what it was made from and how good it is, in Markdown."""

from collections.abc import Mapping
from typing import Any


def model_card(manifest: Mapping[str, Any], metrics: Mapping[str, Any], notes: str = "") -> str:
    """Markdown with a front matter, for people and for tools that read cards."""
    network, lineage = manifest["network"], manifest["lineage"]
    classes = ", ".join(manifest["class_names"]) or "none (unconditional)"
    size = f"{network['img_resolution']}×{network['img_resolution']}"
    kind = "grey" if network["img_channels"] == 1 else "RGB"
    lines = [
        "---",
        "library_name: noisewell",
        "tags: [gan, image-generation]",
        "---",
        f"# A generator of {size} {kind} images",
        "",
        f"Trained on the dataset `{lineage['dataset']}`: {lineage['num_images']} images,",
        "a tenth of them held out. It makes synthetic images; none of them is a photograph.",
        "",
        "| | |",
        "|---|---|",
        f"| classes | {classes} |",
        f"| preset | `{lineage['preset']}`, seed {lineage['seed']} |",
        f"| trained for | {lineage['cur_nimg'] / 1000:.0f} kimg in {lineage['train_sec']:.0f} s |",
        f"| parameters of G | {manifest['num_parameters']:,} |",
        f"| weights, SHA-256 | `{manifest['digest'][:16]}…` |",
        "",
        "## Measured",
        "",
        f"On {metrics['num_samples']} samples against as many held-out images, by the features of",
        f"a CNN trained on this dataset (evaluator `{metrics['evaluator']}`). This is not FID.",
        "",
        "| number | generator | real against real |",
        "|---|---|---|",
        f"| Fréchet distance `fd_cnn` | {metrics['fd_cnn']:.3f} ± {metrics['fd_cnn_se']:.3f} | "
        f"{metrics['fd_cnn_floor']:.3f} |",
    ]
    if "class_accuracy" in metrics:
        lines.append(
            f"| read as the class asked for | {metrics['class_accuracy']:.2%} | "
            f"{metrics['class_accuracy_reals']:.2%} |"
        )
    lines += [
        "",
        "## Limits",
        "",
        "It knows its training images and nothing else: their biases are its own, and rare kinds",
        "of image come out worse than common ones. Whether a sample is too close to a training",
        "image was not measured.",
    ]
    return "\n".join(lines) + "\n" + notes
