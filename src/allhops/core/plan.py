"""A trace is a plan of slots: the dense integer index of every probe that may be sent.

    slot = ((destination * flows + flow) * ttls + ttl - first_ttl) * row + attempt

A row of slots is all that may be sent at one TTL: the attempts that the caller asked for, and a few spare ones, for a
row that is asked again. A *course* is one flow to one destination: the slots that together show one path. This file
knows no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from allhops.errors import UsageError
from allhops.options import MAX_SIZE
from allhops.wire.probes import LAYOUTS, Flow, Template, build_template

if TYPE_CHECKING:
    from allhops.options import TraceOptions
    from allhops.wire.probes import Layout


SPARE_ATTEMPTS = 6
"""How often one row may be asked again. With the most attempts that a caller may ask for, a mark has room for them."""


def size_of_probe(layout: Layout, options: TraceOptions) -> int:
    """Bytes of a whole probe.

    Raises: UsageError when there is no room for what names the probe.
    """
    if options.discover_mtu:
        return MAX_SIZE
    size = options.size or layout.family.default_size
    if size < layout.smallest_size:
        raise UsageError(
            f"size must be at least {layout.smallest_size} for {options.protocol} over IPv{layout.family.version}, "
            f"not {size}: the probe's name has to fit"
        )
    return size


def check_size(options: TraceOptions) -> None:
    """Refuse a size that no destination can have. Raises: UsageError."""
    size_of_probe(LAYOUTS[options.protocol, options.ip_version or 4], options)  # IPv6 needs more than IPv4


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is fixed before the first probe leaves.

    `destinations` and `source` are packed addresses, 4 or 16 bytes; `source_ports` are the leased ports
    (ICMP: identifiers), one a flow; `key` (16 bits) and `cookie` (4 bytes) are random, new for every session; `size` is
    that of a whole probe, bytes. `spare_attempts` is how often one row may be asked again.
    """

    layout: Layout
    options: TraceOptions
    destinations: tuple[bytes, ...]
    source: bytes
    source_ports: tuple[int, ...]
    key: int
    cookie: bytes
    size: int
    spare_attempts: int = SPARE_ATTEMPTS
    ttls: int = field(init=False)
    slots_per_course: int = field(init=False)
    courses: int = field(init=False)
    slots_per_row: int = field(init=False)
    prepared: dict[str, Any] = field(init=False, default_factory=dict, repr=False, compare=False)
    """What a lane works out once a plan, by the lane's name; as good as the rest of the plan, so never part of it."""
    _templates: dict[int, Template] = field(init=False, default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        ttls = self.options.max_ttl - self.options.first_ttl + 1
        object.__setattr__(self, "ttls", ttls)
        object.__setattr__(self, "slots_per_row", self.options.attempts + self.spare_attempts)
        object.__setattr__(self, "slots_per_course", ttls * self.slots_per_row)
        object.__setattr__(self, "courses", len(self.destinations) * len(self.source_ports))

    @property
    def slots(self) -> int:
        """How many slots there are in all."""
        return self.courses * self.slots_per_course

    @cached_property
    def destination_index(self) -> dict[bytes, int]:
        """Packed address to position in `destinations`."""
        return {address: index for index, address in enumerate(self.destinations)}

    @cached_property
    def first_bytes(self) -> frozenset[int]:
        """First bytes of the destinations: no responder's address is impossible if a destination's is of its sort."""
        return frozenset(b"".join(self.destinations)[:: self.layout.family.address_size])

    @cached_property
    def flow_index(self) -> dict[int, int]:
        """Source port to position in `source_ports`."""
        return {port: index for index, port in enumerate(self.source_ports)}

    def slot(self, course: int, ttl: int, attempt: int) -> int:
        """Slot of the probe with this TTL and attempt (from 0) on this course."""
        return (course * self.ttls + ttl - self.options.first_ttl) * self.slots_per_row + attempt

    def row(self, course: int, ttl: int) -> range:
        """Slots of one TTL, in order of attempt, the spare ones last."""
        start = self.slot(course, ttl, 0)
        return range(start, start + self.slots_per_row)

    def is_spare(self, slot: int) -> bool:
        """Whether a slot is beyond the attempts that the caller asked for."""
        return self.attempt_of(slot) >= self.options.attempts

    def course_slots(self, course: int) -> range:
        """Slots of one course, in order of TTL and attempt."""
        start = course * self.slots_per_course
        return range(start, start + self.slots_per_course)

    def course_of(self, slot: int) -> int:
        """Course that a slot belongs to."""
        return slot // self.slots_per_course

    def ttl_of(self, slot: int) -> int:
        """TTL of a slot's probe."""
        return slot // self.slots_per_row % self.ttls + self.options.first_ttl

    def attempt_of(self, slot: int) -> int:
        """Attempt of a slot's probe, from 0."""
        return slot % self.slots_per_row

    def destination_of(self, course: int) -> bytes:
        """Packed destination of a course."""
        return self.destinations[course // len(self.source_ports)]

    def source_port_of(self, course: int) -> int:
        """Source port of a course."""
        return self.source_ports[course % len(self.source_ports)]

    def template(self, course: int) -> Template:
        """The probe of a course that lacks only TTL and mark; built once."""
        template = self._templates.get(course)
        if template is None:
            flow = self.flow(self.destination_of(course), self.source_port_of(course))
            template = self._templates[course] = build_template(self.layout, flow)
        return template

    def flow(self, destination: bytes, source_port: int) -> Flow:
        """What every probe from this port to this destination has in common."""
        return Flow(
            source=self.source,
            destination=destination,
            source_port=source_port,
            destination_port=self.options.destination_port or 0,
            key=self.key,
            cookie=self.cookie,
            size=self.size,
            tos=self.options.tos,
            dont_fragment=self.options.dont_fragment,
            flow_label=self.options.flow_label or 0,
        )
