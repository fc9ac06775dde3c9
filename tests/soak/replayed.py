"""Runs the steps of a Containerfile by chroot, where the kernel lets nothing better work."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BASE = "${BASE}"
_SAID_ELSEWHERE = {"ARG", "EXPOSE", "VOLUME", "HEALTHCHECK"}
"""What changes no file and nothing that the tests ask for."""


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each step's word and the rest of it; comments are left out, also those inside a step."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for step in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if step.strip():
            word, _, rest = step.partition(" ")
            yield word, rest.strip()


class Stage:
    """A root that grows from a base."""

    def __init__(self, root: Path, base: Path) -> None:
        self.root = root
        subprocess.run(["cp", "--archive", base, root], check=True)
        self.config: dict[str, Any] = {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}
        self._folder = "/"

    def step(self, word: str, rest: str, context: Path, others: dict[str, "Stage"]) -> None:
        """Raises `ValueError` for a step that is not known here."""
        if word == "RUN":
            self._run(rest)
        elif word == "COPY":
            self._copy(shlex.split(rest), context, others)
        elif word == "WORKDIR":
            self._folder = rest
            self._inside(rest).mkdir(parents=True, exist_ok=True)
        elif word == "ENV":
            added = dict(pair.split("=", 1) for pair in shlex.split(rest))
            known = dict(pair.split("=", 1) for pair in self.config["Env"])
            self.config["Env"] = [f"{key}={value}" for key, value in {**known, **added}.items()]
        elif word in ("ENTRYPOINT", "CMD"):
            self.config[word.capitalize()] = json.loads(rest)
        elif word == "USER":
            self.config["User"] = rest
        elif word not in _SAID_ELSEWHERE:
            raise ValueError(f"cannot replay {word}")

    def _inside(self, path: str) -> Path:
        return self.root / os.path.normpath(os.path.join(self._folder, path)).lstrip("/")

    def _run(self, command: str) -> None:
        environment = dict(pair.split("=", 1) for pair in self.config["Env"])
        shell = f"cd {shlex.quote(self._folder)} && {command}"
        done = subprocess.run(
            ["chroot", self.root, "/bin/sh", "-c", shell],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout[-1000:], done.stderr[-3000:])

    def _copy(self, words: list[str], context: Path, others: dict[str, "Stage"]) -> None:
        start = context
        if words[0].startswith("--from="):
            start = others[words.pop(0).partition("=")[2]].root
        *sources, target = words
        for source in sources:
            found = start / source.lstrip("/")
            place = self._inside(target)
            if found.is_dir():
                shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy(found, place)


def replay(
    containerfile: Path, context: Path, base: Path, folder: Path, lent: dict[Path, str]
) -> tuple[Path, dict[str, Any]]:
    """The root of the last stage, and its configuration as OCI has it.

    `lent` are files that are there, at these paths, while steps run, and not afterwards.
    """
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for word, rest in instructions(containerfile.read_text()):
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            assert image == _BASE, image
            stage = Stage(folder / f"stage-{len(stages)}", base)
            stages[name or str(len(stages))] = stage
            for path, place in lent.items():
                (stage.root / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, stage.root / place)
        elif stage is not None:
            stage.step(word, rest, context, stages)
    assert stage is not None
    for place in lent.values():
        (stage.root / place).unlink()
    return stage.root, stage.config
