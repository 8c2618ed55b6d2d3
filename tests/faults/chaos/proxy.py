"""A network between the processes and the server that can be made as bad as one likes.

One port for each class of connections. Its weather: delay, trickle (a few bytes at a time), loss in
one direction (the link looks alive and is cut in the end), cuts, and the loss of one reply: the
server has done what it was asked, and the answer never arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

# The last message of an answer outside a transaction.
_READY = b"Z\0\0\0\x05I"


@dataclass
class Weather:
    """What the links of one class go through now."""

    delay_s: float = 0.0
    trickle: bool = False
    hole: str = ""  # "up" (towards the server), "down", or none
    lose: bytes = b""  # the next answer with these bytes in it is lost


@dataclass(eq=False)
class Link:
    """One connection of a process, and ours to the server."""

    kind: str
    ends: list[asyncio.StreamWriter] = field(default_factory=list)
    torn: bool = False  # bytes are missing

    def cut(self) -> None:
        """End both sides at once."""
        for end in self.ends:
            with contextlib.suppress(Exception):
                end.transport.abort()


class Proxy:
    """Serves every class on a port of this machine until `close`, on a thread of its own."""

    def __init__(self, socket_path: str, classes: Sequence[str]) -> None:
        self.socket_path = socket_path
        self.weather = {kind: Weather() for kind in classes}
        self.ports: dict[str, int] = {}
        self.lost_replies: list[tuple[float, str]] = []
        self._links: set[Link] = set()
        self._doors: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self._begun.wait()

    def close(self) -> None:
        """Cut everything and stop."""
        for kind in self.weather:
            self.cut(kind)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self, kind: str, *, torn: bool = False) -> None:
        """Cut all links of a class; with `torn`, those that bytes were lost on."""

        def act() -> None:
            for link in list(self._links):
                if link.kind == kind and (link.torn or not torn):
                    link.cut()

        self._loop.call_soon_threadsafe(act)

    def clear(self) -> None:
        """Let the sun shine; links that lost something are cut."""
        for kind in self.weather:
            self.weather[kind] = Weather()
            self.cut(kind, torn=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._begun.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())

    async def _end(self) -> None:
        """Close the doors and everything that came through them."""
        for door in self._doors:
            door.close()
        ours = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not ours]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        # The transports close a turn later.
        await asyncio.sleep(0.01)

    async def _listen(self) -> None:
        for kind in self.weather:

            async def attend(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str = kind
            ) -> None:
                await self._attend(kind, reader, writer)

            server = await asyncio.start_server(attend, "127.0.0.1", 0)
            self._doors.append(server)
            self.ports[kind] = server.sockets[0].getsockname()[1]

    async def _attend(
        self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        link = Link(kind, [writer])
        self._links.add(link)
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self.socket_path)
            link.ends.append(up_writer)
            pumps = [
                asyncio.create_task(self._pump(link, "up", reader, up_writer)),
                asyncio.create_task(self._pump(link, "down", up_reader, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            # A hole hides the end of one side from the other.
            while self.weather[kind].hole:  # noqa: ASYNC110 - another thread ends it
                await asyncio.sleep(0.02)
        except OSError:
            pass
        finally:
            self._links.discard(link)
            for end in link.ends:
                with contextlib.suppress(Exception):
                    end.close()

    async def _pump(
        self, link: Link, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                weather = self.weather[link.kind]
                if weather.hole == way or link.torn:
                    link.torn = True
                    continue
                if (
                    way == "down"
                    and weather.lose
                    and weather.lose in data
                    and data.endswith(_READY)
                ):
                    weather.lose = b""
                    self.lost_replies.append((time.time(), link.kind))
                    link.cut()
                    return
                if weather.delay_s:
                    await asyncio.sleep(weather.delay_s)
                if weather.trickle:
                    for start in range(0, len(data), 200):
                        writer.write(data[start : start + 200])
                        await asyncio.sleep(0.005)
                else:
                    writer.write(data)
                await writer.drain()
