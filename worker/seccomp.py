"""A seccomp filter: what reading a file never needs, the kernel refuses with "operation not permitted"."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import NamedTuple

_ABSENT = -1  # the machine never had this call

# Name, number on x86-64, number on aarch64; from the kernel's unistd.h.
_TABLE = """
# No network, and no socket of any kind.
socket 41 198; socketpair 53 199; connect 42 203; bind 49 200; listen 50 201; accept 43 202; accept4 288 242;
sendto 44 206; sendmsg 46 211; sendmmsg 307 269
# No program, no process, no way out of the process group that is killed at the end.
execve 59 221; execveat 322 281; fork 57 -; vfork 58 -; setsid 112 157; setpgid 109 154; unshare 272 97;
setns 308 268
# No other process: to look into, to signal, to slow down.
ptrace 101 117; process_vm_readv 310 270; process_vm_writev 311 271; kcmp 312 272; process_madvise 440 440;
pidfd_open 434 434; pidfd_getfd 438 438; pidfd_send_signal 424 424; tkill 200 130; rt_sigqueueinfo 129 138;
rt_tgsigqueueinfo 297 240; setpriority 141 140; ioprio_set 251 30; sched_setscheduler 144 119; sched_setattr 314 274;
migrate_pages 256 238; move_pages 279 239
# No memory or queue that is shared with other processes of this user.
shmget 29 194; shmat 30 196; shmctl 31 195; semget 64 190; semop 65 193; semctl 66 191; semtimedop 220 192;
msgget 68 186; msgsnd 69 189; msgrcv 70 188; msgctl 71 187; mq_open 240 180; mq_unlink 241 181
# Landlock watches content, not owners, modes, times and attributes: these could still spoil files outside.
chmod 90 -; fchmod 91 52; fchmodat 268 53; fchmodat2 452 452; chown 92 -; fchown 93 55; lchown 94 -; fchownat 260 54;
utime 132 -; utimes 235 -; futimesat 261 -; utimensat 280 88; setxattr 188 5; lsetxattr 189 6; fsetxattr 190 7;
setxattrat 463 463; removexattr 197 14; lremovexattr 198 15; fremovexattr 199 16; removexattrat 466 466;
file_setattr 469 469; truncate 76 45; mknod 133 -; mknodat 259 33; name_to_handle_at 303 264;
open_by_handle_at 304 265
# Nothing of the system, also for root.
mount 165 40; umount2 166 39; pivot_root 155 41; chroot 161 51; swapon 167 224; swapoff 168 225; open_tree 428 428;
open_tree_attr 467 467; move_mount 429 429; fsopen 430 430; fsconfig 431 431; fsmount 432 432; fspick 433 433;
mount_setattr 442 442; quotactl 179 60; quotactl_fd 443 443; acct 163 89; init_module 175 105; finit_module 313 273;
delete_module 176 106; reboot 169 142; kexec_load 246 104; kexec_file_load 320 294; sethostname 170 161;
setdomainname 171 162; settimeofday 164 170; clock_settime 227 112; clock_adjtime 305 266; adjtimex 159 171;
iopl 172 -; ioperm 173 -
# The parts of the kernel in which most of its holes were found.
bpf 321 280; perf_event_open 298 241; userfaultfd 323 282; add_key 248 217; request_key 249 218; keyctl 250 219;
io_uring_setup 425 425; io_uring_enter 426 426; io_uring_register 427 427; fanotify_init 300 262;
fanotify_mark 301 263
# The limits stay as they are.
setrlimit 160 164
"""


def _denied() -> list[tuple[int, int]]:
    lines = [line for line in _TABLE.splitlines() if not line.startswith("#")]
    rows = [entry.split() for line in lines for entry in line.split(";") if entry.strip()]
    return [tuple(_ABSENT if number == "-" else int(number) for number in row[1:]) for row in rows]  # type: ignore[misc]


_CLONE, _CLONE3, _SECCOMP = (56, 220), (435, 435), (317, 277)
_KILL, _TGKILL, _PRLIMIT, _PRCTL = (62, 129), (234, 131), (302, 261), (157, 167)
_CLONE_THREAD = 0x00010000
_PR_SET_PDEATHSIG = 1


class _Machine(NamedTuple):
    column: int
    audit_arch: int


_MACHINES = {"x86_64": _Machine(0, 0xC000003E), "aarch64": _Machine(1, 0xC00000B7)}

_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_REFUSE = _ERRNO | errno.EPERM
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument takes eight bytes, low half first


def available() -> str | None:
    """None when the filter can be set here; else why not, in a few words."""
    if sys.platform != "linux":
        return f"{platform.system()} has no seccomp"
    if platform.machine() not in _MACHINES or struct.calcsize("P") != 8:
        return f"no seccomp filter was written for {platform.machine()}"
    libc = ctypes.CDLL(None, use_errno=True)
    action, get_action_avail = ctypes.c_uint32(_ERRNO), ctypes.c_ulong(2)
    number = ctypes.c_long(_SECCOMP[_MACHINES[platform.machine()].column])
    if libc.syscall(number, get_action_avail, ctypes.c_ulong(0), ctypes.byref(action)) != 0:
        return f"the kernel refuses seccomp filters ({os.strerror(ctypes.get_errno())})"
    return None


def restrict() -> None:
    """Refuse, from now on and in every thread of this process, the calls above. Raises OSError when that fails.

    Needs the flag "no new privileges". Cannot be taken back.
    """
    program = _program(_MACHINES[platform.machine()], os.getpid())
    code = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    set_filter, all_threads = ctypes.c_ulong(1), ctypes.c_ulong(1)
    number = ctypes.c_long(_SECCOMP[_MACHINES[platform.machine()].column])
    if (failed := libc.syscall(number, set_filter, all_threads, ctypes.c_char_p(header))) != 0:
        code_number = ctypes.get_errno() if failed < 0 else errno.ESRCH
        raise OSError(code_number, f"the seccomp filter was refused ({os.strerror(code_number)})")


def _program(machine: _Machine, own_pid: int) -> bytes:
    """The filter as BPF. After each block that does not match, the accumulator still holds the call's number."""

    def number(call: tuple[int, int]) -> int:
        return call[machine.column]

    lines = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, machine.audit_arch),
        (_RETURN, 0, 0, _KILL_PROCESS),  # 32-bit calls have other numbers
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine.column == 0:
        lines += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _REFUSE)]  # x32 calls, too
    for call in _denied():
        if number(call) != _ABSENT:
            lines += [(_EQUAL, 0, 1, number(call)), (_RETURN, 0, 0, _REFUSE)]
    # Without clone3, whose flags a filter cannot see, the C library uses clone; there, threads pass.
    lines += [(_EQUAL, 0, 1, number(_CLONE3)), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    lines += _unless(number(_CLONE), [(_LOAD, 0, 0, _ARGUMENTS), (_ANY_BIT, 0, 1, _CLONE_THREAD)])
    for call in (_KILL, _TGKILL):  # abort() and a thread's own end signal themselves
        lines += _unless(number(call), [(_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 0, 1, own_pid)])
    # Limits may be asked for (no new value), not set.
    new_limit = _ARGUMENTS + 2 * 8
    asks = [(_LOAD, 0, 0, new_limit), (_EQUAL, 0, 3, 0), (_LOAD, 0, 0, new_limit + 4), (_EQUAL, 0, 1, 0)]
    lines += _unless(number(_PRLIMIT), asks)
    # The signal at the parent's death stays; everything else of prctl is harmless, and threads use it for their names.
    ends = [(_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 1, 0, _PR_SET_PDEATHSIG)]
    lines += _unless(number(_PRCTL), ends)
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _unless(call: int, test: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """For this call only: run the test, whose last line jumps over "allow" to "refuse" where it must."""
    body = [*test, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return [(_EQUAL, 0, len(body), call), *body]
