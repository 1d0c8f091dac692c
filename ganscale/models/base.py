"""What all generators and all discriminators have in common: how they learn the class, and D's head."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from ganscale.models.geometry import Geometry
from ganscale.models.layers import upcast


def _known_classes(settings: Any, geometry: Geometry) -> int:
    """Number of classes, 0 if the network ignores them.

    Raises:
        ValueError: it is to be conditional and the data have no labels.
    """
    if settings.conditioning == "none":
        return 0
    if geometry.num_classes < 1:
        raise ValueError(f"conditioning: {settings.conditioning} needs data with labels; use none")
    return geometry.num_classes


def _check_labels(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("a conditional network needs labels")
    return labels


class Generator(nn.Module):
    """A generator's input: z, joined by an embedding of the class with `conditioning: concat`.

    Args:
        settings: `conditioning`, and `class_dim` for concat.
        geometry: of the data; z has the length `latent_dim`.

    Attributes:
        num_classes: classes of the labels that `forward` needs; 0 if it ignores them.
        input_dim: length of z and embedding together.
        norm_classes: classes of its conditional norms; 0 with `conditioning` other than norm.

    Raises:
        ValueError: it is to be conditional and the data have no labels.
    """

    def __init__(self, settings: Any, geometry: Geometry) -> None:
        super().__init__()
        self.num_classes = _known_classes(settings, geometry)
        self.norm_classes = self.num_classes if settings.conditioning == "norm" else 0
        self.input_dim = geometry.latent_dim
        if settings.conditioning == "concat":
            self.class_embedding = nn.Parameter(torch.randn(self.num_classes, settings.class_dim))
            self.input_dim += settings.class_dim

    def input(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The first layer's input `[N, input_dim]`.

        Args:
            z: latents `[N, latent_dim]`.
            labels: int64 `[N]`, or None for an unconditional generator.

        Raises:
            ValueError: a conditional generator got no labels.
        """
        if not self.num_classes:
            return z
        labels = _check_labels(labels)
        if self.norm_classes:
            return z
        return torch.cat((z, embedding(labels, self.class_embedding).to(z.dtype)), dim=1)


class Head(nn.Module):
    """Features `[N, F]` to logits `[N]`, and with `acgan` to class logits.

    Args:
        num_features: F.
        conditioning: none; projection, logit + <e(y), h> (Miyato and Koyama 2018, Eq. 3); bilinear, <W h, e(y)> alone,
            in which `logit` is W (Huang et al. 2024, their code); acgan, a linear classifier next to the logit (Odena
            et al. 2017, section 3); or reacgan, an embedding of h and proxies e(y) next to it (Kang et al. 2021).
        num_classes: of the labels.
        class_dim: length of e(y) with bilinear and reacgan; 0 for F.
        bias: of the logit; bilinear has none.
    """

    def __init__(
        self, num_features: int, conditioning: str, num_classes: int, *, class_dim: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        class_dim = class_dim or num_features
        bilinear = conditioning == "bilinear"
        self.logit = nn.Linear(num_features, class_dim if bilinear else 1, bias=bias and not bilinear)
        if bilinear:
            self.embedding = nn.Embedding(num_classes, class_dim)
            nn.init.normal_(self.embedding.weight, 0.0, (class_dim * num_classes) ** -0.5)
        if conditioning == "projection":
            self.embedding = nn.Embedding(num_classes, num_features)
            bound = num_features**-0.5
            nn.init.uniform_(self.embedding.weight, -bound, bound)
        if conditioning == "acgan":
            self.classifier = nn.Linear(num_features, num_classes)
        if conditioning == "reacgan":
            self.embed = nn.Linear(num_features, class_dim)
            self.embedding = nn.Embedding(num_classes, class_dim)
        self.conditioning = conditioning

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """One logit per row, in float32 or wider.

        Args:
            features: `[N, F]`.
            labels: int64 `[N]`, or None without projection and bilinear.

        Raises:
            ValueError: one of these got no labels.
        """
        if self.conditioning == "bilinear":
            return (self.embed_class(labels) * upcast(self.logit(features))).sum(1)
        logits = upcast(self.logit(features).squeeze(1))
        if self.conditioning != "projection":
            return logits
        return logits + (self.embed_class(labels) * upcast(features)).sum(1)

    def embed_class(self, labels: Tensor | None) -> Tensor:
        """e(y): `[N, class_dim]`. Arguments and errors: `forward`."""
        return self.embedding(_check_labels(labels))

    def classify(self, features: Tensor) -> Tensor:
        """Class logits `[N, num_classes]`, or with reacgan unit embeddings `[N, class_dim]`, in float32 or wider.

        Args:
            features: `[N, F]`.
        """
        if self.conditioning == "reacgan":
            return normalize(upcast(self.embed(features)), dim=1)
        return upcast(self.classifier(features))

    def proxies(self, labels: Tensor) -> Tensor:
        """Unit vectors that stand for classes, with reacgan: `[N, class_dim]`.

        Args:
            labels: int64 `[N]`.
        """
        return normalize(self.embedding(labels), dim=1)


class Discriminator(nn.Module):
    """Hidden features and a head on them; an architecture defines `features` and builds `head`.

    Args:
        settings: `conditioning` of the architecture's settings.
        geometry: of D's input.

    Attributes:
        num_classes: classes of the labels that it uses; 0 if it ignores them.
        classifies: whether `forward_with_classes` is there; its classifier then needs a gradient in each backward pass.

    Raises:
        ValueError: it is to be conditional and the data have no labels.
    """

    head: Head

    def __init__(self, settings: Any, geometry: Geometry) -> None:
        super().__init__()
        self.num_classes = _known_classes(settings, geometry)
        self.classifies = settings.conditioning in ("acgan", "reacgan")

    def drop_logit_bias(self) -> None:
        """Leave out the logit's bias, for objectives that see only differences of logits.

        There its gradient is rounding noise, which Adam would turn into drift that differs from world to world.
        """
        self.head.logit.register_parameter("bias", None)

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The last hidden layer `[N, F]`, for feature matching (Salimans et al. 2016, 3.1).

        Args:
            x: examples `[N, ...]`.
            labels: int64 `[N]` or None.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """One logit per example: `[N]`.

        Args:
            x: examples `[N, ...]`.
            labels: int64 `[N]`, or None without projection.
        """
        return self.head(self.features(x, labels), labels)

    def forward_with_classes(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits `[N]` and the head's `classify` of one pass; only if `classifies`.

        Args:
            x: examples `[N, ...]`.
            labels: int64 `[N]` or None.
        """
        features = self.features(x, labels)
        return self.head(features, labels), self.head.classify(features)
