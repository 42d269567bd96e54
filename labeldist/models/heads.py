"""The projection head between encoder and contrastive loss."""

from torch import Tensor, nn

from labeldist.options import Projection

__all__ = ["Projection", "ProjectionHead"]


class ProjectionHead(nn.Module):
    r"""Map the encoder's vector to the embedding of the contrastive loss. Eq. 3: $h = \mathrm{MLP}(E_\phi(x))$.

    Choice: the paper gives no sizes. Here the MLP has one hidden layer with the width of its input, and ReLU.

    Args:
        in_dim: size of the encoder's vector, >= 1.
        out_dim: size of the embedding, >= 1; ignored for `"none"`.
        kind: `"mlp"` as in the paper, `"linear"`, or `"none"`, which returns the encoder's vector unchanged.

    Attributes:
        out_dim: size of the embedding.

    Raises:
        ValueError: if `kind` is unknown.

    Examples:
        >>> import torch
        >>> ProjectionHead(300, 64)(torch.zeros(2, 300)).shape
        torch.Size([2, 64])
    """

    def __init__(self, in_dim: int, out_dim: int = 128, *, kind: Projection = "mlp"):
        super().__init__()
        self.out_dim = in_dim if kind == "none" else out_dim
        if kind == "mlp":
            self.layers = nn.Sequential(nn.Linear(in_dim, in_dim), nn.ReLU(), nn.Linear(in_dim, out_dim))
        elif kind == "linear":
            self.layers = nn.Linear(in_dim, out_dim)
        elif kind == "none":
            self.layers = nn.Identity()
        else:
            raise ValueError(f"kind must be 'mlp', 'linear' or 'none', got {kind!r}.")

    def forward(self, vectors: Tensor) -> Tensor:
        """Map `(B, in_dim)` to `(B, out_dim)`."""
        return self.layers(vectors)
