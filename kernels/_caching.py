"""Where compiled functions are kept: a cache folder for every kernel file.

It is named by a hash of the file's source and of those of the kernel files that it imports, because Numba's own cache does not
see an edit in a helper that lives in another file (numba #1833). Where no folder is writable, nothing is cached (numba #4908).
The folders are made before the first kernel runs, not by an import, and those of older versions that nobody has used for weeks
go.
Numba numbers the files of a function's signatures, and two processes that compile different ones at the same time would
take the same number, after which one is answered with the other's machine code: here every file has a name of its own.
"""
import collections
import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

KEPT, UNUSED = 4, 21 * 24 * 3600  # a file's folders of other versions that stay, the last used; seconds, before others go
ON_THE_HOST = {"__init__", "_caching", "_cuda", "_dispatch", "_later", "_processes"}  # compiled functions take nothing of these
_BESIDE = re.compile(r"^\s*from \.(\w*) import (\([^)]*\)|.+)", re.MULTILINE)


def imported(text, files):
    """Which of these kernel files a source imports itself; ast takes 70 ms for all sources, and the expression 1."""
    return files & {name for file, names in _BESIDE.findall(text) for name in re.findall(r"\w+", file or names)}


@functools.cache
def folder_names():
    """{kernel file: the name of its cache folder}."""
    texts = {file.stem: file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("*.py")}
    beside = {file: imported(text, texts.keys() - ON_THE_HOST) for file, text in texts.items()}
    names = {}
    for file in texts.keys() - ON_THE_HOST:
        reached, new = set(), {file}
        while new:
            reached |= new
            new = set().union(*map(beside.get, new)) - reached
        digest = hashlib.sha256("\0".join(f"{name}\0{texts[name]}" for name in sorted(reached)).encode())
        names[file] = f"kernels-{file}-{digest.hexdigest()[:16]}"
    return names


@functools.cache
def cache_folder():
    """What the kernel files' folders lie in, made if need be: the first of NPGEN_CACHE_DIR, the user's cache folder and the
    temporary folder where that can be done; None if there is none.
    """
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA", "~\\AppData\\Local")
    elif sys.platform == "darwin":
        home = "~/Library/Caches"
    else:
        home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    user = getattr(os, "getuid", lambda: "user")()
    roots = [os.environ.get("NPGEN_CACHE_DIR"), os.path.join(home, "npgen"),
             os.path.join(tempfile.gettempdir(), f"npgen-{user}")]
    for root in filter(None, roots):
        root = Path(root).expanduser().absolute()
        ours = [root / name for name in folder_names().values()]
        try:
            for folder in ours:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if all(map(_owned, ours)):  # never load another user's code
                for folder in ours:
                    tempfile.TemporaryFile(dir=folder).close()
                _leave(root, ours)
                return root
        except OSError:
            continue
    return None


def _owned(folder):
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def _leave(root, ours):
    """Mark folders as used now, and remove those of other versions, but for each file's last used and the ones in use."""
    with contextlib.suppress(OSError):
        for folder in ours:
            os.utime(folder)
        others = collections.defaultdict(list)
        for folder in set(root.iterdir()) - set(ours):
            name = re.fullmatch("kernels(-\\w+)?-[0-9a-f]{16}", folder.name)
            if name and folder.is_dir() and not folder.is_symlink() and _owned(folder):
                others[name[1]].append((folder.stat().st_mtime, folder))
        for versions in others.values():
            for used, other in sorted(versions, reverse=True)[KEPT:]:
                if time.time() - used > UNUSED:
                    shutil.rmtree(other, ignore_errors=True)


def enable_caching(compiled):
    """Give a function of a kernel file its cache."""
    package, _, file = compiled.__module__.rpartition(".")
    if package != __package__ or cache_folder() is None:
        return
    from numba import config
    saved, config.CACHE_DIR = config.CACHE_DIR, str(cache_folder() / folder_names()[file])
    try:
        compiled.enable_caching()
    finally:
        config.CACHE_DIR = saved
    with contextlib.suppress(AttributeError):  # a Numba that names its files otherwise
        compiled._cache._cache_file._data_name = lambda number: f"{compiled.__name__}-{secrets.token_hex(16)}.nbc"
