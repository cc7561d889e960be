"""The peers' virtual environments: made once in the work folder, versions pinned."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent


def peer_python(name: str, work: Path) -> Path:
    """Return the Python of a peer's environment, which is made if it is not there.

    torch first, by itself and in our own version, as the Makefile does for us; the rest comes from
    requirements-NAME.txt without looking at dependencies.

    Raises:
        subprocess.CalledProcessError: pip failed; it has told why.
    """
    requirements = HERE / f"requirements-{name}.txt"
    folder = work / f"venv-{name}"
    torch = f"torch=={version('torch').partition('+')[0]}"
    wanted = f"{torch}\n{requirements.read_text()}"
    stamp, python = folder / ".installed", folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print(f"making the environment of {name} in {folder}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([*pip, torch], check=True)
    subprocess.run([*pip, "--no-deps", "-r", str(requirements)], check=True)
    stamp.write_text(wanted)
    return python
