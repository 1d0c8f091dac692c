"""Configurations that must be refused, one table for the loader's test and the command line's.

Each entry names the key that the message must show, the value as it must show it, and words of the remedy. The settings
come from a YAML text, from overrides, or, for broken files, from `file`, which makes one below a folder.
"""

from itertools import pairwise
from pathlib import Path

from tests.config.bad_objective import OBJECTIVE
from tests.config.case import FINITE, NUMBER, WHOLE, Bad, file_bytes, file_text, override

FOLDER = ("data.name=folder", "data.path=x")
MODEL = "model.generator.name=dcgan"
SMALLEST = ("model.discriminator.name=resnet", "model.discriminator.smallest=14")
CONDITIONAL_G, CONDITIONAL_D = "model.generator.conditioning=concat", "model.discriminator.conditioning=acgan"
PIXELS = "eval.extractor=pixels"

NINES = f"{'9' * 27}...{'9' * 50}"  # a long value keeps its ends
BOMB = "a: &a [1, 1]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghijk"))
"""Ten levels of aliases, for twenty million values."""

BAD = [
    # Files
    Bad("missing", "config", "", "give the path of a YAML file", file=lambda folder: folder / "none.yaml"),
    Bad("directory", "config", "", "give a readable YAML file", file=lambda folder: folder),
    Bad("below_a_file", "config", "", "readable YAML file", file=lambda f: file_bytes(b"")(f) / "x.yaml"),
    Bad("name_too_long", "config", "", "give a readable YAML file", file=lambda folder: folder / ("x" * 300)),
    Bad("binary", "config", "", "give a readable YAML file", file=file_bytes(b"\x89PNG\r\n\x1a\n\x00\xff\xfe")),
    Bad("nul", "config", "", "fix the YAML syntax", file=file_bytes(b"train:\n  images: \x001\n")),
    file_text("list", "config", "", "write sections", "- train\n- optim\n"),
    file_text("plain_text", "config", "", "write sections", "hello\n"),
    file_text("number", "config", "", "write sections", "3\n"),
    # Syntax
    file_text("unclosed", "config", "", "fix the YAML syntax", "train: {images: 1\n"),
    file_text("tab", "config", "", "fix the YAML syntax", "train:\n\timages: 1\n"),
    file_text("indentation", "config", "", "fix the YAML syntax", "train:\n  images: 1\n batch_size: 2\n"),
    file_text("two_documents", "config", "", "fix the YAML syntax", "train: {images: 1}\n---\ntrain: {images: 2}\n"),
    file_text("duplicate_key", "config", "", "fix the YAML syntax", "train:\n  images: 1\n  images: 2\n"),
    file_text("duplicate_section", "config", "", "fix the YAML syntax", "train: {images: 1}\ntrain: {batch_size: 2}\n"),
    file_text("python_object", "config", "", "fix the YAML syntax", "run: {name: !!python/name:os.system }\n"),
    file_text("holds_itself", "train.images", "{'images': {...}}", WHOLE, "train: &a\n  images: *a\n"),
    file_text("nested_too_deeply", "config", "", "fix the YAML syntax", "[" * 10_000),
    file_text("unknown_anchor", "config", "", "fix the YAML syntax", "train: *nothing\n"),
    file_text("list_as_key", "config", "", "fix the YAML syntax", "? [train]\n: 1\n"),
    file_text("wrong_tag", "config", "", "fix the YAML syntax", "train: {images: !!int many}\n"),
    file_text("aliases_that_grow", "config", "", "fix the YAML syntax", BOMB),
    Bad("endless", "config", "", "give a file of at most", file=lambda _: Path("/dev/zero")),
    Bad(
        "deep_key",
        "argument",
        f"a{'.a' * 13}...{'.a' * 24}=1",
        "section.key=value",
        overrides=("a" + ".a" * 5000 + "=1",),
    ),
    file_text("digits_in_file", "train.images", NINES, WHOLE, f"train:\n  images: {'9' * 5000}\n"),
    override("digits", "train.images=" + "9" * 5000, WHOLE, value=NINES),
    override("digits_for_number", "optim.lr_g=" + "9" * 400, NUMBER, value=NINES),
    override("float_of_many_digits", "train.images=1e300", WHOLE, value="1e+300"),
    file_text("sweep_file", "config", "", "ganscale.tune", "space: {optim.lr_g: {choice: [1e-3]}}\n"),
    override("override_syntax", "optim.lr_g=[0.1", "fix the YAML syntax"),
    # Keys
    override("key_misspelt", "optim.lr_gen=0.1", "did you mean 'lr_g'"),
    file_text("key_misspelt_in_file", "train.batchsize", "2", "did you mean 'batch_size'", "train:\n  batchsize: 2\n"),
    file_text("section_misspelt", "optimizer", "{'lr_g': 0.1}", "did you mean 'optim'", "optimizer: {lr_g: 0.1}\n"),
    file_text("key_without_section", "batch_size", "2", "did you mean 'train.batch_size'", "batch_size: 2\n"),
    override("key_of_another_section", "loss.lr_g=0.1", "did you mean 'optim.lr_g'"),
    override("key_of_no_section", "train.zzz=1", "use one of: accumulation, batch_size"),
    override("key_of_another_architecture", "model.generator.max_width=8", "did you mean 'width'"),
    override("architecture_key_misspelt", "model.generator.widht=8", "did you mean 'width'", MODEL),
    file_text("key_is_a_number", "7", "1", "use one of", "7: 1\n"),
    file_text("key_is_a_number_below", "train.7", "1", "use one of", "train: {7: 1}\n"),
    Bad("no_equals", "argument", "optim.lr_g", "section.key=value", overrides=("optim.lr_g",)),
    Bad("option", "argument", "--lr", "section.key=value", overrides=("--lr",)),
    Bad("no_section", "lr_g", "1", "section.key=value", overrides=("lr_g=1",)),
    Bad("no_key", "argument", "=1", "section.key=value", overrides=("=1",)),
    override("empty_part", "train..images=1", "section.key=value"),
    override("empty_end", "train.=1", "section.key=value"),
    override("below_a_value", "optim.lr_g.x=1", "check the key", "optim.lr_g=0.1"),
    # Types
    override("text_for_number", "optim.lr_g=fast", NUMBER),
    override("no_for_number", "optim.lr_g=no", NUMBER),
    override("true_for_number", "optim.lr_g=true", NUMBER),
    override("nothing_for_number", "optim.lr_g=", NUMBER, value="null"),
    override("list_for_number", "optim.lr_g=[1]", NUMBER),
    override("comma_for_point", "optim.lr_g=0,1", NUMBER),
    override("nan", "optim.lr_g=.nan", FINITE, value="nan"),
    override("infinite", "ema.half_life=.inf", FINITE, value="inf"),
    override("overflow", "ema.half_life=1e400", FINITE, value="inf"),
    override("fraction_for_count", "train.images=1.5", WHOLE),
    override("true_for_count", "train.images=true", WHOLE),
    override("nan_for_count", "train.images=.nan", WHOLE, value="nan"),
    override("infinite_count", "train.images=.inf", WHOLE, value="inf"),
    override("sexagesimal", "train.images=1:30", WHOLE),
    override("octal", "train.batch_size=0o17", WHOLE),
    override("hexadecimal", "train.batch_size=0x10", WHOLE),
    override("unit", "train.images=60k", WHOLE),
    override("quoted_number", "train.images='5'", WHOLE, value="5"),
    override("yes_for_truth", "train.reuse_fakes=yes", "write true or false"),
    override("on_for_truth", "train.deterministic=on", "write true or false"),
    override("number_for_truth", "train.deterministic=1", "write true or false"),
    override("number_for_text", "run.name=2024", "quote it"),
    override("nothing_for_text", "run.dir=", "give a text", value="null"),
    override("truth_for_text", "wandb.group=true", "quote it"),
    override("text_for_tags", "wandb.tags=one", "give a list: [one]"),
    override("list_for_name", "data.name=[mnist]", "give one text, not a list: mnist", value="['mnist']"),
    override("number_for_pair", "optim.betas_g=0.5", "give a list"),
    override("text_for_section", "train=fast", "section.key=value"),
    file_text("list_for_section", "train", "[1]", "key: value lines", "train: [1]\n"),
    file_text("nothing_for_section", "train", "null", "key: value lines", "train:\n"),
    file_text("text_for_architecture", "model.generator", "dcgan", "key: value lines", "model: {generator: dcgan}\n"),
    file_text("text_for_model", "model", "dcgan", "key: value lines", "model: dcgan\n"),
    # Ranges and choices
    override("negative_rate", "optim.lr_g=-1e-4", "greater than 0", value="-0.0001"),
    override("zero_rate", "optim.lr_d=0", "greater than 0"),
    override("huge_rate", "optim.lr_d=100", "at most 10"),
    Bad("beta_of_one", "optim.betas_d.1", "1.0", "less than 1", overrides=("optim.betas_d=[0.5, 1.0]",)),
    override("one_beta", "optim.betas_d=[0.5]", "give both"),
    override("three_betas", "optim.betas_d=[0.5, 0.9, 0.99]", "give both"),
    override("no_images", "train.images=0", "greater than or equal to 1"),
    override("negative_batch", "train.batch_size=-4", "greater than or equal to 1"),
    override("no_d_steps", "optim.d_steps=0", "greater than or equal to 1"),
    override("negative_seed", "run.seed=-1", "greater than or equal to 0"),
    override("seed_too_large", f"run.seed={2**63}", "less than"),
    override("smoothing_of_one", "loss.label_smoothing=1", "less than 0.5"),
    override("unknown_loss", "loss.name=non_saturated", "did you mean 'non_saturating'"),
    override("unknown_data", "data.name=imagenet", "use one of: cifar10, folder, grid, mnist, ring, stacked_mnist"),
    override("unknown_activation", "model.generator.activation=rellu", "did you mean 'relu'"),
    override("unknown_architecture", "model.generator.name=dcgna", "did you mean 'dcgan'"),
    override(
        "architecture_is_nothing", "model.generator.name=", "dcgan, mlp, r3gan, resnet, transformer", value="null"
    ),
    override("run_name_is_a_path", "run.name=../x", "use letters, digits"),
    override("run_name_with_newline", 'run.name="x\\n"', "use letters, digits", value="'x\\n'"),
    override("empty_folder", "run.dir=''", "at least one character", value="''"),
    override("no_workers", "cluster.num_workers=0", "a whole number from 1 to 65536, [least, most], or auto"),
    override("half_a_worker", "cluster.num_workers=1.5", "a whole number from 1 to 65536, [least, most], or auto"),
    override("many_for_workers", "cluster.num_workers=many", "a whole number from 1 to 65536, [least, most], or auto"),
    # Combinations
    override("batch_below_workers", "train.batch_size=2", "train.batch_size >= 4", "cluster.num_workers=4"),
    override(
        "batch_below_workers_times_accumulation",
        "train.batch_size=15",
        "train.batch_size >= 16",
        "cluster.num_workers=4",
        "train.accumulation=4",
    ),
    override("accumulation_above_batch", "train.accumulation=9", "at most 8", "train.batch_size=8"),
    override("dcgan_resolution", "data.resolution=30", "28 or a power of two from 16", MODEL),
    override("dcgan_resolution_small", "data.resolution=8", "28 or a power of two from 16", MODEL),
    override("dcgan_wide", "data.resolution=[30, 16]", "the longer a multiple", MODEL, *FOLDER),
    override("digits_not_square", "data.resolution=[28, 32]", "name one side"),
    override("three_sides", "data.resolution=[8, 8, 8]", "or [height, width]"),
    override("a_side_too_large", "data.resolution=[8, 1025]", "or [height, width]"),
    override("no_size", "data.resolution=large", "or [height, width]"),
    override(
        "turned_not_square",
        "augment.transforms=[rotate90]",
        "leave rotate90 out",
        "data.resolution=[8, 16]",
        *FOLDER,
        value="['rotate90']",
    ),
    override("dcgan_on_points", MODEL, "use mlp", "data.name=ring"),
    override("resnet_on_points", "model.discriminator.name=resnet", "use mlp", "data.name=ring"),
    override("attention_without_map", "model.generator.attention=28", "use one of 0, 7, 14", MODEL),
    override("attention_below_smallest", "model.discriminator.attention=7", "use one of 0, 14", *SMALLEST),
    override("no_smallest_map", "model.discriminator.smallest=28", "use one of 0, 7, 14", SMALLEST[0]),
    override("r3gan_groups", "model.generator.group_size=48", "multiples of it", "model.generator.name=r3gan"),
    override("instance_norm_of_units", "model.discriminator.norm=instance", "use layer, group"),
    override("nothing_to_condition", "model.generator.conditioning=norm", "use concat, or set", CONDITIONAL_D),
    override("only_d_conditional", "model.generator.conditioning=none", "set it to concat", CONDITIONAL_D),
    override("no_parts", "train.init_parts=[]", "use some of generator"),
    override("a_part_twice", "train.init_parts=[ema, ema]", "each once", value="['ema', 'ema']"),
    override("average_alone", "train.init_parts=[ema]", "add generator", value="['ema']"),
    override("optimizers_alone", "train.init_parts=[optimizers]", "add generator or", value="['optimizers']"),
    Bad("unknown_part", "train.init_parts.0", "weights", "one of", overrides=("train.init_parts=weights",)),
    override("which_checkpoint", "train.init_checkpoint=last", "give newest, best, or a number of images"),
    override("negative_checkpoint", "train.init_checkpoint=-1", "give newest, best, or a number of images"),
    override("freeze_without_weights", "model.freeze_d=1", "set train.init_from"),
    override("freeze_too_much", "model.freeze_d=3", "use at most 2", "train.init_from=x"),
    override("only_g_conditional", "model.discriminator.conditioning=none", "set it to projection", CONDITIONAL_G),
    override(
        "only_g_of_r3gan",
        "model.discriminator.conditioning=none",
        "set it to bilinear",
        "model.generator.name=r3gan",
        "model.discriminator.name=r3gan",
        CONDITIONAL_G,
    ),
    override("local_batch_norm", "model.generator.norm=local_batch", "norm: batch", "cluster.num_workers=2"),
    override("wandb_without_project", "wandb.project=' '", "name one", "wandb.mode=online", value="' '"),
    # Metrics
    override("digits_on_a_ring", "eval.extractor=mnist", "use pixels", "data.name=ring"),
    override("inception_of_points", "eval.extractor=inception", "use pixels", "data.name=grid"),
    override(
        "classes_of_pixels", "eval.metrics=[inception_score]", "frechet, kid", PIXELS, value="['inception_score']"
    ),
    override("quality_of_digits", "eval.metrics=[high_quality]", "use some of frechet", value="['high_quality']"),
    Bad(
        "metric_misspelt", "eval.metrics.0", "frechett", "did you mean 'frechet'", overrides=("eval.metrics=frechett",)
    ),
    override("too_few_samples", "eval.num_samples=5", "at least 6", "eval.metrics=recall"),
    Bad("metric_by_its_paper", "eval.metrics.0", "fid", "did you mean 'frechet'", overrides=("eval.metrics=fid",)),
    override("best_of_nothing", "checkpoint.best_metric=fid", "use frechet"),
    override("best_of_what_is_not_computed", "checkpoint.best_metric=recall", "add it to eval.metrics"),
    override("best_without_evaluation", "checkpoint.best_metric=frechet", "set eval.every", "eval.every=0"),
    *OBJECTIVE,
]
