"""The page at `/`: one file without anything from elsewhere, and the policy that keeps it so."""

import base64
import functools
import hashlib
import re
from importlib.resources import files


@functools.cache
def page() -> str:
    """The page."""
    return (files("softprompt.serving.http") / "page.html").read_text("utf-8")


@functools.cache
def policy() -> str:
    """What a browser lets the page do: run its own script, and ask its own server.

    Bars have their length in a style, so styles within the page are allowed.
    """
    (script,) = re.findall(r"<script>(.*?)</script>", page(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
