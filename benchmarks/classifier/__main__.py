"""Train the MNIST classifier of the metrics: `python -m benchmarks.classifier OUT.safetensors`.

The package ships weights that this command produced; `eval.weights` accepts others.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        The exit code.
    """
    options = _parse(arguments)

    import torch

    from benchmarks.classifier.train import new_classifier, save_classifier, train_classifier
    from ganscale.evaluation.metrics.mnist_classifier import load_classifier

    torch.set_num_threads(options.threads)
    classifier = new_classifier(options.seed)
    progress = train_classifier(
        classifier,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    for row in progress:
        print(f"epoch {row.epoch:3d}  loss {row.loss:.4f}  test accuracy {row.accuracy:.2%}", flush=True)
    try:
        save_classifier(classifier, options.out)
    except OSError as error:
        print(f"ganscale: {options.out} cannot be written: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}\n  SHA-256 {load_classifier(options.out)[1]}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.classifier",
        description="Train the MNIST classifier of the metrics on the bundled digits.",
    )
    parser.add_argument("out", type=Path, metavar="OUT.safetensors", help="file to write the weights to")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the 60,000 training digits (default 12)")
    parser.add_argument("--batch-size", type=int, default=100, help="digits per update (default 100)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="maximum of the cycle (default 3e-3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
