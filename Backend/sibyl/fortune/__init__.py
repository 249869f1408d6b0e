"""A fortune: one of sixty-four small poems, drawn by a number, and the messages that ask a model to read it for a
question. The same number draws the same poem for ever. This package does no I/O beyond its own `poems.json`, and
knows neither the queue nor the model that will answer."""
