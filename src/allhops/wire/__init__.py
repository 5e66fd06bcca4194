"""Bytes to numbers and back: the rules of the protocols, with no clock and no socket."""
