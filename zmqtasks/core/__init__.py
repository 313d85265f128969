"""The rules of the mesh as pure state machines.

A machine takes an event and the time and leaves effects behind: no socket, clock,
disk, thread, log or randomness in here. ``mesh.py`` composes the machines into one
node; ``zmqtasks/node`` carries the effects out on real sockets, ``tests/simulation``
on simulated ones.
"""
