"""Finding peers: the same-host directory, mDNS, static addresses, the cache.

Each way yields candidates. What is found is never trusted (keys decide who may join)
and never taken for alive (links tell that).
"""
