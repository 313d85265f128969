"""Where user code runs: pools, the processes they keep, and the protocol between."""
