"""Give up rights for good, then become another program.

Runs as a script of its own (`python -I -S confine.py '{...}'`), so it imports the standard library
only. The one argument is JSON; `Request` says what it holds. The layers, each of which holds alone:
resource limits; Landlock (only the named files can be opened); no capability and no way to gain
one; an unprivileged user where the process may still change it; a system call filter (no sockets,
no io_uring, which would go around the filter, no namespaces, no tracing, no further processes).
"""

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys
from dataclasses import dataclass

NOBODY = 65534
CONFINED = "confined\n"
"""Written to standard error as the last thing before the command takes over."""

_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_REG, _TRUNCATE = 1 << 5, 1 << 8, 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_WRITE = _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_ALL_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}

# Refused system calls: number on x86_64, number on aarch64.
_NONE = 0xFFFF
_REFUSED = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "ptrace": (101, 117),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "userfaultfd": (323, 282),
    "open_by_handle_at": (304, 265),
    "fork": (57, _NONE),
    "vfork": (58, _NONE),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_CLONE_THREAD = 0x10000
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32_BIT = 0x40000000


@dataclass(frozen=True)
class Request:
    """What to give up and what to run."""

    command: list[str]
    folder: str
    """Working folder; relative names of the command are below it."""
    readable: list[str]
    """Files and folders that may be read (and executed); missing ones are left out."""
    writable: list[str]
    limits: dict[str, int]
    """Resource limits by name of the constant, such as RLIMIT_AS."""
    landlock: bool
    """Whether Landlock is a must; if not, it is used where the kernel has it."""
    owned: list[str]
    """What the unprivileged user must own: root hands it over before it stops being root."""
    nobody: bool
    """Whether root must stop being root; if not, it does where it may."""


_libc = ctypes.CDLL(None, use_errno=True)


def _call(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def landlock_version() -> int:
    """Version of the kernel's Landlock interface, 0 if there is none."""
    version: int = _libc.syscall(
        _LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION
    )
    return max(0, version)


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= _OF_A_FILE
    rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
    _call(
        _libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0),
        "landlock_add_rule",
    )
    os.close(descriptor)


def _make_ruleset(request: Request) -> int | None:
    """Landlock rules, still to be put in force. None without Landlock."""
    version = landlock_version()
    if not version:
        return None
    files = _ALL_FILE_RIGHTS[max(known for known in _ALL_FILE_RIGHTS if known <= version)]
    network = 0b11 if version >= 4 else 0  # TCP bind and connect
    scoped = 0b11 if version >= 6 else 0  # abstract sockets and signals stay inside
    attributes = struct.pack("=QQQ", files, network, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _call(
        _libc.syscall(
            _LANDLOCK_CREATE_RULESET,
            ctypes.create_string_buffer(attributes, 24),
            ctypes.c_size_t(size),
            0,
        ),
        "landlock_create_ruleset",
    )
    for path in request.readable:
        _allow_path(ruleset, path, _READ & files)
    for path in request.writable:
        _allow_path(ruleset, path, _WRITE & files)
    _allow_path(ruleset, "/dev/null", (_READ_FILE | _WRITE_FILE) & files)
    return ruleset


def _filter_system_calls() -> None:
    try:
        column, architecture = _MACHINES[platform.machine()]
    except KeyError:
        return
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
    missing = 0x00050000 | errno.ENOSYS
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    numbers = [pair[column] for pair in _REFUSED.values()]
    program = [
        (load, 0, 0, 4),  # architecture
        (equal, 1, 0, architecture),
        (answer, 0, 0, kill),
        (load, 0, 0, 0),  # system call number
        # The C library falls back from clone3, whose flags a filter cannot see, to clone.
        (equal, 0, 1, _CLONE3[column]),
        (answer, 0, 0, missing),
        (equal, 0, 3, _CLONE[column]),
        (load, 0, 0, 16),  # its flags: a thread is allowed, a process is not
        (any_bit, len(numbers) + 1, 0, _CLONE_THREAD),
        (answer, 0, 0, refuse),
        (at_least, len(numbers) + 1, 0, _X32_BIT),
    ]
    for index, number in enumerate(numbers):
        program.append((equal, len(numbers) - index, 0, number))
    program += [(answer, 0, 0, allow), (answer, 0, 0, refuse)]
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    _call(
        _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(header), 0, 0),
        "seccomp",
    )


def _become_nobody(owned: list[str], *, must: bool) -> None:
    """Stop being root. A container that forbids even that leaves root without capabilities."""
    if os.geteuid() != 0:
        return
    try:
        for path in owned:
            os.chown(path, NOBODY, NOBODY)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except PermissionError:
        if must:
            raise


def _drop_capabilities() -> None:
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3, this process
    _call(_libc.capset(header, bytes(24)), "capset")


def confine_and_run(request: Request) -> None:
    """Does not return: the process becomes the command. Raises `OSError` before that."""
    os.chdir(request.folder)
    ruleset = _make_ruleset(request)
    if ruleset is None and request.landlock:
        raise OSError(errno.EOPNOTSUPP, "Landlock is missing")
    _become_nobody(request.owned, must=request.nobody)
    _drop_capabilities()
    _call(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    for name, value in request.limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails with EFBIG instead
    if ruleset is not None:
        _call(_libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
        os.close(ruleset)
    _filter_system_calls()
    os.write(sys.stderr.fileno(), CONFINED.encode())
    os.execv(request.command[0], request.command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    try:
        confine_and_run(Request(**json.loads(sys.argv[1])))
    except OSError as failure:
        sys.exit(f"confine: {failure.strerror}: {failure.filename}")
