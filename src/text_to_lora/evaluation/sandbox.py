"""The process that generated code runs in: limited first, then given code, tests and a token.

`code.py` starts it as `python -I sandbox.py DESCRIPTOR` and talks to it over that socket; it uses the
standard library alone. A message is 8 bytes of length and JSON. In turn:

    grader: {"seconds", "memory", "file_bytes", "folder"}    limits and the scratch folder
    sandbox: {"ready": true}
    grader: {"code"}                                          run first, knows neither tests nor token
    sandbox: {"defined": true}
    grader: {"tests"}, {"token"}                              the token is read once the tests passed
    sandbox: {"token"} or {"error"}
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import struct
import sys
import types
from typing import Any, Final

HEADER: Final = struct.Struct(">Q")

# Of linux/sched.h, linux/prctl.h and linux/seccomp.h.
_CLONE_THREAD, _CLONE_NEWIPC, _CLONE_NEWUSER = 0x10000, 0x8000000, 0x10000000
_CLONE_NEWPID, _CLONE_NEWNET = 0x20000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER, _KILL, _ALLOW, _ERRNO = 2, 0x80000000, 0x7FFF0000, 0x50000
_EPERM, _ENOSYS, _SIGKILL = 1, 38, 9
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # places in struct seccomp_data
_X32 = 0x40000000  # system calls of the x32 ABI lie above it

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
# clone3 hides its flags behind a pointer; told that it does not exist, libc uses clone.
_CLONE3: Final = 435
# fork, vfork, kill, tkill, ptrace, process_vm_readv and _writev, io_uring_setup, pidfd_send_signal.
_FORBIDDEN: Final = {
    "x86_64": (57, 58, 62, 200, 101, 310, 311, 425, 424),
    "aarch64": (129, 130, 117, 270, 271, 425, 424),
}
_SOCKET: Final = {"x86_64": 41, "aarch64": 198}

# Of linux/landlock.h; the calls have the same number on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_SCOPES = 3  # abstract sockets and signals stay inside

_READABLE: Final = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
)


def main() -> None:
    """Limit this process, then run what the grader sends."""
    descriptor = int(sys.argv[1])
    # Bound now, since the code may replace whatever it can reach by name.
    run, build, read, leave = exec, compile, _receive, os._exit
    _limit(**read(descriptor))
    _send(descriptor, {"ready": True})
    answer = types.ModuleType("answer")
    sys.modules["answer"] = answer
    try:
        run(build(read(descriptor)["code"], "answer.py", "exec"), answer.__dict__)
        _send(descriptor, {"defined": True})
        run(build(read(descriptor)["tests"], "tests.py", "exec"), answer.__dict__)
        reply = read(descriptor)
    except BaseException as error:  # SystemExit too: leaving early is not passing
        reply = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    _send(descriptor, reply)
    leave(0)


def _receive(
    descriptor: int,
    _read: Any = os.read,
    _header: Any = HEADER,
    _parse: Any = json.loads,
) -> dict[str, Any]:
    def exactly(size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            part = _read(descriptor, size - len(parts))
            if not part:
                raise EOFError("the grader has gone")
            parts += part
        return parts

    payload: dict[str, Any] = _parse(exactly(_header.unpack(exactly(_header.size))[0]))
    return payload


def _send(
    descriptor: int,
    message: dict[str, Any],
    _write: Any = os.write,
    _header: Any = HEADER,
    _format: Any = json.dumps,
) -> None:
    data = _format(message).encode()
    data = _header.pack(len(data)) + data
    while data:
        data = data[_write(descriptor, data) :]


def _limit(*, seconds: int, memory: int, file_bytes: int, folder: str) -> None:
    """Take from this process what the code must not have, as far as the system can.

    `code.measure_isolation` finds out how far by trying.
    """
    processes = False
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        _unshare(libc)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _restrict_files(libc, folder)
        processes = _filter_calls(libc)
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_AS, memory),
    ]
    if not processes:  # limits count threads too, the filter lets them be
        limits.append((resource.RLIMIT_NPROC, 0))
    for kind, value in limits:
        with contextlib.suppress(ValueError, OSError):  # macOS has no limit of address space
            resource.setrlimit(kind, (value, value))


def _unshare(libc: ctypes.CDLL) -> None:
    """Go on in namespaces of its own, as their first process, if that is allowed."""
    spaces = _CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWPID | _CLONE_NEWIPC
    if libc.unshare(spaces):
        return
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def _restrict_files(libc: ctypes.CDLL, folder: str) -> None:
    """Leave Python's own files to read and the scratch folder to write, where there is Landlock."""

    def call(number: int, *arguments: int | bytes | None) -> int:
        wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        return int(libc.syscall(ctypes.c_long(number), *wide))

    abi = call(_CREATE_RULESET, None, 0, 1)
    if abi < 1:
        return
    handled = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    attributes = struct.pack("=QQQ", handled, 0, _SCOPES)[: 24 if abi >= 6 else 8]
    rules = call(_CREATE_RULESET, attributes, len(attributes), 0)
    reading = _READ | _LIST | _EXECUTE
    allowed = dict.fromkeys([*_READABLE, sys.prefix, sys.base_prefix], reading)
    for path, access in {**allowed, "/dev/null": _READ | _WRITE, folder: handled}.items():
        if not os.path.exists(path):
            continue
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        access &= handled if os.path.isdir(path) else handled & _OF_FILES
        call(_ADD_RULE, rules, 1, struct.pack("=Qi", access, opened), 0)
        os.close(opened)
    call(_RESTRICT_SELF, rules, 0)
    os.close(rules)


def _filter_calls(libc: ctypes.CDLL) -> bool:
    """Forbid new processes, signals and sockets; threads stay (seccomp)."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return False

    def refuse(number: int, error: int = _EPERM) -> list[tuple[int, int, int, int]]:
        return [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]

    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        *refuse(_CLONE3, _ENOSYS),
    ]
    for number in (*_FORBIDDEN[machine], _SOCKET[machine]):
        program += refuse(number)
    program += [
        (_IF_EQUAL, 0, 4, _CLONE[machine]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_IF_BITS, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    held = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(program), ctypes.addressof(held))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0)


if __name__ == "__main__":
    main()
