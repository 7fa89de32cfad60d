"""The command line: one subcommand a file; parse, call one function, print. Nothing heavy at import."""

from ._main import app as app
from ._main import main as main
from ._main import run_app as run_app
