"""What a task is: its nouns, events, states, order and errors. Standard library only; no clock, no random, no await."""
