"""Runs attempts: claims tasks, generates their answers in threads, appends them to the logs, settles. No HTTP."""
