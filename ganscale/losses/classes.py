"""ReACGAN's class loss, which compares each example with its class and with all examples of other classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ganscale.parallel.collectives import gather_rows


@dataclass(frozen=True)
class DataToData:
    """Data-to-data cross-entropy (D2D-CE) of unit embeddings (Kang et al. 2021, section 3), one value per row.

    -log(exp(p_i) / (exp(p_i) + sum_j exp(n_ij))), where p_i = min(f_i . v_i - m_p, 0) / tau with v_i the proxy of the
    row's class, and n_ij = max(f_i . f_j - m_n, 0) / tau for all f_j of other classes in the micro-batch of *all*
    replicas.

    Attributes:
        positive_margin: m_p.
        negative_margin: m_n.
        temperature: tau, above 0.
        batch_rows: rows of the global batch.
    """

    positive_margin: float
    negative_margin: float
    temperature: float
    batch_rows: int

    def __call__(self, embeddings: Tensor, proxies: Tensor, labels: Tensor, position: int | Tensor) -> Tensor:
        """The loss of this replica's rows: `[N]`; a collective call.

        Args:
            embeddings: f, of length one, `[N, E]`.
            proxies: v of each row's class, of length one, `[N, E]`.
            labels: int64 `[N]`.
            position: global index of the first row.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            known = (labels + 1).to(embeddings.dtype)  # 0 is no row
            everyone = gather_rows(torch.cat((embeddings, known[:, None]), 1), position, self.batch_rows)
            others, known_others = everyone[:, :-1], everyone[:, -1].detach()
            positive = ((embeddings * proxies).sum(1, keepdim=True) - self.positive_margin).clamp(max=0.0)
            negative = (embeddings @ others.t() - self.negative_margin).relu() / self.temperature
            left_out = (known_others == 0.0) | (known_others == known[:, None])
            positive, negative = positive / self.temperature, negative.masked_fill(left_out, -torch.inf)
            return torch.cat((positive, negative), 1).logsumexp(1) - positive.squeeze(1)
