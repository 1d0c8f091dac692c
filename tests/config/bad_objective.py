"""Configurations that must be refused: the objective, its penalties, augmentation and schedules."""

from tests.config.case import NUMBER, Bad, file_text, override

HINGE, RPGAN = "loss.name=hinge", "loss.name=relativistic_pairing"
FLIPPED = "augment.transforms=[flip]"
CLASSES = ("model.generator.conditioning=concat", "model.discriminator.conditioning=acgan")
PROJECTION = (CLASSES[0], "model.discriminator.conditioning=projection")
RATE = "optim:\n  lr_g: {{start: 1e-3, end: 1e-4, {}}}\n"
ESTIMATED_R1 = ("penalty.r1=1", "penalty.r1_mode=finite_difference")
WORKERS_4 = "cluster.num_workers=4"
MAPS = ("data.resolution=16", "model.generator.name=stylegan2", "model.discriminator.name=stylegan2")
TO_ZERO = "{'start': 1.0, 'end': 0, 'over': 5}"
"""As the message shows it; YAML reads it too."""
EXPONENTIAL = "{'start': 1.0, 'end': 0, 'over': 5, 'curve': 'exponential'}"

FALLING = "{'start': 0.001, 'end': 0.0001, 'begin': 0, 'over': 5, 'curve': 'linear'}"

OBJECTIVE = [
    override("hinge_has_no_labels", "loss.label_smoothing=0.1", "use 0, or loss.name = non_saturating", HINGE),
    override("pairs_have_no_labels", "loss.fake_label_smoothing=0.2", "minimax or least_squares", RPGAN),
    override("negative_weight", "penalty.gp=-1", "at least 0 and at most 1e+06"),
    override("list_for_weight", "penalty.r1=[1, 2]", NUMBER),
    override("text_for_weight", "penalty.r2=strong", NUMBER),
    override("r1_separate_of_nothing", "penalty.r1_separate=true", "or set penalty.r1", "penalty.r1_every=4"),
    override("r1_always_due", "penalty.r1_separate=true", "or penalty.r1_every = 16", "penalty.r1=1"),
    override("r1_is_cheap", "penalty.r1_separate=true", "penalty.r1_mode = exact", *ESTIMATED_R1, "penalty.r1_every=4"),
    override("lengths_in_a_graph", "train.cuda_graphs=true", "penalty.path_length = 0", "penalty.path_length=2"),
    override("lengths_compiled", "train.compile=true", "penalty.path_length = 0", "penalty.path_length=2"),
    override("lengths_of_one_image", "train.batch_size=7", "train.batch_size >= 8", "penalty.path_length=2", WORKERS_4),
    override(
        "mixing_uniform", "model.generator.style_mixing=0.5", "model.latent: normal", "model.latent=uniform", *MAPS
    ),
    override("decay_of_nothing", "penalty.lecam_decay=0.9", "penalty.lecam=0.3"),
    override("class_weight_of_nothing", "loss.class_weight=0.5", "conditioning=acgan", *PROJECTION),
    override("temperature_of_acgan", "loss.class_temperature=0.4", "conditioning=reacgan", *CLASSES),
    override("margins_of_nothing", "loss.class_margins=[0.9, 0.1]", "conditioning=reacgan"),
    override("never_due", "penalty.r1_every=0", "greater than or equal to 1"),
    override("penalty_misspelt", "penalty.drfit=10", "did you mean 'drift'"),
    override("penalty_interval_misspelt", "penalty.r1_evry=4", "did you mean 'r1_every'"),
    override("wgan", "loss.name=wgan", "did you mean 'wasserstein' with loss.clip_weights=0.01, or with penalty.gp"),
    override("wgan_gp", "loss.name=WGAN-GP", "did you mean 'wasserstein' with penalty.gp"),
    override("gan", "loss.name=gan", "did you mean 'non_saturating'"),
    override("lsgan", "loss.name=lsgan", "did you mean 'least_squares'"),
    override("r3gan", "loss.name=r3gan", "did you mean 'relativistic_pairing'"),
    override("transform_is_no_list", "augment.transforms=flip", "give a list: [flip]"),
    override(
        "transforms_are_one_text", "augment.transforms='[flip, cutout]'", "[flip, cutout]", value="[flip, cutout]"
    ),
    override("p_above_one", "augment.p=1.5", "at least 0 and at most 1"),
    override(
        "p_scheduled_and_adaptive",
        "augment.p={'start': 0.0, 'end': 0.5, 'begin': 0, 'over': 9, 'curve': 'linear'}",
        "use a number",
        FLIPPED,
        "augment.adaptive=true",
    ),
    override("new_reals_for_old_fakes", "train.reuse_reals=false", "train.reuse_fakes=false too", RPGAN),
    override("new_reals_for_nothing", "train.reuse_reals=false", "use true", "train.reuse_fakes=false"),
    override("strength_of_nothing", "augment.strength={'color': 0.5}", "add color to augment.transforms", FLIPPED),
    override("strength_above_one", "augment.strength.flip=2", "less than or equal to 1", FLIPPED),
    override("transforms_of_points", FLIPPED, "use []", "data.name=ring", value="['flip']"),
    Bad(
        "unknown_transform",
        "augment.transforms.0",
        "flop",
        "did you mean 'flip'",
        overrides=("augment.transforms=[flop]",),
    ),
    override("adaptive_without_transforms", "augment.adaptive=true", "name some in augment.transforms"),
    override("adaptive_without_boundary", "augment.adaptive=true", "use false, or loss.name", FLIPPED, RPGAN),
    override("packs_of_classes", "model.packing=2", "use 1, or", *CLASSES),
    override("packs_do_not_divide_the_batch", "train.batch_size=10", "use 9", "model.packing=3"),
    override("packs_larger_than_the_batch", "train.batch_size=2", "use 3", "model.packing=3"),
    override(
        "fewer_packs_than_micro_batches", "train.accumulation=3", "at most 2", "model.packing=4", "train.batch_size=8"
    ),
    override("compiled_penalty", "train.compile=true", "penalty.r1_mode = finite_difference", "penalty.r1=1"),
    override("compiled_gp", "train.compile=true", "penalty.gp = 0", "penalty.gp=1", *ESTIMATED_R1),
    override("compiled_schedule", "train.compile=true", "penalty.gp = 0", f"penalty.gp={TO_ZERO}"),
    override("half_precision", "train.precision=float16", "did you mean"),
    # Settings that a run finds by itself
    override("auto_with_a_rate", "optim.lr_d=0.001", "leave it out", "optim.auto=true"),
    override("auto_with_a_schedule", f"optim.lr_g={FALLING}", "use optim.auto = false", "optim.auto=true"),
    override("auto_with_gamma", "penalty.r2=1.0", "leave it out", "penalty.auto=true"),
    override("auto_with_gp", "penalty.gp=10.0", "or use penalty.auto = false", "penalty.auto=true"),
    override("auto_without_a_scale", "penalty.auto=true", "loss.name = non_saturating or", "loss.name=wasserstein"),
    override("auto_compiled", "train.compile=true", "penalty.r1_mode = finite_difference", "penalty.auto=true"),
    override("auto_is_no_number", "penalty.auto=1", "true or false"),
    # Schedules
    Bad("colon", "optim.lr_g.start:1e-4", "null", "write a space", overrides=("optim.lr_g={start:1e-4, end:1e-5}",)),
    override("schedule_without_braces", "optim.lr_g=start:1e-4", "write {start: 2e-4, end: 1e-5"),
    override("schedule_without_start", "optim.lr_g={'end': 1, 'over': 9}", "write {start: 2e-4"),
    override("schedule_without_over", "optim.lr_g={'start': 1, 'end': 1}", "a single number"),
    override("empty_schedule", "optim.lr_g={}", "write {start: 2e-4"),
    file_text("schedule_backwards", "optim.lr_g.over", "-5", "greater than or equal to 1", RATE.format("over: -5")),
    file_text("schedule_before_the_run", "optim.lr_g.begin", "-1", "equal to 0", RATE.format("over: 5, begin: -1")),
    file_text("schedule_misspelt", "optim.lr_g.ovr", "5", "did you mean 'over'", RATE.format("over: 5, ovr: 5")),
    file_text("curve_misspelt", "optim.lr_g.curve", "cosin", "mean 'cosine'", RATE.format("over: 5, curve: cosin")),
    override("schedule_to_a_rate_of_zero", f"optim.lr_g={TO_ZERO}", "greater than 0"),
    override("exponential_to_zero", f"penalty.r1={EXPONENTIAL}", "above 0 at both ends"),
    override("beta2_of_one", f"optim.beta2={TO_ZERO}", "at most 0.999999"),
    override("schedule_of_what_has_none", f"optim.eps={TO_ZERO}", NUMBER),
    override("infinite_schedule", "optim.lr_g.start=.inf", "give a finite number", value="inf"),
    override("key_named_as_a_tag", "optim.schedule=cosine", "use one of: alpha_d, alpha_g, auto"),
    override("key_named_as_another_tag", "model.generator.number=1", "did you mean 'name'"),
    override("schedule_of_a_text", "optim.lr_g.end=small", NUMBER, "optim.lr_g.start=1", "optim.lr_g.over=5"),
]
