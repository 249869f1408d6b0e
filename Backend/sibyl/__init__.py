"""Sibyl takes questions over REST, runs the blocking generation of a language model behind a task queue in
Redis, and streams the answer to any number of readers. This package promises nothing by itself: import the
part you need; for a program that asks, that is `sibyl.client`."""

__version__ = "0.1.0"
