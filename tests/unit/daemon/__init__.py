"""The daemon around the data plane: logs, sockets, sandbox, life and death."""
