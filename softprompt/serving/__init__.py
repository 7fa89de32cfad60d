"""Many stored prompts over one frozen model: requests for different prompts ride in one pass. No HTTP in this package.

    bank = PromptBank(admission)       # the prompts by name, each admitted to the model once
    engine = Engine(backbone)          # texts to rows, rows to answers
    batcher = Batcher(engine)          # collects what several clients ask into passes; bounded

The server is the package `softprompt.serving.http`, which brings the web framework.
"""

from .bank import PromptBank as PromptBank
from .bank import Refusal as Refusal
from .batcher import Batcher as Batcher
from .engine import Engine as Engine
from .faults import Draining as Draining
from .faults import Overloaded as Overloaded
from .faults import TooLate as TooLate
from .faults import TooLong as TooLong
from .folder import PromptFolder as PromptFolder
from .folder import places_in as places_in
from .loading import as_trained as as_trained
from .loading import filled as filled
from .packed import BankFile as BankFile
from .packed import read_bank as read_bank
from .packed import write_bank as write_bank
from .passes import Limits as Limits
from .served import Admission as Admission
from .served import ServedPrompt as ServedPrompt
from .work import Answer as Answer
from .work import Work as Work
