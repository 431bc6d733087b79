"""Start the process of a server: a bare interpreter that is handed its program over standard input."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

__all__ = ["greeting", "start"]

_MODULES = (
    "kernel", "codec", "folders", "places", "seccomp", "landlock", "namespaces", "jail", "names", "handles",
    "script", "zygote", "server",
)  # fmt: skip
_BOOT = (
    "import json,os,sys,types\n"
    "def read(n):\n"
    "    data=b''\n"
    "    while len(data)<n:\n"
    "        data+=os.read(0,n-len(data)) or sys.exit(1)\n"
    "    return data\n"
    "order=json.loads(read(int(read(12))))\n"
    "package=sys.modules['_rlvr']=types.ModuleType('_rlvr')\n"
    "package.__path__=[]\n"
    "for name,text in order['modules']:\n"
    "    module=sys.modules['_rlvr.'+name]=types.ModuleType('_rlvr.'+name)\n"
    "    module.__package__='_rlvr'\n"
    "    setattr(package,name,module)\n"
    "    exec(compile(text,name,'exec'),module.__dict__)\n"
    "module.main(order['settings'])\n"
)
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
}  # fmt: skip
# A command such as docker or ssh needs its caller's environment; the interpreter behind it starts anew without. It
# keeps the search path of libraries, without which some interpreters do not start.
_CLEAN = (
    "import os,sys\n"
    f"clean={_ENVIRONMENT!r}\n"
    "clean.update((k,os.environ[k]) for k in ('LD_LIBRARY_PATH',) if k in os.environ)\n"
    f"os.execve(sys.executable or '/proc/self/exe',[sys.executable or 'python3','-s','-S','-c',{_BOOT!r}],clean)\n"
)


def start(command: Sequence[str], *, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start an interpreter here, or with a command elsewhere. Errors: OSError."""
    flags = ["-s", "-S", "-c", _CLEAN if command else _BOOT]
    if command and os.path.basename(command[0]) == "ssh":  # its far end reads one line of shell
        flags = [shlex.quote(flag) for flag in flags]
    return subprocess.Popen(
        [*(command or [sys.executable]), *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=None if command else _ENVIRONMENT,
        cwd=None if command else "/",
        start_new_session=True,
        bufsize=0,
    )


def greeting(levels: Sequence[str], *, packages: Sequence[str], local: bool) -> bytes:
    """Write what a new server reads first: its program and its settings."""
    settings = {"levels": list(levels), "names": list(packages), "packages": _installed(packages) if local else None}
    sources = [(name, Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
    order = json.dumps({"modules": sources, "settings": settings}).encode()
    return b"%12d" % len(order) + order


def _installed(packages: Sequence[str]) -> list[str]:
    """Find the folders and files of packages."""
    paths: list[str] = []
    for name in packages:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        places: list[str | None] = [] if spec is None else [*(spec.submodule_search_locations or ())] or [spec.origin]
        for place in places:
            if place and os.path.exists(place):
                libraries = os.path.join(os.path.dirname(place), f"{name}.libs")
                paths += [os.path.realpath(place), *([os.path.realpath(libraries)] if os.path.isdir(libraries) else [])]
    return paths
