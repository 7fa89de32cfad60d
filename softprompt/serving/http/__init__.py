"""The server: FastAPI over the engine. Needs the extra `serve`; nothing below imports this package."""

from .app import build_app as build_app
from .running import listen as listen
from .running import logged as logged
from .running import server_of as server_of
from .service import Service as Service
from .settings import ServerSettings as ServerSettings
