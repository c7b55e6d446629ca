"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How fast a machine draws examples says nothing about psync; one that is busy would fail at random.
settings.register_profile("psync", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("psync")
