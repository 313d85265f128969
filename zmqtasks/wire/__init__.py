"""Bytes to messages and back; payload serializers. Pure: no sockets, no clock."""
