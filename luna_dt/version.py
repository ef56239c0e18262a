"""The one version number; the changelog and the wheel say the same."""

__version__ = "0.1.0"
