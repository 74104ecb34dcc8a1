"""Owns what each number of a report means, in a few words, and which way is better."""

MEANINGS = {
    "fd_cnn": "Fréchet distance of the evaluator's features",
    "kid": "kernel distance of the same, without bias by count",
    "precision": "fakes that lie among real images",
    "recall": "real images that lie among fakes",
    "density": "how densely real images surround a fake",
    "coverage": "real images that have a fake near",
    "class_accuracy": "fakes read as the class asked for",
    "cas": "real images read right by a classifier taught on fakes alone",
    "memorised": "fakes as near to a training image as the nearest hundredth of real ones",
}
LOWER_IS_BETTER = ("fd_cnn", "kid", "memorised")
