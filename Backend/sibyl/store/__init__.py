"""All of Redis, and only Redis: the queue of tasks, the logs of their answers, and those who follow them."""
