"""What users rely on is still there: commands, settings, names, configs and manifests; more may be added."""

from pathlib import Path

import pytest

from ganscale.cli import COMMANDS
from ganscale.config import DATASETS, DETECTORS, DISCRIMINATORS, EXTRACTORS, GENERATORS, LOSSES, METRICS
from ganscale.sweep.config import SweepSettings

ROOT = Path(__file__).parents[1]

NAMES = {
    "commands": (COMMANDS, "prepare train tune evaluate sample copy report dashboard doctor"),
    "losses": (
        LOSSES,
        "non_saturating minimax least_squares hinge wasserstein relativistic_pairing relativistic_average",
    ),
    "generators": (GENERATORS, "mlp dcgan resnet biggan r3gan stylegan2 transformer"),
    "discriminators": (DISCRIMINATORS, "mlp dcgan resnet biggan r3gan stylegan2 transformer"),
    "datasets": (DATASETS, "mnist stacked_mnist ring grid cifar10 folder latents"),
    "metrics": (
        METRICS,
        "frechet kid inception_score precision recall density coverage modes reverse_kl excess_kl high_quality swd "
        "memorization",
    ),
    "extractors": (EXTRACTORS, "mnist inception pixels patches dinov2 clip openclip"),
    "detectors": (
        DETECTORS,
        "non-finite divergence vanishing-gradient discriminator-strong mode-collapse discriminator-weak oscillation "
        "replica-drift straggler",
    ),
}
SWEEPS = {"search": "random grid optuna", "scheduler": "none asha median pbt", "score": "lower_bound success_rate"}
FILES = {
    "configs": "biggan_128 biggan_cifar10 biggan_mnist sagan_128 mnist_stylegan2 folder_stylegan2_64 "
    "folder_stylegan2_256 "
    "cifar10_dcgan cifar10_r3gan cifar10_sngan cifar10_wgan_gp emoji_32 folder_128 folder_64 gaussians "
    "mnist_dcgan mnist_demo mnist_mlp mnist_mlp_minimax mnist_r3gan mnist_sngan mnist_transformer mnist_wgan "
    "mnist_wgan_gp stacked_mnist_dcgan stacked_mnist_cpu stacked_mnist_rpgan",
    "configs/sweeps": "gaussians mlp_quick pbt_dcgan rates_latent robustness_200 robustness_small "
    "stability_textbook stacked_mnist_ablation",
    "cluster": "aws gcp on-prem slurm Dockerfile local_cluster drain",
    "benchmarks": "speed health classifier",
}
OVERLAYS = "autoscale cpu gpu gpu-rdma kueue spot"
PARTS = "setup train sweep cluster"
SETTINGS = """
augment.adaptive augment.every augment.noise augment.p augment.speed augment.target augment.transforms
checkpoint.best_metric checkpoint.every checkpoint.hours_between_faults checkpoint.keep checkpoint.mode
checkpoint.on_failure cluster.address cluster.cpus_per_worker cluster.max_restarts cluster.node_wait cluster.num_workers
cluster.recovery cluster.restart_pause cluster.timeout data.background data.changed data.channels data.fit data.labels
data.mirror data.name data.num_images data.num_workers data.path data.range data.resolution ema.half_life ema.profiles
ema.rampup ema.snapshot_every ema.snapshots eval.busy eval.cpus eval.every eval.extractor eval.gpus eval.metrics
eval.mode eval.num_samples eval.seed eval.weights health.compare_every health.ignore health.max_rollbacks
health.patience health.penalty_factor health.rate_factor health.response health.straggler_factor log.details log.every
log.num_samples log.samples_every log.tensorboard loss.class_weight loss.clip_weights loss.fake_label_smoothing
loss.feature_matching loss.label_smoothing loss.name model.discriminator[dcgan].activation
model.discriminator[dcgan].attention model.discriminator[dcgan].conditioning model.discriminator[dcgan].max_width
model.discriminator[dcgan].minibatch_stddev model.discriminator[dcgan].name model.discriminator[dcgan].norm
model.discriminator[dcgan].spectral_norm model.discriminator[dcgan].width model.discriminator[mlp].activation
model.discriminator[mlp].conditioning model.discriminator[mlp].depth model.discriminator[mlp].growth
model.discriminator[mlp].minibatch_stddev model.discriminator[mlp].name model.discriminator[mlp].norm
model.discriminator[mlp].spectral_norm model.discriminator[mlp].width model.discriminator[r3gan].activation
model.discriminator[r3gan].attention model.discriminator[r3gan].conditioning model.discriminator[r3gan].depth
model.discriminator[r3gan].expansion model.discriminator[r3gan].group_size model.discriminator[r3gan].max_width
model.discriminator[r3gan].minibatch_stddev model.discriminator[r3gan].name model.discriminator[r3gan].width
model.discriminator[resnet].activation model.discriminator[resnet].attention model.discriminator[resnet].conditioning
model.discriminator[resnet].depth model.discriminator[resnet].final_blocks model.discriminator[resnet].max_width
model.discriminator[resnet].minibatch_stddev model.discriminator[resnet].name model.discriminator[resnet].norm
model.discriminator[resnet].pooling model.discriminator[resnet].smallest model.discriminator[resnet].spectral_norm
model.discriminator[resnet].width model.discriminator[transformer].conditioning model.discriminator[transformer].depth
model.discriminator[transformer].head_width model.discriminator[transformer].heads
model.discriminator[transformer].mlp_ratio model.discriminator[transformer].name model.discriminator[transformer].patch
model.discriminator[transformer].width model.generator[dcgan].activation model.generator[dcgan].attention
model.generator[dcgan].class_dim model.generator[dcgan].conditioning model.generator[dcgan].max_width
model.generator[dcgan].name model.generator[dcgan].norm model.generator[dcgan].spectral_norm
model.generator[dcgan].width model.generator[mlp].activation model.generator[mlp].class_dim
model.generator[mlp].conditioning model.generator[mlp].depth model.generator[mlp].growth model.generator[mlp].name
model.generator[mlp].norm model.generator[mlp].spectral_norm model.generator[mlp].width
model.generator[r3gan].activation model.generator[r3gan].attention model.generator[r3gan].class_dim
model.generator[r3gan].conditioning model.generator[r3gan].depth model.generator[r3gan].expansion
model.generator[r3gan].group_size model.generator[r3gan].max_width model.generator[r3gan].name
model.generator[r3gan].output model.generator[r3gan].width model.generator[resnet].activation
model.generator[resnet].attention model.generator[resnet].class_dim model.generator[resnet].conditioning
model.generator[resnet].depth model.generator[resnet].max_width model.generator[resnet].name
model.generator[resnet].norm model.generator[resnet].spectral_norm model.generator[resnet].width
model.generator[transformer].class_dim model.generator[transformer].conditioning model.generator[transformer].depth
model.generator[transformer].heads model.generator[transformer].levels model.generator[transformer].mlp_ratio
model.generator[transformer].name model.generator[transformer].patch model.generator[transformer].width model.latent
model.latent_dim model.packing optim.alpha_d optim.alpha_g optim.base_width optim.beta2 optim.betas_d optim.betas_g
optim.clip_grad_norm_d optim.clip_grad_norm_g optim.d_steps optim.eps optim.lr_d optim.lr_g optim.name_d optim.name_g
optim.weight_decay_d optim.weight_decay_g penalty.dragan penalty.dragan_every penalty.drift penalty.gp penalty.gp_every
penalty.gp_target penalty.r1 penalty.r1_every penalty.r2 penalty.r2_every run.dir run.name run.seed train.accumulation
train.batch_size train.channels_last train.compile train.deterministic train.device train.images train.precision
train.reuse_fakes train.shards wandb.artifact_mib wandb.artifacts wandb.entity wandb.group wandb.mode wandb.project
wandb.tags wandb.timeout
"""


@pytest.mark.parametrize("kind", NAMES)
def test_names_are_there(kind: str) -> None:
    table, names = NAMES[kind]
    assert set(names.split()) <= set(table)


@pytest.mark.parametrize("setting", SWEEPS)
def test_choices_of_a_sweep_are_there(setting: str) -> None:
    choices = SweepSettings.model_json_schema()["properties"][setting]["enum"]
    assert set(SWEEPS[setting].split()) <= set(choices)


def test_settings_are_there() -> None:
    listed = {
        line[3:].partition("`")[0]
        for line in (ROOT / "docs" / "config.md").read_text().splitlines()
        if line[:3] == "| `"
    }
    assert set(SETTINGS.split()) - listed == set()


@pytest.mark.parametrize("folder", FILES)
def test_files_are_there(folder: str) -> None:
    assert set(FILES[folder].split()) - {path.stem for path in (ROOT / folder).iterdir()} == set()


def test_manifests_are_there() -> None:
    for overlay in OVERLAYS.split():
        for part in PARTS.split():
            assert (ROOT / "k8s" / "overlays" / overlay / part / "kustomization.yaml").exists(), (overlay, part)
        assert (ROOT / "k8s" / "chart" / "values" / f"{overlay}.yaml").exists()
    assert {path.name for path in (ROOT / "k8s" / "overlays" / "bucket").iterdir()} >= {"setup", "train", "cluster"}
    assert (ROOT / "k8s" / "monitoring" / "kustomization.yaml").exists()
