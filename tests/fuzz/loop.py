"""libFuzzer's loop around one target, in a process of its own: it ends the process it runs in.

usage: python tests/fuzz/loop.py TARGET FOLDER [LIBFUZZER OPTIONS]
"""

import shlex
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["darkroom", "oslo_utils"], enable_loader_override=False):
    from fuzz import targets

# A merge starts itself again through a shell, by its first word.
command = " ".join([sys.executable, *map(shlex.quote, sys.argv[:2])])
atheris.Setup([command, *sys.argv[2:]], targets.TARGETS[sys.argv[1]])
atheris.Fuzz()
