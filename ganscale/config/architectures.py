"""The settings of every architecture: a generator's and a discriminator's section each."""

from typing import Literal

from pydantic import Field

from ganscale.config.section import Count, Section

Activation = Literal["relu", "leaky_relu", "tanh", "sigmoid", "softplus", "gelu", "silu", "elu", "selu", "identity"]
AttentionForm = Literal["full", "pooled"]
Norm = Literal["none", "batch", "local_batch", "group", "layer", "instance", "pixel"]
Concat = Literal["none", "concat"]
ConditioningG = Literal["none", "concat", "norm"]
ConditioningD = Literal["none", "projection", "acgan", "reacgan"]

_NORM = "Normalization of the hidden layers; batch runs over the images of all workers."
_SPECTRAL = "Divide each weight by its largest singular value (Miyato et al. 2018)."
_STDDEV = "Show D the spread of the whole micro-batch as one more channel (Karras et al. 2018)."
_CONDITIONING_G = "How G learns the class: concat joins an embedding to z, norm gives each class its scales and shifts."
_CONCAT = "How G learns the class: concat joins an embedding to z."
_CONDITIONING_D = (
    "How D learns the class: projection (Miyato and Koyama 2018), acgan (Odena et al. 2017), or reacgan "
    "(Kang et al. 2021)."
)
_CLASS_DIM = "Length of the class embedding of conditioning: concat."
_CLASS_DIM_D = "Length of the class embedding of conditioning: {}; 0: as many as D's features."
_CLASS_DIM_RE = _CLASS_DIM_D.format("reacgan")
_ATTENTION_FORM = (
    "Form of self-attention: full as in the paper of Zhang et al. 2019, or pooled as in its code and in BigGAN, with "
    "values of half the channels, and keys and values at half the side."
)
_CHANNEL_BASE = "Channels of a map times its longer side, where that is below channel_max."
_MAPPING = "Layers of the mapping network."
_MAPPING_RATE = "Multiplier of the mapping network's learning rate."
_ATTENTION = "Height of the feature map that self-attention is put on (Zhang et al. 2019); 0 for none."
_CHANNELS = "Channels of a token, a multiple of 4 * heads."
_HEADS = "Attention heads."
_PATCH = "Side in pixels of the square patches that become tokens; it divides the sides of the image."
_MLP_RATIO = "Times that the SwiGLU layers are wider inside, before the factor of 2/3 that keeps their weights' number."


class MLPGenerator(Section):
    """Fully connected generator; the default is 100-128-256-784."""

    name: Literal["mlp"] = Field(default="mlp", description="Architecture.")
    width: Count = Field(default=128, ge=1, description="Units of the first hidden layer.")
    depth: Count = Field(default=2, ge=1, le=64, description="Number of hidden layers.")
    growth: float = Field(
        default=2.0, gt=0, le=8, description="Each hidden layer is this many times as wide as the one before."
    )
    activation: Activation = Field(default="relu", description="Activation of the hidden layers.")
    norm: Norm = Field(default="none", description=_NORM)
    spectral_norm: bool = Field(default=False, description=_SPECTRAL)
    conditioning: ConditioningG = Field(default="none", description=_CONDITIONING_G)
    class_dim: Count = Field(default=64, ge=1, description=_CLASS_DIM)


class MLPDiscriminator(Section):
    """Fully connected discriminator, widest first; the default is 784-256-128-1."""

    name: Literal["mlp"] = Field(default="mlp", description="Architecture.")
    width: Count = Field(default=128, ge=1, description="Units of the last hidden layer.")
    depth: Count = Field(default=2, ge=1, le=64, description="Number of hidden layers.")
    growth: float = Field(
        default=2.0, gt=0, le=8, description="Each hidden layer is this many times as wide as the one after."
    )
    activation: Activation = Field(default="leaky_relu", description="Activation of the hidden layers.")
    norm: Norm = Field(default="none", description=_NORM)
    spectral_norm: bool = Field(default=False, description=_SPECTRAL)
    minibatch_stddev: bool = Field(default=False, description=_STDDEV)
    conditioning: ConditioningD = Field(default="none", description=_CONDITIONING_D)
    class_dim: Count = Field(default=0, ge=0, description=_CLASS_DIM_RE)


class DCGANGenerator(Section):
    """Transposed convolutions (Radford et al. 2016)."""

    name: Literal["dcgan"] = Field(default="dcgan", description="Architecture.")
    width: Count = Field(
        default=64, ge=1, description="Channels before the last layer; each earlier level doubles them."
    )
    max_width: Count = Field(default=512, ge=1, description="Upper bound of the channels of a level.")
    activation: Activation = Field(default="relu", description="Activation of the hidden layers.")
    norm: Norm = Field(default="batch", description=_NORM)
    spectral_norm: bool = Field(default=False, description=_SPECTRAL)
    attention: Count = Field(default=0, ge=0, description=_ATTENTION)
    conditioning: ConditioningG = Field(default="none", description=_CONDITIONING_G)
    class_dim: Count = Field(default=64, ge=1, description=_CLASS_DIM)


class DCGANDiscriminator(Section):
    """Strided convolutions (Radford et al. 2016)."""

    name: Literal["dcgan"] = Field(default="dcgan", description="Architecture.")
    width: Count = Field(default=64, ge=1, description="Channels after the first layer; each later level doubles them.")
    max_width: Count = Field(default=512, ge=1, description="Upper bound of the channels of a level.")
    activation: Activation = Field(default="leaky_relu", description="Activation of the hidden layers.")
    norm: Norm = Field(default="batch", description="Normalization of all hidden layers but the first.")
    spectral_norm: bool = Field(default=False, description=_SPECTRAL)
    attention: Count = Field(default=0, ge=0, description=_ATTENTION)
    minibatch_stddev: bool = Field(default=False, description=_STDDEV)
    conditioning: ConditioningD = Field(default="none", description=_CONDITIONING_D)
    class_dim: Count = Field(default=0, ge=0, description=_CLASS_DIM_RE)


class ResNetGenerator(Section):
    """Residual blocks (Gulrajani et al. 2017, Miyato et al. 2018); width = max_width = 256 is SNGAN's for CIFAR-10."""

    name: Literal["resnet"] = Field(default="resnet", description="Architecture.")
    width: Count = Field(default=64, ge=1, description="Channels of the largest map; each earlier level doubles them.")
    max_width: Count = Field(default=512, ge=1, description="Upper bound of the channels of a level.")
    depth: Count = Field(default=1, ge=1, le=64, description="Residual blocks per resolution.")
    activation: Activation = Field(default="relu", description="Activation of the hidden layers.")
    norm: Norm = Field(default="batch", description=_NORM)
    spectral_norm: bool = Field(default=False, description=_SPECTRAL)
    attention: Count = Field(default=0, ge=0, description=_ATTENTION)
    attention_form: AttentionForm = Field(default="full", description=_ATTENTION_FORM)
    conditioning: ConditioningG = Field(default="none", description=_CONDITIONING_G)
    class_dim: Count = Field(default=64, ge=1, description=_CLASS_DIM)
    conditional_output: bool = Field(
        default=True,
        description="Whether conditioning: norm covers the norm before the last convolution; in SAGAN it does not.",
    )


class ResNetDiscriminator(Section):
    """Residual blocks; width = max_width = 128, smallest = 8, final_blocks = 2 is SNGAN's for CIFAR-10."""

    name: Literal["resnet"] = Field(default="resnet", description="Architecture.")
    width: Count = Field(default=64, ge=1, description="Channels after the first block; each later level doubles them.")
    max_width: Count = Field(default=512, ge=1, description="Upper bound of the channels of a level.")
    depth: Count = Field(default=1, ge=1, le=64, description="Residual blocks per resolution.")
    smallest: Count = Field(
        default=0, ge=0, description="Height of the map at which D stops halving; 0: at the least there is (4 to 7)."
    )
    final_blocks: Count = Field(default=1, ge=0, le=64, description="Residual blocks added on the smallest map.")
    pooling: Literal["sum", "mean", "flatten"] = Field(
        default="sum", description="How the last map becomes features: its sum (SNGAN), its mean, or all of it."
    )
    activation: Activation = Field(default="relu", description="Activation of the hidden layers.")
    norm: Norm = Field(default="none", description=_NORM)
    spectral_norm: bool = Field(default=False, description=_SPECTRAL)
    attention: Count = Field(default=0, ge=0, description=_ATTENTION)
    attention_form: AttentionForm = Field(default="full", description=_ATTENTION_FORM)
    minibatch_stddev: bool = Field(default=False, description=_STDDEV)
    conditioning: ConditioningD = Field(default="none", description=_CONDITIONING_D)
    class_dim: Count = Field(default=0, ge=0, description=_CLASS_DIM_RE)


class BigGANGenerator(Section):
    """BigGAN's generator (Brock et al. 2019); width = 96 with latent_dim = 120 is the paper's at 128 pixels."""

    name: Literal["biggan"] = Field(default="biggan", description="Architecture.")
    width: Count = Field(
        default=64,
        ge=1,
        description="Channels that the paper's tables multiply: by 4 below 64 pixels, else by 16 to 1.",
    )
    hierarchical: bool = Field(
        default=True,
        description="Split z: a part for the first layer, and one for the norms of each block, beside the class.",
    )
    activation: Activation = Field(default="relu", description="Activation of the hidden layers.")
    norm: Norm = Field(default="batch", description=_NORM)
    spectral_norm: bool = Field(default=True, description=_SPECTRAL)
    attention: Count = Field(default=0, ge=0, description=_ATTENTION)
    attention_form: AttentionForm = Field(default="pooled", description=_ATTENTION_FORM)
    conditioning: Concat = Field(
        default="none",
        description="How G learns the class: concat joins one embedding to each block's part of z, from which the "
        "scales and shifts of its norms are made.",
    )
    class_dim: Count = Field(default=128, ge=1, description=_CLASS_DIM)


class BigGANDiscriminator(Section):
    """BigGAN's discriminator (Brock et al. 2019): wide residual blocks; width = 96 is the paper's at 128 pixels."""

    name: Literal["biggan"] = Field(default="biggan", description="Architecture.")
    width: Count = Field(
        default=64,
        ge=1,
        description="Channels that the paper's tables multiply: by 4 below 64 pixels, else by 1 to 16.",
    )
    pooling: Literal["sum", "mean", "flatten"] = Field(
        default="sum", description="How the last map becomes features: its sum (the paper's), its mean, or all of it."
    )
    activation: Activation = Field(default="relu", description="Activation of the hidden layers.")
    norm: Norm = Field(default="none", description=_NORM)
    spectral_norm: bool = Field(default=True, description=_SPECTRAL)
    attention: Count = Field(default=0, ge=0, description=_ATTENTION)
    attention_form: AttentionForm = Field(default="pooled", description=_ATTENTION_FORM)
    minibatch_stddev: bool = Field(default=False, description=_STDDEV)
    conditioning: ConditioningD = Field(default="none", description=_CONDITIONING_D)
    class_dim: Count = Field(default=0, ge=0, description=_CLASS_DIM_RE)


class R3GANGenerator(Section):
    """Norm-free grouped residual blocks (Huang et al. 2024); width = max_width = 768 is the paper's CIFAR-10 net."""

    name: Literal["r3gan"] = Field(default="r3gan", description="Architecture.")
    width: Count = Field(default=32, ge=1, description="Channels of the largest map; each earlier level doubles them.")
    max_width: Count = Field(default=128, ge=1, description="Upper bound of the channels of a level.")
    depth: Count = Field(default=2, ge=1, le=64, description="Residual blocks per resolution.")
    expansion: Count = Field(default=2, ge=1, le=16, description="Times that a block is wider inside than outside.")
    group_size: Count = Field(default=16, ge=1, description="Channels that each group of the 3x3 convolution mixes.")
    activation: Activation = Field(default="leaky_relu", description="Activation of the hidden layers.")
    attention: Count = Field(default=0, ge=0, description=_ATTENTION)
    output: Literal["identity", "tanh"] = Field(
        default="identity", description="Last activation; the paper has none, so that pixels may leave [-1, 1]."
    )
    conditioning: Concat = Field(default="none", description=_CONCAT)
    class_dim: Count = Field(default=64, ge=1, description=_CLASS_DIM)


class R3GANDiscriminator(Section):
    """The generator's mirror image (Huang et al. 2024); width = max_width = 768 is the paper's CIFAR-10 net."""

    name: Literal["r3gan"] = Field(default="r3gan", description="Architecture.")
    width: Count = Field(default=32, ge=1, description="Channels of the largest map; each later level doubles them.")
    max_width: Count = Field(default=128, ge=1, description="Upper bound of the channels of a level.")
    depth: Count = Field(default=2, ge=1, le=64, description="Residual blocks per resolution.")
    expansion: Count = Field(default=2, ge=1, le=16, description="Times that a block is wider inside than outside.")
    group_size: Count = Field(default=16, ge=1, description="Channels that each group of the 3x3 convolution mixes.")
    activation: Activation = Field(default="leaky_relu", description="Activation of the hidden layers.")
    attention: Count = Field(default=0, ge=0, description=_ATTENTION)
    minibatch_stddev: bool = Field(default=False, description=_STDDEV)
    conditioning: ConditioningD | Literal["bilinear"] = Field(
        default="none",
        description=f"{_CONDITIONING_D[:-1]}, or the paper's own head (bilinear), <W h, e(y)> without another logit.",
    )
    class_dim: Count = Field(default=0, ge=0, description=_CLASS_DIM_D.format("bilinear or reacgan"))


class TransformerGenerator(Section):
    """Plain transformer blocks on patches, modulated by z (GAT, Hyun et al. 2025); 384, 12, 6, 2 is GAT-S/2."""

    name: Literal["transformer"] = Field(default="transformer", description="Architecture.")
    width: Count = Field(default=192, ge=4, description=_CHANNELS)
    depth: Count = Field(default=8, ge=1, le=128, description="Transformer blocks, a multiple of `levels`.")
    heads: Count = Field(default=3, ge=1, description=_HEADS)
    patch: Count = Field(default=4, ge=1, description=_PATCH)
    mlp_ratio: float = Field(default=4.0, gt=0, le=16, description=_MLP_RATIO)
    levels: Count = Field(
        default=4, ge=1, description="Groups of blocks, each of which adds an image; the sum is G's. GAT: 4."
    )
    conditioning: Concat = Field(default="none", description=_CONCAT)
    class_dim: Count = Field(default=64, ge=1, description=_CLASS_DIM)


class TransformerDiscriminator(Section):
    """Plain transformer blocks on patches and a class token, which the head reads (GAT, Hyun et al. 2025)."""

    name: Literal["transformer"] = Field(default="transformer", description="Architecture.")
    width: Count = Field(default=192, ge=4, description=_CHANNELS)
    depth: Count = Field(default=8, ge=1, le=128, description="Transformer blocks.")
    heads: Count = Field(default=3, ge=1, description=_HEADS)
    patch: Count = Field(default=4, ge=1, description=_PATCH)
    mlp_ratio: float = Field(default=4.0, gt=0, le=16, description=_MLP_RATIO)
    conditioning: Literal["none", "projection", "acgan"] = Field(
        default="none",
        description="How D learns the class: projection (GAT's head: the class token times the class embedding and "
        "nothing else) or acgan (Odena et al. 2017).",
    )
    head_width: Count = Field(
        default=2048, ge=1, description="Length of D's class embedding of conditioning: projection."
    )


class StyleGAN2Generator(Section):
    """Styles that modulate convolutions (Karras et al. 2020); channel_base 16384 is ADA's for 256 pixels and less."""

    name: Literal["stylegan2"] = Field(default="stylegan2", description="Architecture.")
    channel_base: Count = Field(default=32_768, ge=1, description=_CHANNEL_BASE)
    channel_max: Count = Field(default=512, ge=1, description="Upper bound of the channels of a map.")
    w_dim: Count = Field(default=512, ge=1, description="Length of w, the mapping network's output, and its width.")
    mapping_layers: Count = Field(default=8, ge=1, le=64, description=_MAPPING)
    mapping_rate: float = Field(default=0.01, gt=0.0, le=1.0, description=_MAPPING_RATE)
    style_mixing: float = Field(
        default=0.9, ge=0.0, le=1.0, description="Share of images in training whose later layers have another w."
    )
    noise: Literal["random", "const", "none"] = Field(
        default="random",
        description="Noise added to each layer, with a learned strength: random in training and constant in samples, "
        "constant always, or none.",
    )
    conditioning: Concat = Field(default="none", description=_CONCAT)
    class_dim: Count = Field(default=512, ge=1, description=_CLASS_DIM)


class StyleGAN2Discriminator(Section):
    """Residual blocks (Karras et al. 2020); channel_base 16384 is ADA's for 256 pixels and less."""

    name: Literal["stylegan2"] = Field(default="stylegan2", description="Architecture.")
    channel_base: Count = Field(default=32_768, ge=1, description=_CHANNEL_BASE)
    channel_max: Count = Field(default=512, ge=1, description="Upper bound of the channels of a map.")
    stddev_group: Count = Field(
        default=4,
        ge=0,
        description="Images whose spread D sees as one more channel: rows i, i + M, ... of the micro-batch of all "
        "workers, M = rows // stddev_group; 0: no such channel.",
    )
    conditioning: Literal["none", "projection", "acgan"] = Field(
        default="none",
        description="How D learns the class: projection on a mapping network of the class (ADA, Karras et al. 2020), "
        "or acgan (Odena et al. 2017).",
    )
    mapping_layers: Count = Field(default=8, ge=1, le=64, description=_MAPPING)
    mapping_rate: float = Field(default=0.01, gt=0.0, le=1.0, description=_MAPPING_RATE)
