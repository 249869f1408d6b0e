"""The recogniser `pocketsphinx`: embedded, English, in processes of its own, since it holds Python's lock."""
