"""``python -m qkd_sim`` is ``qkd-sim``."""

from qkd_sim.cli import main

if __name__ == "__main__":
    main()
