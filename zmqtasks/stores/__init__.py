"""Result stores: where outcomes are kept and read.

``base.py`` is the contract, ``registry.py`` finds a store by its URL; the others are
back ends, imported only when their URL is used.
"""
