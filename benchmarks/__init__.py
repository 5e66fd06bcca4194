"""Measurements, side by side with the peers in one run. `make bench` runs all of them and prints the table."""
