"""Configurations that must be refused, one table for the loader's test and the command line's.

Each entry names the key that the message must show, the value as it must show it, and words of the remedy. The settings
come from a YAML text, from overrides, or, for broken files, from `file`, which makes one below a folder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bad:
    """One configuration that must be refused.

    Attributes:
        name: of the test.
        key: that the message names; "config" for the file itself.
        value: that the message shows; "" for the path.
        remedy: words that the message must hold after "remedy:".
        yaml: text of the config file; None for none.
        overrides: `section.key=value` arguments.
        file: makes the config file below a folder and returns its path.
    """

    name: str
    key: str
    value: str
    remedy: str
    yaml: str | None = None
    overrides: tuple[str, ...] = ()
    file: Callable[[Path], Path] | None = None

    def arguments(self, folder: Path) -> tuple[Path | None, tuple[str, ...]]:
        """The path of the config file, written below `folder`, and the overrides."""
        if self.file is not None:
            return self.file(folder), self.overrides
        if self.yaml is None:
            return None, self.overrides
        path = folder / "bad.yaml"
        path.write_text(self.yaml, encoding="utf-8")
        return path, self.overrides


def _bytes(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "bad.yaml"
        path.write_bytes(content)
        return path

    return make


def _override(name: str, setting: str, remedy: str, *more: str, value: str | None = None) -> Bad:
    key, _, text = setting.partition("=")
    return Bad(name, key, text if value is None else value, remedy, overrides=(*more, setting))


def _text(name: str, key: str, value: str, remedy: str, yaml: str) -> Bad:
    return Bad(name, key, value, remedy, yaml=yaml)


NUMBER, WHOLE, FINITE = "give a number", "give a whole number", "give a finite number"
MODEL = "model.generator.name=dcgan"
SMALLEST = ("model.discriminator.name=resnet", "model.discriminator.smallest=14")
CONDITIONAL_G, CONDITIONAL_D = "model.generator.conditioning=concat", "model.discriminator.conditioning=acgan"

BAD = [
    # Files
    Bad("missing", "config", "", "give the path of a YAML file", file=lambda folder: folder / "none.yaml"),
    Bad("directory", "config", "", "give a readable YAML file", file=lambda folder: folder),
    Bad("below_a_file", "config", "", "readable YAML file", file=lambda f: _bytes(b"")(f) / "x.yaml"),
    Bad("name_too_long", "config", "", "give a readable YAML file", file=lambda folder: folder / ("x" * 300)),
    Bad("binary", "config", "", "give a readable YAML file", file=_bytes(b"\x89PNG\r\n\x1a\n\x00\xff\xfe")),
    Bad("nul", "config", "", "mend the YAML syntax", file=_bytes(b"train:\n  images: \x001\n")),
    _text("list", "config", "", "write sections", "- train\n- optim\n"),
    _text("plain_text", "config", "", "write sections", "hello\n"),
    _text("number", "config", "", "write sections", "3\n"),
    # Syntax
    _text("unclosed", "config", "", "mend the YAML syntax", "train: {images: 1\n"),
    _text("tab", "config", "", "mend the YAML syntax", "train:\n\timages: 1\n"),
    _text("indentation", "config", "", "mend the YAML syntax", "train:\n  images: 1\n batch_size: 2\n"),
    _text("two_documents", "config", "", "mend the YAML syntax", "train: {images: 1}\n---\ntrain: {images: 2}\n"),
    _text("duplicate_key", "config", "", "mend the YAML syntax", "train:\n  images: 1\n  images: 2\n"),
    _text("duplicate_section", "config", "", "mend the YAML syntax", "train: {images: 1}\ntrain: {batch_size: 2}\n"),
    _text("python_object", "config", "", "mend the YAML syntax", "run: {name: !!python/name:os.system }\n"),
    _text("holds_itself", "train.images", "{'images': {...}}", WHOLE, "train: &a\n  images: *a\n"),
    _text("nested_too_deeply", "config", "", "mend the YAML syntax", "[" * 10_000),
    _text("unknown_anchor", "config", "", "mend the YAML syntax", "train: *nothing\n"),
    _text("list_as_key", "config", "", "mend the YAML syntax", "? [train]\n: 1\n"),
    _override("override_syntax", "optim.lr_g=[0.1", "mend the YAML syntax"),
    # Keys
    _override("key_misspelt", "optim.lr_gen=0.1", "did you mean 'lr_g'"),
    _text("key_misspelt_in_file", "train.batchsize", "2", "did you mean 'batch_size'", "train:\n  batchsize: 2\n"),
    _text("section_misspelt", "optimizer", "{'lr_g': 0.1}", "did you mean 'optim'", "optimizer: {lr_g: 0.1}\n"),
    _text("key_without_section", "batch_size", "2", "did you mean 'train.batch_size'", "batch_size: 2\n"),
    _override("key_of_another_section", "loss.lr_g=0.1", "did you mean 'optim.lr_g'"),
    _override("key_of_no_section", "train.zzz=1", "use one of: accumulation, batch_size"),
    _override("key_of_another_architecture", "model.generator.max_width=8", "did you mean 'width'"),
    _override("architecture_key_misspelt", "model.generator.widht=8", "did you mean 'width'", MODEL),
    _text("key_is_a_number", "7", "1", "use one of", "7: 1\n"),
    _text("key_is_a_number_below", "train.7", "1", "use one of", "train: {7: 1}\n"),
    Bad("no_equals", "argument", "optim.lr_g", "section.key=value", overrides=("optim.lr_g",)),
    Bad("option", "argument", "--lr", "section.key=value", overrides=("--lr",)),
    Bad("no_section", "lr_g", "1", "section.key=value", overrides=("lr_g=1",)),
    Bad("no_key", "argument", "=1", "section.key=value", overrides=("=1",)),
    _override("empty_part", "train..images=1", "section.key=value"),
    _override("empty_end", "train.=1", "section.key=value"),
    _override("below_a_value", "optim.lr_g.x=1", "check the key", "optim.lr_g=0.1"),
    # Types
    _override("text_for_number", "optim.lr_g=fast", NUMBER),
    _override("no_for_number", "optim.lr_g=no", NUMBER),
    _override("true_for_number", "optim.lr_g=true", NUMBER),
    _override("nothing_for_number", "optim.lr_g=", NUMBER, value="null"),
    _override("list_for_number", "optim.lr_g=[1]", NUMBER),
    _override("comma_for_point", "optim.lr_g=0,1", NUMBER),
    _override("nan", "optim.lr_g=.nan", FINITE, value="nan"),
    _override("infinite", "ema.half_life=.inf", FINITE, value="inf"),
    _override("overflow", "ema.half_life=1e400", FINITE, value="inf"),
    _override("fraction_for_count", "train.images=1.5", WHOLE),
    _override("true_for_count", "train.images=true", WHOLE),
    _override("nan_for_count", "train.images=.nan", WHOLE, value="nan"),
    _override("infinite_count", "train.images=.inf", WHOLE, value="inf"),
    _override("sexagesimal", "train.images=1:30", WHOLE),
    _override("octal", "train.batch_size=0o17", WHOLE),
    _override("hexadecimal", "train.batch_size=0x10", WHOLE),
    _override("unit", "train.images=60k", WHOLE),
    _override("quoted_number", "train.images='5'", WHOLE, value="5"),
    _override("yes_for_truth", "train.reuse_fakes=yes", "write true or false"),
    _override("on_for_truth", "train.deterministic=on", "write true or false"),
    _override("number_for_truth", "train.deterministic=1", "write true or false"),
    _override("number_for_text", "run.name=2024", "quote it"),
    _override("nothing_for_text", "run.dir=", "give a text", value="null"),
    _override("truth_for_text", "wandb.group=true", "quote it"),
    _override("text_for_tags", "wandb.tags=one", "give a list"),
    _override("number_for_pair", "optim.betas_g=0.5", "give a list"),
    _override("text_for_section", "train=fast", "section.key=value"),
    _text("list_for_section", "train", "[1]", "key: value lines", "train: [1]\n"),
    _text("nothing_for_section", "train", "null", "key: value lines", "train:\n"),
    _text("text_for_architecture", "model.generator", "dcgan", "key: value lines", "model: {generator: dcgan}\n"),
    _text("text_for_model", "model", "dcgan", "key: value lines", "model: dcgan\n"),
    # Ranges and choices
    _override("negative_rate", "optim.lr_g=-1e-4", "greater than 0", value="-0.0001"),
    _override("zero_rate", "optim.lr_d=0", "greater than 0"),
    _override("huge_rate", "optim.lr_d=100", "at most 10"),
    Bad("beta_of_one", "optim.betas_d.1", "1.0", "less than 1", overrides=("optim.betas_d=[0.5, 1.0]",)),
    _override("one_beta", "optim.betas_d=[0.5]", "give both"),
    _override("three_betas", "optim.betas_d=[0.5, 0.9, 0.99]", "give both"),
    _override("no_images", "train.images=0", "greater than or equal to 1"),
    _override("negative_batch", "train.batch_size=-4", "greater than or equal to 1"),
    _override("no_d_steps", "optim.d_steps=0", "greater than or equal to 1"),
    _override("negative_seed", "run.seed=-1", "greater than or equal to 0"),
    _override("seed_too_large", f"run.seed={2**63}", "less than"),
    _override("smoothing_of_one", "loss.label_smoothing=1", "less than 0.5"),
    _override("unknown_loss", "loss.name=non_saturated", "did you mean 'non_saturating'"),
    _override("unknown_data", "data.name=imagenet", "use one of: cifar10, folder, grid, mnist, ring, stacked_mnist"),
    _override("unknown_activation", "model.generator.activation=rellu", "did you mean 'relu'"),
    _override("unknown_architecture", "model.generator.name=dcgna", "did you mean 'dcgan'"),
    _override("architecture_is_nothing", "model.generator.name=", "dcgan, mlp, r3gan, resnet", value="null"),
    _override("run_name_is_a_path", "run.name=../x", "use letters, digits"),
    _override("run_name_with_newline", 'run.name="x\\n"', "use letters, digits", value="'x\\n'"),
    _override("empty_folder", "run.dir=''", "at least one character", value="''"),
    _override("no_workers", "cluster.num_workers=0", "a whole number from 1 to 65536, or auto"),
    _override("half_a_worker", "cluster.num_workers=1.5", "a whole number from 1 to 65536, or auto"),
    _override("many_for_workers", "cluster.num_workers=many", "a whole number from 1 to 65536, or auto"),
    # Combinations
    _override("batch_below_workers", "train.batch_size=2", "train.batch_size >= 4", "cluster.num_workers=4"),
    _override(
        "batch_below_workers_times_accumulation",
        "train.batch_size=15",
        "train.batch_size >= 16",
        "cluster.num_workers=4",
        "train.accumulation=4",
    ),
    _override("accumulation_above_batch", "train.accumulation=9", "at most 8", "train.batch_size=8"),
    _override("dcgan_resolution", "data.resolution=30", "28 or a power of two from 16", MODEL),
    _override("dcgan_resolution_small", "data.resolution=8", "28 or a power of two from 16", MODEL),
    _override("dcgan_on_points", MODEL, "use mlp", "data.name=ring"),
    _override("resnet_on_points", "model.discriminator.name=resnet", "use mlp", "data.name=ring"),
    _override("attention_without_map", "model.generator.attention=28", "use one of 0, 7, 14", MODEL),
    _override("attention_below_smallest", "model.discriminator.attention=7", "use one of 0, 14", *SMALLEST),
    _override("no_smallest_map", "model.discriminator.smallest=28", "use one of 0, 7, 14", SMALLEST[0]),
    _override("r3gan_groups", "model.generator.group_size=48", "multiples of it", "model.generator.name=r3gan"),
    _override("instance_norm_of_units", "model.discriminator.norm=instance", "use layer, group"),
    _override("nothing_to_condition", "model.generator.conditioning=norm", "use concat, or set", CONDITIONAL_D),
    _override("only_d_conditional", "model.generator.conditioning=none", "set it to concat", CONDITIONAL_D),
    _override("only_g_conditional", "model.discriminator.conditioning=none", "set it to projection", CONDITIONAL_G),
    _override("local_batch_norm", "model.generator.norm=local_batch", "norm: batch", "cluster.num_workers=2"),
    _override("wandb_without_project", "wandb.project=' '", "name one", "wandb.mode=online", value="' '"),
]
