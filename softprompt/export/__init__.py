"""Prompts for programs without our code: baked models, caches, request bodies, GGUF recipes and ONNX graphs."""

from ._card import Spread as Spread
from ._card import spread_of as spread_of
from .baked import export_baked as export_baked
from .compiled import CompiledPrompt as CompiledPrompt
from .compiled import compile_prompt as compile_prompt
from .compiled import export_cache as export_cache
from .embeds import completion_request as completion_request
from .embeds import export_embeds as export_embeds
from .gguf import export_gguf_recipe as export_gguf_recipe
from .limit import PromptLimit as PromptLimit
from .limit import limit_of as limit_of
from .limited import LimitError as LimitError
from .limited import export_limit as export_limit
from .limited import limit_error as limit_error
from .onnx import export_onnx as export_onnx
