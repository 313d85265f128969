"""ZeroMQ: the only package that imports ``zmq``."""
