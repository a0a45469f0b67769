"""Files that anybody may have written: read whole, bounded, as plain data, or refused in one line.

Sizes are compared before contents are touched, only regular files are opened, and nothing here
runs code from a file. What the data mean is checked by whoever asks for them.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mario_cli import UsageError

MEMBER = b"PK\x01\x02"  # before each member in an archive's directory (PKWARE's APPNOTE, 4.3.12)
MOST_MEMBERS = 10_000
# What an archive may unpack to: so many times its own size and a little. Weights hardly shrink.
MOST_TIMES = 20  # a demo's buttons do: see MAX_FILE_BYTES there
SLACK_BYTES = 2**20
MAX_JSON_BYTES = 2**20
SEAL = b"sha256:"
SEAL_BYTES = len(SEAL) + 64
END_OF_ARCHIVE = 22  # bytes of an archive's end record, whose last two are its comment's length

# What zipfile raises on an archive that is torn, or made to break it.
BROKEN_ARCHIVE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError),
    *(struct.error, IndexError, OverflowError),
)


class BadFile(UsageError):
    """A file is missing, torn, hostile or of another kind; the message says which."""


def read_file(path: Path, most: int) -> bytes:
    """Return what a regular file holds.

    Args:
        path: the file.
        most: bytes that such a file has at most.

    Raises:
        BadFile: it is missing, may not be read, is larger, or is a folder, a pipe or a device.
    """
    try:
        # A pipe that nobody writes to would be waited for.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    except (OSError, ValueError) as error:  # ValueError: a null in its name
        raise BadFile(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise BadFile(f"cannot read {path}: it is not a regular file")
    with os.fdopen(handle, "rb") as file:
        if status.st_size > most:
            raise BadFile(f"{path} has over {most / 2**20:.3g} MiB: not what it should be")
        try:
            content = file.read(status.st_size)  # room is made for as much as is asked for
        except OSError as error:
            raise BadFile(f"cannot read {path}: {error.strerror}") from error
    return content


def make_folder(path: Path) -> None:
    """Make a folder to write to, before what is to be written is worked for.

    Raises:
        UsageError: there is a file, or one may not write there.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file: name a folder to write to")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot make the folder {path}: {reason}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"one may not write to {path}: name another folder")


_BINARY = getattr(os, "O_BINARY", 0)  # Windows would turn line ends


def parse_json(content: bytes, name: str) -> dict[str, Any]:
    """Return the mapping that JSON holds.

    Args:
        content: UTF-8.
        name: of the file, for errors.

    Raises:
        BadFile: it is too long, no JSON, too deep, or holds something else.
    """
    if len(content) > MAX_JSON_BYTES:
        raise BadFile(f"{name} has over {MAX_JSON_BYTES >> 20} MiB of JSON")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:  # bad UTF-8 and numbers of 10,000 digits, too
        raise BadFile(f"{name} is not JSON ({str(error)[:100]})") from error
    if not isinstance(found, dict):
        raise BadFile(f"{name} holds no mapping")
    return found


# --------------------------------------------------------------------------------------------
# Archives
# --------------------------------------------------------------------------------------------


def read_archive(
    content: bytes, name: str, is_known: Callable[[str], bool], wanted: Callable[[str], bool]
) -> dict[str, bytes]:
    """Return members of a zip file by name, after all of them were looked at.

    They must be stored or deflated, not encrypted, each there once, and unpack to no more than what
    such a file holds for its size.

    Args:
        content: the file.
        name: its name, for errors.
        is_known: whether such a file has a member of that name.
        wanted: which members to return.

    Raises:
        BadFile: one of this is not so, or the file is torn.
    """
    # Members are counted before they are listed: a listed one takes ten times its place.
    if content.count(MEMBER) > MOST_MEMBERS:
        raise BadFile(f"{name} has over {MOST_MEMBERS:,} members")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            for member in members:
                _check_member(member, name, is_known)
            if len({member.filename for member in members}) != len(members):
                raise BadFile(f"{name} has two members of one name")
            most = SLACK_BYTES + MOST_TIMES * len(content)
            if sum(member.file_size for member in members) > most:
                raise BadFile(f"{name} unpacks to over {most >> 20} MiB: no such file does")
            # zipfile unpacks no further than a member declares, then compares its checksum.
            found = {one.filename: archive.read(one) for one in members if wanted(one.filename)}
            sizes = {one.filename: one.file_size for one in members}
            if any(len(data) != sizes[member] for member, data in found.items()):
                raise BadFile(f"{name} is not a whole zip file (a member is short)")
    except BROKEN_ARCHIVE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:100]
        raise BadFile(f"{name} is not a whole zip file ({reason})") from error
    return found


def _check_member(member: zipfile.ZipInfo, name: str, is_known: Callable[[str], bool]) -> None:
    """Raise BadFile if no honest archive has such a member."""
    if not is_known(member.filename):
        raise BadFile(f"{name} holds {member.filename[:60]!r}, which no such file has; refused")
    if member.flag_bits & 0x41:
        raise BadFile(f"{name} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadFile(f"{name} is packed in a way that no such file is ({member.compress_type})")
    if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
        raise BadFile(f"{name} is not a whole zip file (a stored member of two sizes)")


def sealed(content: bytes) -> bytes:
    """Return a zip file with the checksum of all that it holds as its comment."""
    assert content[-END_OF_ARCHIVE:][:4] == b"PK\x05\x06", "it has a comment already"
    content = content[:-2] + struct.pack("<H", SEAL_BYTES)
    return content + SEAL + hashlib.sha256(content).hexdigest().encode()


def check_seal(content: bytes, name: str) -> None:
    """Compare a zip file with its checksum; an older version's has none.

    Raises:
        BadFile: they do not agree.
    """
    seal = content[-SEAL_BYTES:]
    if not seal.startswith(SEAL):
        return
    if hashlib.sha256(content[:-SEAL_BYTES]).hexdigest().encode() != seal[len(SEAL) :]:
        raise BadFile(f"{name} is not as it was written: its checksum is another")


# --------------------------------------------------------------------------------------------
# Arrays
# --------------------------------------------------------------------------------------------

_NPY = re.compile(rb"\x93NUMPY[\x01-\x03]\x00")
MAX_NPY_HEADER = 4096


def parse_npy(content: bytes, name: str) -> np.ndarray:
    """Return the array in an .npy file; it is as large as the file, whatever its header says.

    Raises:
        BadFile: it is no such file, holds Python objects, or is shorter or longer than it says.
    """
    try:
        if not _NPY.match(content):
            raise ValueError("not an .npy file")
        width = 2 if content[6] == 1 else 4
        size = int.from_bytes(content[8 : 8 + width], "little")
        if size > MAX_NPY_HEADER:
            raise ValueError("its header is too long")
        header = ast.literal_eval(content[8 + width : 8 + width + size].decode("ascii").strip())
        data = memoryview(content)[8 + width + size :]
        dtype = np.dtype(header["descr"])
        shape: Any = header["shape"]
        if dtype.hasobject or dtype.itemsize == 0:
            raise ValueError("it holds Python objects, or nothing")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"its shape is {shape!r:.40}")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"{len(data)} bytes of {dtype}{list(shape)}"[:80])
        order: Literal["F", "C"] = "F" if header["fortran_order"] else "C"
        return np.frombuffer(data, dtype).reshape(shape, order=order).copy()
    except (
        *(ValueError, SyntaxError, TypeError, KeyError, OverflowError, IndexError),
        *(MemoryError, RecursionError),  # ast, on deep headers
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:100]
        raise BadFile(f"{name} is not a plain array ({reason})") from error


def fill(
    target: np.ndarray,
    saved: Any,
    name: str,
    least: Any = None,
    most: Any = None,
) -> None:
    """Set an array to one that was saved, if it is of the same kind.

    Args:
        target: what to fill.
        saved: an array or a tensor.
        name: for errors.
        least: what no element is below: a number or an array.
        most: what no element is above.

    Raises:
        BadFile: another shape or kind, not finite, or out of range.
    """
    array = np.asarray(saved)
    if array.shape != target.shape or array.dtype.kind != target.dtype.kind:
        raise BadFile(
            f"{name} is {array.dtype}{list(array.shape)}, here {target.dtype}{list(target.shape)}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadFile(f"{name} is not finite")
    if target.dtype.kind in "iu" and array.dtype != target.dtype:
        kind = np.iinfo(target.dtype)
        least = kind.min if least is None else least
        most = kind.max if most is None else most
    if (least is not None and (array < least).any()) or (most is not None and (array > most).any()):
        raise BadFile(f"{name} is out of its range, {least} to {most}")
    target[...] = array
