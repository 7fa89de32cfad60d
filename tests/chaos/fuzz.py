"""Hostile files that atheris makes: it changes bytes towards lines of the readers that no file has reached yet.

    pip install atheris==3.0.0
    python tests/chaos/fuzz.py RUN -runs=20000

RUN is a finished run folder with restarts. The first byte chooses the kind of file, the rest is what stands in it. What
is no plain refusal ends the program with exit code 77, and the file is kept beside the corpus in runs/fuzz.
"""

import importlib
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["softprompt"]):
    import hostile
    from cases import hostile_cases

PLACE = Path("runs/fuzz").absolute()


def main() -> None:
    """Begin with one honest file of each kind, and change them."""
    run, *options = sys.argv[1:]
    logging.getLogger("softprompt").setLevel(logging.CRITICAL)
    shutil.rmtree(PLACE / "work", ignore_errors=True)
    (PLACE / "work").mkdir(parents=True)
    cases = sorted(hostile_cases(Path(run).absolute(), PLACE / "work").items())
    corpus = PLACE / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, (_, case) in enumerate(cases):
        content = case.good if isinstance(case.good, bytes) else json.dumps(case.good).encode()
        (corpus / f"good-{number}").write_bytes(bytes([number]) + content)

    def read(data: bytes) -> None:
        name, case = cases[data[0] % len(cases)] if data else cases[0]
        value = data[1:]
        if not isinstance(case.good, bytes):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return
            if not isinstance(value, dict):
                return
        what = hostile.judged(lambda: case.read(value))
        if what not in ("read", "refused"):
            raise RuntimeError(f"{name}: {what}")

    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={PLACE}/", str(corpus)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
