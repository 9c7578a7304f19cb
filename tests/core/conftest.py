"""Properties of pure rules have no deadline: a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("kvfs", deadline=None)
settings.load_profile("kvfs")
