"""Analyses of trained prompts, by name. A new one is a file here and a line in ANALYSES."""

from ._attention import ATTENTION
from ._attribution import ATTRIBUTION
from ._base import Analysis as Analysis
from ._bench import Bench as Bench
from ._broadcast import BROADCAST
from ._broadcast import broadcast as broadcast
from ._compared import ABLATION, RATES
from ._drift import DRIFT
from ._groups import GROUPS
from ._nearest import NEAREST
from ._neighbors import NEIGHBORS
from ._neighbors import nearest as nearest
from ._norm import NORM
from ._recorded import Recorded as Recorded
from ._recorded import flat_settings as flat_settings
from ._similarity import SIMILARITY
from ._transfer import TRANSFER

ANALYSES: dict[str, Analysis] = {
    "norm": NORM,
    "similarity": SIMILARITY,
    "broadcast": BROADCAST,
    "groups": GROUPS,
    "neighbors": NEIGHBORS,
    "transfer": TRANSFER,
    "ablation": ABLATION,
    "rates": RATES,
    "attention": ATTENTION,
    "drift": DRIFT,
    "attribution": ATTRIBUTION,
    "nearest-examples": NEAREST,
}
