"""Why a trace ended, as one line for stderr: the text on stdout has no place for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allhops.cli.counted import counted
from allhops.model import ProbeState, ReplyKind, StopReason, Trace

if TYPE_CHECKING:
    from collections.abc import Callable


def why_it_ended(trace: Trace) -> str | None:
    """One sentence with the stop reason, or None when the destination was reached."""
    if trace.stop_reason is StopReason.REACHED:
        return None
    return f"{trace.destination}: {_SENTENCES[trace.stop_reason](trace)} ({trace.stop_reason})"


def what_was_not_sent(trace: Trace) -> str | None:
    """One sentence when some stars are this machine's doing: silence must not be invented."""
    lost = sum(probe.state is ProbeState.LOCAL_ERROR for hop in trace.hops for probe in hop.probes)
    if not lost or trace.stop_reason is StopReason.LOCAL_ERROR:
        return None
    return (
        f"{trace.destination}: {counted(lost, 'of the stars is', 'of the stars are')} this machine's own doing: "
        "probes that could not leave, or were out when its network was down"
    )


def which_flow_was_not(trace: Trace) -> str | None:
    """One sentence when the rows may belong to several paths."""
    if trace.flow_constant or trace.flow is None:
        return None
    return (
        f"{trace.destination}: without root each {trace.protocol} probe has a source port of its own, "
        "so load balancers may have sent them different ways"
    )


def what_was_dropped(packets: int) -> str | None:
    """One sentence when replies were lost on this machine: a star may then be an answer that nobody read."""
    if not packets:
        return None
    lost = counted(packets, "packet was lost here, which", "packets were lost here, which")
    return f"at least {lost} came faster than this machine reads: try a lower --rate"


def _unreachable(trace: Trace) -> str:
    for hop in reversed(trace.hops):
        for probe in hop.probes:
            if probe.reply is not None and probe.reply.kind is ReplyKind.UNREACHABLE:
                return f"{probe.reply.address} at hop {hop.ttl} says that it cannot be reached"
    return "somebody says that it cannot be reached"


def _gap_limit(trace: Trace) -> str:
    last = _last_answer(trace)
    return f"no answer after hop {last}" if last else "no answer from any hop"


def _max_ttl(trace: Trace) -> str:
    return f"not reached by hop {trace.hops[-1].ttl}: a larger -m looks further"


def _loop(trace: Trace) -> str:
    return f"the path has run in a circle by hop {trace.hops[-1].ttl}"


def _interrupted(trace: Trace) -> str:
    last = _last_answer(trace)
    return f"interrupted after hop {last}" if last else "interrupted before any hop answered"


def _local_error(trace: Trace) -> str:
    return trace.error or "this machine could not send the probes"


def _last_answer(trace: Trace) -> int:
    """TTL of the last hop that answered, 0 if none did."""
    return max((hop.ttl for hop in trace.hops if any(probe.reply for probe in hop.probes)), default=0)


_SENTENCES: dict[StopReason, Callable[[Trace], str]] = {
    StopReason.UNREACHABLE: _unreachable,
    StopReason.GAP_LIMIT: _gap_limit,
    StopReason.MAX_TTL: _max_ttl,
    StopReason.LOOP: _loop,
    StopReason.INTERRUPTED: _interrupted,
    StopReason.LOCAL_ERROR: _local_error,
    StopReason.BAD_DESTINATION: _local_error,
}
