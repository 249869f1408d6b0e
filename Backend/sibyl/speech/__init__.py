"""Speech to text: recognisers that block in a thread, and the session that turns what they hear into messages."""
