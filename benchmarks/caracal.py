"""caracal as a command: `caracal.py INTERFACE PROBES.csv REPLIES.csv RATE|none`, by pycaracal."""

from __future__ import annotations

import sys

from pycaracal import prober

WAIT_S = 1
AS_FAST_AS_IT_GOES = 10_000_000


def main() -> None:
    """Read, send, listen, write."""
    interface, probes, replies, rate = sys.argv[1:]
    config = prober.Config()
    config.set_interface(interface)
    config.set_output_file_csv(replies)
    config.set_sniffer_wait_time(WAIT_S)
    if rate == "none":
        config.set_rate_limiting_method("none")
        config.set_probing_rate(AS_FAST_AS_IT_GOES)
    else:
        config.set_probing_rate(int(rate))
    _, _, pcap = prober.probe(config, probes)
    print(f"dropped {pcap.dropped}")


if __name__ == "__main__":
    main()
