"""The bundled language model: `sibyl-oracle.gguf`, a small oracle that answers in a few sentences, and its model card.
It promises that a first run needs no download. How it was made stands in `Backend/training/`; who loads it is
`sibyl.engines.library`."""
