"""Frozen models behind one contract: (encoder-)decoders answer in tokens, encoders by label words or a linear head."""

from ._labels import prefix_pair as prefix_pair
from ._limits import position_bound as position_bound
from ._limits import refuse_no_room as refuse_no_room
from ._load import from_model as from_model
from ._load import load_backbone as load_backbone
from ._names import lasting_name as lasting_name
from ._names import model_name as model_name
from ._names import refuse_no_folder as refuse_no_folder
from ._names import source_of as source_of
from ._new_head import with_new_head as with_new_head
from ._numbers import answering_numbers as answering_numbers
from ._numbers import kind_of_spec as kind_of_spec
from ._read import read_tokenizer as read_tokenizer
from ._read import silence as silence
from ._some_tokens import label_logits as label_logits
from .base import AbstractBackbone as AbstractBackbone
from .base import Answers as Answers
from .decoder import DecoderBackbone as DecoderBackbone
from .encoder import EncoderBackbone as EncoderBackbone
from .encoder_decoder import EncoderDecoderBackbone as EncoderDecoderBackbone
from .rescale.scale import scale_embeddings as scale_embeddings
from .spec import for_prompt as for_prompt
from .spec import model_spec as model_spec
from .spec import refuse_other_backbone as refuse_other_backbone
from .spec import spec_or_backbone as spec_or_backbone
