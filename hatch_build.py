"""Build hook: a wheel brings kernels as machine code, where they can be made.

FASTBP_BUILD says for which levels of CPU: "host" (the default), "all", some such as
"x86-64-v3,x86-64-v4", or "pure" for none.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "fastbp/cpu/libraries"
SECONDS = 1800
# The libraries need no symbol of the C library that is younger than this tag.
WIDE_TAG = "py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64"


class KernelHook(BuildHookInterface):
    """Compiles the kernels while a wheel is built; without them it is a pure wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version, build_data):
        levels = os.environ.get("FASTBP_BUILD", "host")
        if self.target_name != "wheel" or levels == "pure":
            return
        root = Path(self.root)
        if version == "editable":  # nothing is copied: into the checkout
            self._build(levels, root / FOLDER)
            return
        self._temporary = tempfile.TemporaryDirectory()
        folder = Path(self._temporary.name)
        if self._build(levels, folder):
            for path in folder.iterdir():
                build_data["force_include"][str(path)] = f"{FOLDER}/{path.name}"
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = WIDE_TAG if levels == "all" else f"py3-none-{platform}"

    def _build(self, levels, folder):
        """Make the libraries; warn and return False where it fails."""
        paths = [self.root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "fastbp.cpu.kernels.ahead"]
        command += ["--levels", levels, "--folder", str(folder)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=SECONDS
            )
            problem = done.returncode and (done.stderr.strip() or f"exit status {done.returncode}")
        except (OSError, subprocess.SubprocessError) as error:
            problem = str(error)
        if problem:
            self.app.display_warning(
                "fastbp is built without compiled kernels, which numba compiles at the first fit "
                f"instead. FASTBP_BUILD=pure asks for that. The reason: {problem}"
            )
        return not problem

    def finalize(self, version, build_data, artifact_path):
        if hasattr(self, "_temporary"):
            self._temporary.cleanup()
