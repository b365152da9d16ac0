"""What holds for all tests: properties have no deadline, as kernels compile at first use."""

from hypothesis import settings

settings.register_profile("kme", deadline=None, print_blob=True)
settings.load_profile("kme")
