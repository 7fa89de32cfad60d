"""Prompts on the Hugging Face hub: loading and publishing a prompt's three files and a model card."""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..documents import in_markdown
from ..errors import BadInput
from ..initial import Initial
from ..prompts.prompt import SoftPrompt
from ..store import MANIFEST, find_prompt, read_prompt, save_prompt
from .card import REPOSITORY, facts, front_matter, how_it_chooses, how_long_texts_are

FILES = ("prompt.safetensors", "prompt.json", MANIFEST)


def load_prompt(source: str | Path) -> SoftPrompt:
    """A stored prompt: a folder that is here, a run with one prompt, or `user/name` on the hub.

    Raises:
        BadInput: nothing is there, or the hub cannot be reached; one line.
        DamagedFile: a file is not what was written.
    """
    if Path(source).exists():
        return read_prompt(find_prompt(source))
    if isinstance(source, Path) or not REPOSITORY.fullmatch(source):
        raise BadInput(
            f"{str(source)!r} is neither a stored prompt or run here nor user/name on the hub; check the path"
        )
    with tempfile.TemporaryDirectory() as temporary:
        return read_prompt(_download(source, Path(temporary)))


def push_prompt(prompt: SoftPrompt, repo: str, *, private: bool = False) -> str:
    """Upload a prompt and its model card as one commit, the repository made if need be; the commit's address.

    Raises:
        BadInput: `repo` is not user/name, or the hub refused; one line.
    """
    from huggingface_hub import HfApi

    if not REPOSITORY.fullmatch(repo):
        raise BadInput(f"{repo!r} is not of the form user/name; give the repository to push to")
    with tempfile.TemporaryDirectory() as temporary:
        public = without_folders(prompt)
        folder = save_prompt(public, Path(temporary) / "prompt")
        (folder / "README.md").write_text(model_card(public, repo), encoding="utf-8")
        try:
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="A soft prompt")
        except Exception as error:  # The errors come from several libraries and have no common class.
            raise _refusal(
                error, f"could not push to {repo!r}", "log in with `hf auth login` and check the name"
            ) from error
    return commit.commit_url


def without_folders(prompt: SoftPrompt) -> SoftPrompt:
    """The prompt without this machine's folder names: of each file and model only the last name stays."""
    provenance = prompt.provenance
    backbone = dataclasses.replace(provenance.backbone, name=_last_name(provenance.backbone.name))
    training, task = dict(provenance.training), dict(provenance.task or {})
    initial = Initial(str(training.get("init", "")))
    if initial.path is not None:
        training["init"] = initial.with_path(_last_name(initial.path)).text
    source = dict(task.get("source") or {})
    if source.get("files"):
        files = {split: _last_names(given) for split, given in source["files"].items()}
        task["source"] = {**{name: value for name, value in source.items() if name != "beside"}, "files": files}
    public = dataclasses.replace(provenance, backbone=backbone, training=training, task=task or provenance.task)
    return dataclasses.replace(prompt, provenance=public)


def _last_names(given: str | Sequence[str]) -> str | list[str]:
    return _last_name(given) if isinstance(given, str) else [_last_name(path) for path in given]


def _last_name(path: str) -> str:
    """A hub id unchanged, or the last name of a path."""
    return path if REPOSITORY.fullmatch(path) and not os.path.exists(path) else os.path.basename(path.rstrip("/"))


def model_card(prompt: SoftPrompt, repo: str) -> str:
    """The model card: what every exported prompt says of itself, and how softprompt loads this one."""
    provenance = prompt.provenance
    layers = f" in each of {prompt.layers} layers" if prompt.deep is not None else ""
    lines = [
        *front_matter(prompt, "other", library="softprompt"),
        f"# {repo}", "",
        f"A soft prompt of {prompt.length} vectors{layers} ({prompt.stored} numbers stored) for the frozen "
        f"`{in_markdown(provenance.backbone.name)}`.", "",
        *facts(prompt, "other", None),
        "```python", "import softprompt", "", f'prompt = softprompt.SoftPrompt.load("{repo}")',
        'prompt.predict(["a text"])', "```",
        *how_long_texts_are(prompt),
        *how_it_chooses(prompt), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _download(repo: str, folder: Path) -> Path:
    """The prompt's files, copied out of the hub's cache, where they are links, which `read_prompt` refuses."""
    from huggingface_hub import snapshot_download

    try:
        snapshot = Path(snapshot_download(repo, allow_patterns=list(FILES)))
    except Exception as error:  # The errors come from several libraries and have no common class.
        raise _refusal(error, f"there is no {repo!r} here, and not on the hub either", "check the name") from error
    for name in FILES:
        if (snapshot / name).is_file():
            shutil.copyfile(snapshot / name, folder / name)
    if not (folder / MANIFEST).is_file():
        raise BadInput(f"{repo!r} on the hub holds no softprompt files; a PEFT repository is downloaded and imported")
    return folder


def _refusal(error: Exception, what: str, then: str) -> BadInput:
    """The error of the hub's client in one line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return BadInput(f"{what}: {first}; {then}")
