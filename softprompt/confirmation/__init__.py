"""The confirmation study: every method at its own learning rate, on fresh seeds, and what was not run.

place = Place(store=Path("runs/confirm"), results=Path("confirm.json"))
results = confirm(DESIGN, place, "core")  # again: only what is missing
print(text(results, DESIGN))  # or read_results("confirm.json"), which needs no store
"""

from ._contenders import CONTENDERS as CONTENDERS
from ._contenders import Contender as Contender
from ._design import DESIGN as DESIGN
from ._design import QUICK as QUICK
from ._design import Design as Design
from ._design import Frozen as Frozen
from ._design import Part as Part
from ._numbers import paired as paired
from ._page import write_page as write_page
from ._results import Results as Results
from ._results import key_of as key_of
from ._results import of_key as of_key
from ._results import read_results as read_results
from ._rule import default_method as default_method
from ._runs import Place as Place
from ._study import confirm as confirm
from ._tables import tables as tables
from ._tables import text as text
