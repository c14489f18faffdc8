"""Decoders that crash or hang on marked files. Any Python with this folder on its path has them.

A marked file is a good picture with a word after its end. The hang is a search that goes back and
forth for centuries: C code that holds the interpreter's lock, as a decoder in an endless loop does.
"""

import os
import re
import signal
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

CRASH, HANG = b"CRASHES THE DECODER", b"HANGS THE DECODER"


class _Finder(MetaPathFinder):
    """Changes `datus.inputs.decode` when it is imported, and not before."""

    def find_spec(self, name, path, target=None):
        if name != "datus.inputs.decode":
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            module.load_picture = _sabotaged(module.load_picture)

        spec.loader.exec_module = exec_module
        return spec


def _sabotaged(load_picture):
    def load(data, max_pixels):
        if data.endswith(CRASH):
            os.kill(os.getpid(), signal.SIGSEGV)
        if data.endswith(HANG):
            re.match(r"(a+)+$", "a" * 80 + "b")
        return load_picture(data, max_pixels)

    return load


sys.meta_path.insert(0, _Finder())
