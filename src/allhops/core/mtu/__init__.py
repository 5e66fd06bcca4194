"""The path MTU, hop by hop: the rest of the path is asked again with a smaller size wherever one did not fit.

sizes.py      which sizes are worth asking
found.py      which size is known to have reached which row
discovery.py  what to ask next: rounds of sizes
session.py    rounds as sessions, behind the six calls of one
"""
