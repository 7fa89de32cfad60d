"""Bodies of requests. A field that would change the answer and is not supported is refused, never ignored."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

Cell = StrictStr | StrictInt | Annotated[float, Field(strict=True, allow_inf_nan=False)] | StrictBool | None
Row = dict[StrictStr, Cell]
Text = Annotated[StrictStr, Field(description="A text to answer.")]
Inputs = Text | Row | Annotated[list[Text | Row], Field(min_length=1)]


def _only(*allowed: Any, why: str) -> AfterValidator:
    """Accept these values alone."""

    def check(value: Any) -> Any:
        if value is not None and value not in allowed:
            raise ValueError(f"{why}; give {allowed[0]!r}, or leave it out")
        return value

    return AfterValidator(check)


GREEDY = "answers are greedy, each token the likeliest"
Zero = Annotated[float | None, _only(0, why=GREEDY)]
OneInt = Annotated[int | None, _only(1, why="there is one greedy answer")]
OneFloat = Annotated[float | None, _only(1, why=GREEDY)]
Stop = str | Annotated[list[str], Field(max_length=4)] | None


class Strict(BaseModel):
    """Refuses fields that it does not know."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StreamOptions(Strict):
    """What a stream brings besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Generation(Strict):
    """What completions and chats have in common."""

    model: StrictStr = Field(description="`base:prompt`, or `base` for the frozen model.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: Stop = None
    temperature: Zero = None
    top_p: OneFloat = None
    n: OneInt = None
    presence_penalty: Zero = None
    frequency_penalty: Zero = None
    truncate: bool = Field(False, description="Leave out the end of a text that is too long.")
    user: Any = None
    seed: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts at which an answer ends."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)


class Completion(Generation):
    """`POST /v1/completions`."""

    prompt: Inputs
    max_tokens: int | None = Field(None, ge=1)
    best_of: OneInt = None
    echo: Annotated[bool | None, _only(False, why="a text is not repeated before its answer")] = None
    suffix: Annotated[str | None, _only("", why="nothing is written before another text")] = None
    logprobs: Annotated[None, Field(description="Not given; see /classify for the scores of labels.")] = None


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: StrictStr


class ChatMessage(Strict):
    """A message of a chat."""

    role: Literal["user", "system", "developer", "assistant"]
    content: StrictStr | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None

    @property
    def text(self) -> str:
        """The whole text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Chat(Generation):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: Annotated[bool | None, _only(False, why="probabilities of tokens are not given")] = None


class Classification(Strict):
    """`POST /classify`."""

    model: StrictStr = Field(description="`base:prompt`.")
    inputs: Inputs
    top_k: Annotated[int, Field(ge=1)] | None = Field(None, description="So many of the likeliest labels.")
    calibrate: bool = Field(True, description="Use the calibration that the prompt was stored with.")
    truncate: bool = Field(False, description="Leave out the end of a text that is too long.")
    frozen: bool = Field(False, description="Also answer without the prompt, by the frozen model alone.")


class Upload(Strict):
    """`PUT /prompts/{name}`: the two files of a stored prompt."""

    document: dict[StrictStr, Any] = Field(description="What prompt.json holds.")
    tensors: StrictStr = Field(description="prompt.safetensors in base64.")
