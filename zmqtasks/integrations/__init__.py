"""Other frameworks. Each module needs an extra of its own, and nothing else needs them."""
