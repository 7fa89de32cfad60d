"""Storage on disk: atomic folders, stored prompts and checkpoints, as safetensors and JSON without pickle."""

from ..documents import json_bytes as json_bytes
from ..documents import read_json as read_json
from ..documents import read_sealed as read_sealed
from ..documents import sealed_bytes as sealed_bytes
from ._checkpoint import Checkpoint as Checkpoint
from ._checkpoint import intact_checkpoints as intact_checkpoints
from ._checkpoint import latest_checkpoint as latest_checkpoint
from ._checkpoint import save_checkpoint as save_checkpoint
from ._folder import MANIFEST as MANIFEST
from ._folder import read_folder as read_folder
from ._folder import refuse_no_place as refuse_no_place
from ._folder import write_file as write_file
from ._folder import write_folder as write_folder
from ._prompt import find_prompt as find_prompt
from ._prompt import from_document as from_document
from ._prompt import input_digest as input_digest
from ._prompt import is_compiled as is_compiled
from ._prompt import read_prompt as read_prompt
from ._prompt import save_prompt as save_prompt
from ._prompt import to_document as to_document
from ._run import found_model as found_model
from ._tuned import holds_tuned as holds_tuned
from ._tuned import load_tuned as load_tuned
from ._tuned import save_tuned as save_tuned
from ._values import read_tensors as read_tensors
from ._values import tensor_bytes as tensor_bytes
