"""One process at a time in a folder, and the folder itself staying where it is."""
from __future__ import annotations

import os
from pathlib import Path

from core.common.errors import RunFailed, UserError
from core.common.files import lock_file, naming_errors
from core.common.text import warn

NAME = ".lock"  # in the folder, while a process works there: its process id


class FolderLock:
    """Holds an existing folder for this process until `release`, or until the process ends, however that comes.

    The lock is the operating system's, on an open file: none is ever left over. Programs that this process starts don't
    inherit it. Raises UserError naming folder, process and `way_out` where another process has it, RunFailed where the
    folder can't be written. Where there are no such locks (Windows, some network file systems) a warning says so.
    """

    def __init__(self, folder: Path, way_out: str) -> None:
        self.folder, self._path = folder, folder / NAME
        with naming_errors(self._path):
            while True:
                self._file = open(self._path, "a+b")  # noqa: SIM115, it stays open: it is the lock
                self._locked = lock_file(self._file.fileno())
                if self._locked is False:
                    raise self._refusal(way_out)
                if self._same():
                    break
                self._file.close()  # its holder ended and took it away after we had opened it
            if self._locked is None:
                warn(f"{folder}: this system can't lock it; see to it that no other process works there")
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n".encode())
            self._file.flush()

    def _refusal(self, way_out: str) -> UserError:
        self._file.seek(0)
        holder = self._file.read(20).decode("ascii", "replace").strip()
        self._file.close()
        who = f"process {holder}" if holder.isdecimal() else "another process"
        return UserError(f"{self.folder}: {who} is working there; {way_out}")

    def _same(self) -> bool:
        """Whether the file that we hold is still the one in the folder. While it is open no other has its number."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def check(self) -> None:
        """Raises RunFailed when the folder was deleted, moved or replaced since."""
        if not self._same():
            raise RunFailed(f"{self.folder}: was deleted, moved or replaced while this process worked there; "
                            "nothing more was written to it; start again, and leave the folder until the end")

    def release(self) -> None:
        """Let others work there. A second call does nothing."""
        if self._file.closed:
            return
        if self._locked and self._same():
            self._path.unlink()  # before others can lock it
        self._file.close()
