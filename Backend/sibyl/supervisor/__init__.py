"""What ``sibyl serve`` starts, watches and ends."""
