"""Where the heads of an untrained BERT or GPT-2 look: at their like, and at the words beside them.

Such models learn positions as they learn words, and both are added up. Drawn at random, no head can tell a word from
its place, and to find out takes most of the training. So both begin in coordinates of their own, words in the first
ones and positions in the last, as many as a head has; then a head can begin with either. Nothing holds them there.

After mimetic initialisation (Trockman and Kolter, 2023, arXiv:2305.09828), of which this is a stronger form.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

# Logit with which a word meets its like; what is taken from it where that is the word itself.
LIKE, ITSELF = 4.0, 8.0
# Logit of the word beside, where all others have about zero.
BESIDE = 6.0

Head = Float[Tensor, "size width"]


@torch.no_grad()
def set_apart(words: Float[Tensor, "v e"], positions: Float[Tensor, "t e"], size: int, draw: torch.Generator) -> None:
    """Draw word vectors from a standard normal distribution, zero in their last `size` coordinates; positions there.

    Position t is sqrt(2) (cos w t, sin w t) with the frequencies w_k = pi (2 k + 1) / size. The product of two
    positions is `size` where they are one, and zero where they are less than `size` apart.
    """
    places = torch.arange(len(positions)).unsqueeze(1) * _frequencies(size)
    words.normal_(generator=draw)[:, -size:] = 0.0
    positions.zero_()[:, -size:] = math.sqrt(2.0) * torch.cat([places.cos(), places.sin()], 1)


@torch.no_grad()
def look_beside(query: Head, key: Head, distance: int) -> None:
    """Make a head attend to the word that stands so many places on (-1: to the one before).

    The query is the position, the key a position turned back by `distance`: equal where the distance is this.
    """
    size = len(query)
    gain = math.sqrt(BESIDE / math.sqrt(size))
    cosine, sine = (
        torch.diag(turn) for turn in ((_frequencies(size) * distance).cos(), (_frequencies(size) * distance).sin())
    )
    query.zero_()[:, -size:] = gain * torch.eye(size)
    key.zero_()[:, -size:] = gain * torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)])


@torch.no_grad()
def look_for_the_like(query: Head, key: Head, draw: torch.Generator, *, itself: bool) -> None:
    """Make a head attend to equal words: query and key are one projection of the word.

    Args:
        query: overwritten.
        key: likewise.
        draw: of the projection.
        itself: whether a word finds itself too. If not, positions are subtracted as words are added: of all words that
            are its like, a word finds the others.
    """
    size, width = query.shape
    words = width - size
    # A projected word has squared length `size` on average, and logits are divided by the root of `size`.
    query.zero_()[:, :words] = _orthonormal(words, size, draw).T * math.sqrt(LIKE / math.sqrt(size))
    key.copy_(query)
    if not itself:
        turned = _orthonormal(size, size, draw) * math.sqrt(ITSELF / math.sqrt(size))
        query[:, words:], key[:, words:] = turned, -turned


@torch.no_grad()
def say_where(value: Head, output: Float[Tensor, "width size"], draw: torch.Generator) -> None:
    """Make a head pass on the position that it attends to, in a random direction of its own for each coordinate."""
    size, width = value.shape
    value.zero_()[:, -size:] = torch.eye(size)
    output.copy_(_orthonormal(width, size, draw))


def _frequencies(size: int) -> Float[Tensor, " half"]:
    return math.pi * (2 * torch.arange(size // 2) + 1) / size


def _orthonormal(rows: int, columns: int, draw: torch.Generator) -> Float[Tensor, "rows columns"]:
    """Columns of length 1 at right angles."""
    return torch.linalg.qr(torch.empty(rows, columns).normal_(generator=draw))[0]
