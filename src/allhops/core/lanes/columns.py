"""Replies as columns: the same numbers as a `ReplyRow`, thousands at a time.

This file knows no packet's layout and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.answers import FIELDS, OPAQUE, record_of
from allhops.core.lanes.rows import ReplyRow, Sighting
from allhops.core.ledger import ADDRESS_BYTES, ANSWER_SIZE
from allhops.wire.probes import COOKIE_SIZE, LAYOUTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.model import Extension
    from allhops.wire.probes import Layout

NOT_SHOWN = -1
"""In a column of words: the reply does not show it."""

LAYOUT_CODES = tuple(LAYOUTS.values())
"""Column value to layout."""
CODE_OF = {(layout.family.version, layout.protocol): code for code, layout in enumerate(LAYOUT_CODES)}
"""(IP version, protocol number) to column value."""

_ADDRESSES = ("responder", "source", "destination")
_OF_ANSWER = {
    "responder": "responder",
    "stamp_ns": "received_ns",
    "mtu": "mtu",
    "kind": "kind",
    "icmp_type": "icmp_type",
    "icmp_code": "icmp_code",
    "reply_ttl": "reply_ttl",
    "quoted_ttl": "quoted_ttl",
    "quoted_tos": "quoted_tos",
    "port_state": "port_state",
    "hearsay": "hearsay",
}
"""Fields that a first reply brings into the ledger, and their names there."""
_OF_PROBE = np.dtype(
    [
        ("source", "u8", (2,)),
        ("destination", "u8", (2,)),
        ("peer", "i4"),
        ("mark", "i4"),
        ("balance", "i4"),
        ("cookie", "u4"),
        ("extensions", "i4"),
        ("flow", "u2"),
        ("ip_id", "u2"),
        ("checksum", "u2"),
        ("layout", "u1"),
        ("has_cookie", "?"),
        ("is_quote", "?"),
    ],
    align=True,
)


def _row() -> np.dtype[np.void]:
    """An answer, once by its fields and once as it stands in the ledger; behind it what is shown of the probe."""
    fields = {name: FIELDS[field] for name, field in _OF_ANSWER.items()} | {"answer": (OPAQUE, 0)}
    assert _OF_PROBE.fields is not None  # it has some
    for name, (of, offset, *_) in _OF_PROBE.fields.items():
        fields[name] = of, ANSWER_SIZE + offset
    return record_of(fields, ANSWER_SIZE + _OF_PROBE.itemsize)


ROW = _row()
"""One reply. Fields are those of `ReplyRow` and `Sighting`; addresses are 16 bytes, left-aligned, as two numbers that
only equality means something to; `cookie` is a big-endian number; words that are not shown are `NOT_SHOWN`, IDs and
checksums 0: no probe leaves with such a one, so who shows that has wiped it out; `extensions` is an index into the list
beside the columns. `answer` is what a first reply makes of its slot."""

_WORDS = {"peer": NOT_SHOWN, "mark": NOT_SHOWN, "balance": NOT_SHOWN, "ip_id": 0, "checksum": 0}
"""What stands for those that are not shown."""
_OF_ROWS = [name for name in _OF_ANSWER if name not in _ADDRESSES]
_PLAIN = [name for name in ROW.names or () if name not in (*_ADDRESSES, "answer")]


class VectorReplies:
    """n replies in the order of their arrival. `extensions[0]` is (), what nearly every reply has."""

    __slots__ = ("columns", "extensions")

    def __init__(self, columns: NDArray[Any], extensions: list[tuple[Extension, ...] | None]) -> None:
        self.columns = columns
        self.extensions = extensions

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def flow(self) -> NDArray[np.uint16]:
        """(n,): source port or identifier of the probes."""
        return self._column("flow")

    def is_about(self, layout: Layout) -> NDArray[np.bool_]:
        """(n,): whether probes are laid out like this."""
        about: NDArray[np.bool_] = self.columns["layout"] == CODE_OF[layout.family.version, layout.protocol]
        return about

    @property
    def cookie(self) -> NDArray[np.uint32]:
        """(n,): the cookie as a big-endian number; of those that show none, see `has_cookie`, 0."""
        return self._column("cookie")

    @property
    def has_cookie(self) -> NDArray[np.bool_]:
        """(n,): whether a reply shows a cookie, ours or not."""
        return self._column("has_cookie")

    @property
    def is_bare(self) -> NDArray[np.bool_]:
        """(n,): `Sighting.is_bare`."""
        columns = self.columns
        bare: NDArray[np.bool_] = ~columns["has_cookie"] & (columns["balance"] < 0) & (columns["checksum"] == 0)
        return bare

    def select(self, which: NDArray[np.bool_] | NDArray[np.integer[Any]]) -> VectorReplies:
        """Those that a mask (n,) or an array of positions names."""
        index = np.flatnonzero(which) if which.dtype == np.bool_ else which
        return VectorReplies(self.columns.take(index), self.extensions)

    def rows(self) -> list[ReplyRow]:
        """Every reply as the scalar lane has it."""
        addresses = zip(*(_sixteens(self.columns[name]) for name in _ADDRESSES), strict=True)
        # Column by column: a value at a time costs 15 us a reply.
        rest = zip(*(self.columns[name].tolist() for name in _PLAIN), strict=True)
        return [
            self._row(places, dict(zip(_PLAIN, values, strict=True)))
            for places, values in zip(addresses, rest, strict=True)
        ]

    def _row(self, addresses: tuple[bytes, ...], values: dict[str, Any]) -> ReplyRow:
        layout = LAYOUT_CODES[values["layout"]]
        responder, source, destination = (address[: layout.family.address_size] for address in addresses)
        return ReplyRow(
            stamp_ns=values["stamp_ns"],
            kind=values["kind"],
            responder=responder,
            reply_ttl=values["reply_ttl"],
            icmp_type=values["icmp_type"],
            icmp_code=values["icmp_code"],
            quoted_ttl=values["quoted_ttl"],
            quoted_tos=values["quoted_tos"],
            mtu=values["mtu"],
            port_state=values["port_state"],
            extensions=self.extensions[values["extensions"]],
            probe=Sighting(
                layout=layout,
                source=source,
                destination=destination,
                flow=values["flow"],
                **{name: None if values[name] == nothing else values[name] for name, nothing in _WORDS.items()},
                cookie=values["cookie"].to_bytes(COOKIE_SIZE, "big") if values["has_cookie"] else None,
                is_quote=values["is_quote"],
            ),
            hearsay=values["hearsay"],
        )

    def _column(self, name: str) -> NDArray[Any]:
        column: NDArray[Any] = self.columns[name]
        return column


def columns_of(rows: list[ReplyRow], extensions: list[tuple[Extension, ...] | None]) -> NDArray[Any]:
    """(n,) of `ROW` for the scalar lane's rows; their extensions are put behind those that are there."""
    columns = np.zeros(len(rows), ROW)
    probes = [row.probe for row in rows]
    for name, addresses in (
        ("responder", [row.responder for row in rows]),
        ("source", [probe.source for probe in probes]),
        ("destination", [probe.destination for probe in probes]),
    ):
        packed = b"".join(address.ljust(ADDRESS_BYTES, b"\0") for address in addresses)
        columns[name] = np.frombuffer(packed, np.uint64).reshape(-1, 2)
    for name in _OF_ROWS:
        columns[name] = [getattr(row, name) for row in rows]
    for name, nothing in _WORDS.items():
        words = [getattr(probe, name) for probe in probes]
        columns[name] = [nothing if word is None else word for word in words]
    columns["flow"] = [probe.flow for probe in probes]
    columns["is_quote"] = [probe.is_quote for probe in probes]
    columns["layout"] = [CODE_OF[probe.layout.family.version, probe.layout.protocol] for probe in probes]
    columns["has_cookie"] = [probe.cookie is not None for probe in probes]
    columns["cookie"] = [int.from_bytes(probe.cookie or b"", "big") for probe in probes]
    for position, row in enumerate(rows):
        if row.extensions != ():
            columns["extensions"][position] = len(extensions)
            extensions.append(row.extensions)
    return columns


def _sixteens(addresses: NDArray[np.uint64]) -> list[bytes]:
    packed = addresses.tobytes()
    return [packed[start : start + ADDRESS_BYTES] for start in range(0, len(packed), ADDRESS_BYTES)]
