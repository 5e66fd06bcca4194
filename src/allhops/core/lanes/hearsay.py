"""What a row of the ring does not have from the wire.

A raw socket hands over the reply itself. Without privilege the kernel only tells of it: who said what about which
packet, and as much of the quote as follows the headers that it read itself. The net writes that down as the packet
it stood for, so that everything above stays the same, and says here which parts of it nobody saw: they are
fillers or copies of what was sent, and prove nothing. 0 is a reply seen whole.

Bits of one byte a row. This file knows no packet.
"""

from __future__ import annotations

SEEN_WHOLE = 0
REPLY_TTL = 1
"""The TTL of the reply itself is a filler."""
QUOTED_HEADER = 2
"""Of the quoted IP header only addresses and protocol are real: no TTL, TOS, length or ID."""
QUOTED_CHECKSUM = 4
"""The transport checksum in the quote is a filler."""
NAMELESS = 8
"""Nothing that was quoted names a probe: it is about some probe of this flow."""
NAMED_BY_SOCKET = 16
"""The kernel matched the reply to a socket that sent one probe only; the quote, name included, is a copy of it."""
NAMED_ALONE = 32
"""The quote names no probe, but only one row's was out: the quote, name included, is a copy of that probe."""
