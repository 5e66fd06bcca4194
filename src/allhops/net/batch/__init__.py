"""Many destinations on one loop: the windows of `allhops.core.batch`, and ways to the wire that are fit for them."""
