"""python -m kme - the command `kme`."""

from kme.cli import main

if __name__ == "__main__":
    main()
