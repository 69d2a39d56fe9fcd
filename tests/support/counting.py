"""What a running gateway holds: tasks, sockets, descriptors, processes and memory."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from support.gateway import Gateway
from support.processes import descendants, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Census", "Holdings", "counted_gateway"]

_CENSUS = Path(__file__).resolve().parent / "census"
_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a gateway held at one moment."""

    tasks: Counter[str]
    """How many tasks run each coroutine."""
    sockets: int
    descriptors: int
    processes: int

    def surplus(self, before: Holdings, *, spare_sockets: int = 0) -> dict[str, object]:
        """Return what there is more of than ``before``, if it is sockets by more than ``spare_sockets``."""
        numbers = {
            "sockets": self.sockets - before.sockets - spare_sockets,
            "descriptors": self.descriptors - before.descriptors - spare_sockets,
            "processes": self.processes - before.processes,
        }
        more: dict[str, object] = {name: number for name, number in numbers.items() if number > 0}
        return more | dict(self.tasks - before.tasks)


class Census:
    """Counts what a gateway that was started by ``counted_gateway`` holds."""

    def __init__(self, gateway: Gateway, path: Path) -> None:
        self._gateway = gateway
        self._path = path
        self._process = Path("/proc") / str(gateway.process.pid)

    def take(self) -> Holdings:
        """Return what the gateway holds now."""
        self._path.unlink(missing_ok=True)
        self._gateway.process.send_signal(signal.SIGUSR1)
        wait_until(self._path.exists, within_s=_WITHIN_S, what="the gateway counts its tasks")
        open_files = self._open_files()
        return Holdings(
            Counter(json.loads(self._path.read_text())),
            sum(name.startswith("socket:") for name in open_files),
            len(open_files),
            len(descendants(self._gateway.process.pid)),
        )

    def _open_files(self) -> list[str]:
        names = []
        for descriptor in (self._process / "fd").iterdir():
            # One may be closed meanwhile.
            with suppress(OSError):
                names.append(str(descriptor.readlink()))
        return names

    def settles_to(self, before: Holdings, *, spare_sockets: int = 0) -> None:
        """Fail unless the gateway soon holds no more than ``before``, but for ``spare_sockets``.

        The pool of the HTTP client notices at its next use what the other side has closed. So how many idle
        connections it has at rest depends on how many it needed at once; a leak grows with the number of calls.
        """
        last: list[dict[str, object]] = []

        def settled() -> bool:
            last.append(self.take().surplus(before, spare_sockets=spare_sockets))
            return not last[-1]

        try:
            wait_until(settled, within_s=_WITHIN_S, what="the gateway lets go of what it held")
        except AssertionError:
            message = f"still held after {_WITHIN_S:g} s: {last[-1]}"
            raise AssertionError(message) from None

    def resident_bytes(self) -> int:
        """Return the resident size of the gateway."""
        return self._status_bytes("VmRSS:")

    def peak_bytes(self) -> int:
        """Return the largest resident size since ``reset_peak``."""
        return self._status_bytes("VmHWM:")

    def reset_peak(self) -> None:
        """Begin to measure the largest resident size anew (proc(5), ``clear_refs``)."""
        (self._process / "clear_refs").write_text("5")

    def _status_bytes(self, name: str) -> int:
        return int((self._process / "status").read_text().partition(name)[2].split()[0]) * 1024


@contextmanager
def counted_gateway(
    *arguments: str, directory: Path, env: Mapping[str, str] | None = None
) -> Iterator[tuple[Gateway, Census]]:
    """Start ``agentapi dev`` in ``directory`` such that its tasks can be counted."""
    report = directory / "census.json"
    path = os.pathsep.join(filter(None, [str(_CENSUS), os.environ.get("PYTHONPATH")]))
    # The database's connections are processes of its own, and as many as there may be are there from the start.
    fixed = {"AGENTAPI_DATABASE_POOL_MIN": "2", "AGENTAPI_DATABASE_POOL_MAX": "2"}
    extra = {**fixed, **(env or {}), "PYTHONPATH": path, "TEST_CENSUS": str(report)}
    with Gateway.start(*arguments, data_dir=directory / "data", env=extra) as gateway:
        yield gateway, Census(gateway, report)
