"""operator: what a person asks of this KME, one command each (logic: kme.appliance.operator)."""

from kme.appliance.operator.cli import main

if __name__ == "__main__":
    main()
