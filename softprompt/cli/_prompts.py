"""The prompts of a run from the command line: the product of methods, learning rates and seeds."""

import dataclasses
from dataclasses import dataclass

from ..checks import option, require_different
from ..errors import BadInput, UnknownName
from ..settings import PromptSettings, Seeds
from ._flatten import Without

# Fields of PromptSettings that follow from the options here.
OF_GRID = Without({"method", "options", "lr", "regularizer", "sources", "seeds"})


@dataclass(frozen=True, kw_only=True)
class PromptGrid:
    """One prompt for each method, learning rate and seed.

    Args:
        method: name from `softprompt methods list`; may be repeated, for several prompts.
        lr: learning rate of AdamW, in --units; may be repeated, for several prompts. Default: the method's own.
        seed: seed of everything random; may be repeated, for several prompts.
        method_option: option of all methods of the run, KEY=VALUE, or of one, METHOD.KEY=VALUE; may be repeated.
        prompt_length: number of prompt vectors. Default: the method's own, or that of --init.
        regularizer: name from `softprompt methods regularizers`, with its options, as rn-emb:sigma=0.1; may be
            repeated, to combine several.
        alpha: weight of the regulariser's divergence; may be repeated, one for each. Default: the regulariser's own.
        source: stored prompt of another task, for spot, attempt and mpt; may be repeated.
        init_seed: seed of the initial vectors and networks. Default: that of --seed.
        order_seed: seed of the order of the rows. Default: that of --seed.
        draw_seed: seed of the few-shot draw. Default: that of --seed.
        noise_seed: seed of noise during training. Default: that of --seed.
    """

    method: tuple[str, ...] = (PromptSettings.method,)
    lr: tuple[float, ...] = ()
    seed: tuple[int, ...] = (0,)
    method_option: tuple[str, ...] = ()
    prompt_length: int | None = None
    regularizer: tuple[str, ...] = ()
    alpha: tuple[float, ...] = ()
    source: tuple[str, ...] = ()
    init_seed: int | None = None
    order_seed: int | None = None
    draw_seed: int | None = None
    noise_seed: int | None = None

    def prompts(self, shared: PromptSettings) -> list[PromptSettings]:
        """One prompt for each method, learning rate and seed, nested in this order.

        Args:
            shared: everything else that they have.

        Raises:
            BadInput: a method option that is not KEY=VALUE, or anything that is given twice.
            UnknownName: an option for a method that the run does not have.
        """
        for name in ("method", "lr", "seed"):
            require_different(option(name), getattr(self, name))
        require_different("--method-option", [text.partition("=")[0] for text in self.method_option])
        from ..prompts.product import product

        options = self._options()
        shared = dataclasses.replace(shared, regularizer=self._regularizer(), sources=self.source)
        return product(shared, self.method, self.lr or (None,), [self._seeds(seed) for seed in self.seed], options)

    def _regularizer(self) -> str:
        """The regularisers with their alphas, joined."""
        names = [name for text in self.regularizer for name in text.split("+")]
        if self.alpha and not names:
            raise BadInput("--alpha weighs a regulariser, and none is given; give --regularizer, or leave it out")
        alphas = self.alpha * len(names) if len(self.alpha) == 1 else self.alpha
        if alphas and len(alphas) != len(names):
            given = f"--alpha is given {len(self.alpha)} times, --regularizer {len(names)} times"
            raise BadInput(f"{given}; give one --alpha for all, or one for each")
        if not alphas:
            return "+".join(names)
        named = zip(names, alphas, strict=True)
        return "+".join(f"{name}{',' if ':' in name else ':'}alpha={alpha!r}" for name, alpha in named)

    def _seeds(self, seed: int) -> Seeds:
        seeds = {
            "initialization": self.init_seed,
            "order": self.order_seed,
            "draw": self.draw_seed,
            "noise": self.noise_seed,
        }
        return dataclasses.replace(Seeds.all(seed), **{name: s for name, s in seeds.items() if s is not None})

    def _options(self) -> dict[str, dict[str, str | int]]:
        """Method -> its options, as strings for the method to convert."""
        chosen: dict[str, dict[str, str | int]] = {method: {} for method in self.method}
        # What is said of one method goes before what is said of all.
        for text in sorted(self.method_option, key=lambda text: "." in text.partition("=")[0]):
            key, sign, value = text.partition("=")
            if not sign or not key:
                raise BadInput(f"--method-option {text!r} is not KEY=VALUE, as in passes=1 or residual.passes=1")
            method, dot, name = key.partition(".")
            if dot and method not in chosen:
                raise UnknownName("method of this run", method, chosen)
            for name_of_method in [method] if dot else chosen:
                chosen[name_of_method][name if dot else key] = value
        if self.prompt_length is not None:
            for method, options in chosen.items():
                if options.get("prompt_length", self.prompt_length) != self.prompt_length:
                    given = f"--prompt-length {self.prompt_length} and --method-option give {method!r} two lengths"
                    raise BadInput(f"{given}; give one")
                options["prompt_length"] = self.prompt_length
        return chosen
