"""Which numbers of `metrics.jsonl` share a chart, in the report and in W&B."""

from collections.abc import Mapping
from typing import NamedTuple


class Family(NamedTuple):
    """Numbers that share a chart.

    Attributes:
        title: of the chart.
        group: of charts, one of `GROUPS`.
        note: how to read the chart; may be empty.
        members: name in `metrics.jsonl` to its label.
        unit: of the numbers; empty for plain ones.
    """

    title: str
    group: str
    note: str
    members: Mapping[str, str]
    unit: str = ""

    @property
    def headline(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


GROUPS = ("Quality", "Training", "Speed and memory", "Other")
FAMILIES = (
    Family(
        "Loss",
        "Training",
        "Mean since the last row; adversarial: of D, without penalties and classes, on the row's batch.",
        {"loss_d": "D", "loss_g": "G", "adversarial_loss_d": "adversarial"},
    ),
    Family(
        "Discriminator accuracy",
        "Training",
        "Share of examples classified correctly: 0.5 is guessing.",
        {"d_accuracy_real": "real", "d_accuracy_fake": "fake"},
        "share",
    ),
    Family("Logits, mean", "Training", "", {"real_logit_mean": "real", "fake_logit_mean": "fake"}),
    Family("Logits, spread", "Training", "Standard deviation.", {"real_logit_std": "real", "fake_logit_std": "fake"}),
    Family(
        "Diversity of a batch",
        "Training",
        "Mean distance of two examples, and of the two batches' means, per pixel.",
        {"diversity_real": "real", "diversity_fake": "fake", "mean_gap": "means"},
    ),
    Family(
        "Copies in a batch",
        "Training",
        "Share of examples that equal another one on their worker.",
        {"copies_real": "real", "copies_fake": "fake"},
        "share",
    ),
    Family(
        "Fréchet distance of a batch",
        "Training",
        "Along 32 random directions, over the reals' variance: of fakes from reals, and of reals from the data set.",
        {"sliced_frechet": "fake", "sliced_frechet_real": "real"},
    ),
    Family(
        "Held-out examples",
        "Training",
        "By how many standard deviations D prefers training examples to held-out ones.",
        {"held_out_gap": "gap"},
        "standard deviations",
    ),
    Family(
        "Classes",
        "Training",
        "How much D prefers an example's class to another one, mean over standard deviation.",
        {"class_margin": "margin"},
    ),
    Family("Gradient norm", "Training", "Before clipping.", {"grad_norm_d": "D", "grad_norm_g": "G"}),
    Family("Weight norm", "Training", "", {"weight_norm_d": "D", "weight_norm_g": "G"}),
    Family("Learning rate", "Training", "", {"lr_d": "D", "lr_g": "G"}),
    Family("Gamma of R1 and R2", "Training", "With penalty.auto.", {"gamma": ""}),
    Family("Augmentation", "Training", "Probability of each transform (ADA).", {"augment_p": "p"}, "probability"),
    Family(
        "Speed",
        "Speed and memory",
        "Decode limit: what data.num_workers on all workers could decode without pause.",
        {"images_per_second": "trained", "decode_limit": "decode limit"},
        "images/s",
    ),
    Family("Time per iteration", "Speed and memory", "", {"seconds_per_iteration": ""}, "s"),
    Family(
        "Time of the workers",
        "Speed and memory",
        "Per iteration, the median worker's: its own computation, waiting in collectives, and waiting for data.",
        {"compute_seconds": "computation", "waiting_seconds": "waiting", "data_seconds": "data"},
        "s",
    ),
    Family(
        "Time of the slowest workers",
        "Speed and memory",
        "Per iteration; a worker far above the median one is a straggler.",
        {"compute_seconds_max": "computation", "data_seconds_max": "data"},
        "s",
    ),
    Family("Slowest worker", "Speed and memory", "Rank for which the others wait.", {"slowest_rank": "rank"}),
    Family("Memory of rank 0", "Speed and memory", "", {"memory_mib": "host", "gpu_memory_mib": "GPU"}, "MiB"),
)
