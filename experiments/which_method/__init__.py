"""The confirmation study: every method at its own learning rate, on fresh seeds.

place = Place(store=Path("runs/confirm"), results=Path("confirm.json"))
results = confirm(DESIGN, place, "core")  # again: only what is missing
print(text(results, DESIGN))  # or read_results("confirm.json"), which needs no store
"""

from .candidates import CANDIDATES as CANDIDATES
from .candidates import Candidate as Candidate
from .design import DESIGN as DESIGN
from .design import QUICK as QUICK
from .design import Design as Design
from .design import Frozen as Frozen
from .design import Part as Part
from .numbers import paired as paired
from .results import Results as Results
from .results import key_of as key_of
from .results import of_key as of_key
from .results import read_results as read_results
from .rule import default_method as default_method
from .runs import Place as Place
from .study import confirm as confirm
from .tables import BEGIN as BEGIN
from .tables import tables as tables
from .tables import text as text
