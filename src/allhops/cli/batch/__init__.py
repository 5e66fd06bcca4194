"""`allhops batch`: a list of destinations in, a file of traces out, every line of the list accounted for.

    list -> lines -> destinations -> sieve (excluded, other shards, seen, finished) -> engine -> output

Nothing here holds the list: memory grows with 5 bytes for each IPv4 address that was seen, 18 for each IPv6 one.
"""
