"""vhost-user on the wire: messages and the protocol as a sans-IO state machine."""
