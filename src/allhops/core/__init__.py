"""Decisions: what to probe, what a reply means, when a path is complete. Sans-IO: time is an argument."""
