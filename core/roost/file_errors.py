"""Errors of the operating system about files and folders, in words and with a remedy."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SYSTEM_PARTS = 2
"""Paths with so few parts, such as ``/usr``, are the system's."""
_NO_RIGHT = (errno.EACCES, errno.EPERM)


def explain(error: OSError, path: Path) -> str:
    """Return two clauses: what is wrong with a path, and what to do about it."""
    said = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _NO_ROOM:
        return f"{said}; free some space there"
    if error.errno == errno.EROFS:
        return f"{said}; mount it so that it can be written"
    if error.errno in _NO_RIGHT:
        return f"{said}; {owner_remedy(path)}"
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        wrong = next((each for each in (path, *path.parents) if os.path.lexists(each)), path)
        kind = "folder" if wrong.is_dir() else "file"
        return f"{said}; move the {kind} {wrong} away"
    link = next((each for each in (path, *path.parents) if each.is_symlink()), None)
    if error.errno in (errno.ENOENT, errno.ELOOP) and link is not None:
        return f"{said}; {link} is a link to {link.readlink()}: remove the link, or make what it leads to"
    if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
        return f"{said}; files there cannot be locked: use a local disk, or a network disk with locks"
    return f"{said}; check the path"


def owner_remedy(path: Path) -> str:
    """Return the owner and mode of a path, or of the nearest visible folder above it, and what to do about it."""
    for each in (path, *path.parents):
        try:
            found = each.stat()
        except OSError:
            continue
        me = user_name(os.geteuid())
        mode = f"mode {stat.S_IMODE(found.st_mode):04o}"
        if found.st_uid == os.geteuid():
            return f"{each} is closed to its own user {me} ({mode}); run: chmod u+rwX {each}"
        # Never a folder of the system, nor one that holds more than what was asked for.
        own = each == path and len(path.absolute().parts) > SYSTEM_PARTS
        remedy = f"run: chown -R {me} {each}" if own else f"let {me} write there"
        return f"{each} belongs to {user_name(found.st_uid)} ({mode}) and this is {me}; {remedy}"
    return "check its owner and mode"


def user_name(number: int) -> str:
    """A user's name, or the number of one without a name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
