#!/usr/bin/env bash
# Brings a bare Debian machine (python3 without venv, no package lists) to where `make` can work:
# the Debian packages that are missing, and .venv with the exact versions of constraints.txt.
#
# usage: tools/bootstrap.sh [PROGRAM=PACKAGE ...]
# Each argument is a program or file that must be found, and the Debian package that has it.
set -euo pipefail
cd "$(dirname "$0")/.."

# Some users have no sbin on their path; mkfs lives there.
PATH="$PATH:/usr/sbin:/sbin"
python=${PYTHON:-python3}
say() { printf 'bootstrap: %s\n' "$*" >&2; }

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "Python 3.11 or newer is needed; $python is not. Name one with PYTHON=/path/to/python3."
    exit 1
fi

missing=()
for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || [ -f "${pair%%=*}" ] || missing+=("${pair#*=}")
done
# Debian splits ensurepip off, without which `python3 -m venv` makes nothing.
if [ ! -x .venv/bin/python ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=(python3-venv)
fi
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "missing: ${missing[*]}. Type this, then run make again:"
        echo "sudo apt-get update && sudo apt-get install --yes --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    say "installing ${missing[*]}"
    # No daemon of a package is wanted, only its programs.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    apt-get update --quiet=2
    apt-get install --quiet=2 --yes --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null
fi

stamp=.venv/.bootstrapped
wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
if [ ! -x .venv/bin/python ]; then
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv
fi
say "installing the packages of constraints.txt into .venv"
install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$@"; }
# Debian's pip cannot pin what packages are built with.
install pip
install --build-constraint constraints.txt --editable '.[s3,dev,test,lint]'
echo "$wanted" >"$stamp"
