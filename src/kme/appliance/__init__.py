"""appliance - one module per service of the appliance: its settings, and how it is composed."""
