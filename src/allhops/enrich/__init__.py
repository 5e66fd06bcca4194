"""What others say about an address: names. Decoration only, keys and exit statuses never depend on it."""
