"""The border between blocking threads and one event loop: what crosses it, in which order, and how it ends.

The one package that enters and leaves threads for work. It knows neither engines nor Redis.
"""
