"""Download of pinned files: resumed where it broke off, checked before it is used."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from c2lst._logging import logger, progress

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 2**18
ATTEMPTS = 3
TIMEOUT_S = 60


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, expected: str) -> None:
    """Raise `ValueError` unless the file has the expected digest."""
    found = sha256(path)
    if found != expected:
        raise ValueError(
            f"{path} is not the file that was pinned: sha256 {found}, expected {expected}. Remove it (or repair it) "
            "and call again."
        )


def fetch(url: str, target: Path, expected: str) -> Path:
    """Return `target`, downloaded from `url` unless it is there already with the digest `expected`.

    Bytes arrive in `<target>.part`, which a later call continues; it becomes `target` only once the digest is right.
    """
    if target.is_file():
        if sha256(target) == expected:
            return target
        logger.warning("%s is damaged and is downloaded again.", target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    resumed = part.is_file() and part.stat().st_size > 0
    _download(url, part)
    if resumed and sha256(part) != expected:  # what lay there was of another file: once more from the start
        part.unlink()
        _download(url, part)
    found = sha256(part)
    if found != expected:
        part.unlink()
        raise ValueError(
            f"{url} (for {target}) is not the file that was pinned: sha256 {found}, expected {expected}. "
            "It was not kept; the source or a proxy on the way has changed it."
        )
    os.replace(part, target)
    return target


def _download(url: str, part: Path) -> None:
    """Bring `part` to the full length of the file at `url`, in a few attempts."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if _continue(url, part):
                return
            problem: Exception = ConnectionError("the connection closed early")
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise ConnectionError(f"{url} answers {error.code} ({error.reason}).") from error
            problem = error
        except (OSError, http.client.HTTPException) as error:
            problem = error
        logger.info("attempt %d of %d at %s: %s", attempt, ATTEMPTS, url, problem)
    kept = part.stat().st_size if part.is_file() else 0
    raise ConnectionError(
        f"{url} could not be downloaded ({problem}). {kept} bytes are kept in {part}; call again to go on from there, "
        "or put the files into a directory and pass path=."
    ) from problem


def _continue(url: str, part: Path) -> bool:
    """Ask for what `part` lacks; say whether the file is complete now."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()  # nothing lies beyond what is here: the digest will tell
        return True
    with answer:
        if have and not (answer.status == 206 and _starts_at(answer.headers.get("Content-Range", "")) == have):
            have = 0  # the server sends the whole file
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        bar = progress(total=None if total is None else total // 1000, desc=part.name.removesuffix(".part"), unit="kB")
        with open(part, "ab" if have else "wb") as file, bar:
            while block := answer.read(CHUNK):
                file.write(block)
                bar.update(len(block) // 1000)
    return total is None or part.stat().st_size >= total


def _starts_at(content_range: str) -> int | None:
    """Return the first byte of `bytes 100-199/200`."""
    first = content_range.removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else None
