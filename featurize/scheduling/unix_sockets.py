"""Dask's messages over Unix sockets: only who may enter their folder can connect.

Addresses are `unix://FOLDER:NUMBER`, for the socket NUMBER in the folder. To listen at number 0 is to choose a free
one. The folder is in the place of a host, the number in that of a port, so that Dask's own options say where to listen.
Importing this module makes the scheme known to Dask in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed.comm.addressing import parse_host_port, unparse_host_port
from distributed.comm.core import BaseListener, Comm, CommClosedError, Connector
from distributed.comm.registry import Backend, backends
from distributed.comm.utils import from_frames, to_frames
from distributed.protocol.utils import pack_frames, unpack_frames

SCHEME = "unix"
LONGEST_PATH = 100
"""Bytes of the path of a socket, which the system stores in a field of 104 (macOS) or 108."""
_READ_AHEAD = 1 << 20
_LENGTH = struct.Struct("<Q")


class _UnixComm(Comm):
    """A connection of two processes. Each message is its length, and its frames."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, local: str, peer: str, deserialize: bool
    ) -> None:
        super().__init__(deserialize=deserialize)
        self._reader, self._writer = reader, writer
        self._local_addr, self._peer_addr = local, peer

    @property
    def local_address(self) -> str:
        """Return this side's address."""
        return self._local_addr

    @property
    def peer_address(self) -> str:
        """Return the other side's address."""
        return self._peer_addr

    async def read(self, deserializers: Any = None) -> Any:
        """Return the next message. Raises CommClosedError if the connection ends."""
        try:
            (size,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            frames = unpack_frames(await self._reader.readexactly(size))
        except (OSError, EOFError) as error:
            self.abort()
            raise CommClosedError(f"in {self}: {error}") from error
        except BaseException:  # cancelled in the middle of a message: nobody knows where the next one begins
            self.abort()
            raise
        return await from_frames(
            frames, deserialize=self.deserialize, deserializers=deserializers, allow_offload=self.allow_offload
        )

    async def write(self, msg: Any, serializers: Any = None, on_error: Any = "message") -> int:
        """Send a message, and return its size in bytes. Raises CommClosedError if the connection has ended."""
        if self.closed():
            raise CommClosedError(f"in {self}")
        context = {"sender": self.local_info, "recipient": self.remote_info, **self.handshake_options}
        packed = pack_frames(
            await to_frames(
                msg, allow_offload=self.allow_offload, serializers=serializers, on_error=on_error, context=context
            )
        )
        if self.closed():  # meanwhile
            raise CommClosedError(f"in {self}")
        self._writer.write(_LENGTH.pack(len(packed)))
        self._writer.write(packed)
        return len(packed)

    async def close(self) -> None:
        """Close the connection once all that was written is sent."""
        self._writer.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._writer.transport.abort()

    def closed(self) -> bool:
        """Return whether the connection has ended."""
        return self._writer.transport.is_closing()


class _UnixListener(BaseListener):
    prefix = f"{SCHEME}://"

    def __init__(self, address: str, handler: Callable[[Comm], Any], deserialize: bool, allow_offload: bool) -> None:
        super().__init__()
        folder, number = parse_host_port(address, 0)
        self._address = unparse_host_port(folder, number or secrets.randbelow(1 << 31) + 1)
        self._handler, self._deserialize, self._allow_offload = handler, deserialize, allow_offload
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Make the socket and listen at it."""
        self._server = await asyncio.start_unix_server(self._accept, _path(self._address), limit=_READ_AHEAD)

    def stop(self) -> None:
        """Listen no longer. Connections stay."""
        if self._server is not None:
            self._server.close()
            Path(_path(self._address)).unlink(missing_ok=True)
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        comm = _UnixComm(reader, writer, self.contact_address, self.contact_address, self._deserialize)
        comm.allow_offload = self._allow_offload
        with contextlib.suppress(CommClosedError):  # before the handshake was over, as when a worker is killed
            await self.on_connection(comm)
            await self._handler(comm)

    @property
    def listen_address(self) -> str:
        """Return the address with its scheme."""
        return self.prefix + self._address

    contact_address = listen_address


class _UnixConnector(Connector):
    async def connect(self, address: str, deserialize: bool = True, **_: Any) -> Comm:
        """Connect to a listener. Raises OSError if there is none."""
        reader, writer = await asyncio.open_unix_connection(_path(address), limit=_READ_AHEAD)
        there = f"{SCHEME}://{address}"
        return _UnixComm(reader, writer, there, there, deserialize)


class _UnixBackend(Backend):
    def get_connector(self) -> Connector:
        """Return what makes connections."""
        return _UnixConnector()

    def get_listener(
        self, loc: str, handle_comm: Callable[[Comm], Any], deserialize: bool, allow_offload: bool = True, **_: Any
    ) -> BaseListener:
        """Return a listener that is not started yet."""
        return _UnixListener(loc, handle_comm, deserialize, allow_offload)

    def get_address_host(self, loc: str) -> str:
        """Return the folder."""
        return str(parse_host_port(loc, 0)[0])

    def get_address_host_port(self, loc: str) -> tuple[str, int]:
        """Return the folder, and the socket's number."""
        folder, number = parse_host_port(loc, 0)
        return str(folder), int(number)

    def resolve_address(self, loc: str) -> str:
        """Return the address as it is."""
        return loc

    def get_local_address_for(self, loc: str) -> str:
        """Return an address to listen at that is in the same folder."""
        return unparse_host_port(self.get_address_host(loc), 0)


def _path(address: str) -> str:
    folder, number = parse_host_port(address)
    return str(Path(folder) / str(number))


backends[SCHEME] = _UnixBackend()
