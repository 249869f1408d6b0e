"""``python -m sibyl``: the same as the command ``sibyl``."""

from sibyl.cli import main

if __name__ == "__main__":
    main()
