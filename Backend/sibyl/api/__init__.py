"""HTTP, thin: checks what comes in, asks the store, and streams what the store says. It never loads a model."""
