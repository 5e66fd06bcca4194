"""The only sockets and the only loop. Knows no stopping rule: sessions decide, this sends and listens."""
