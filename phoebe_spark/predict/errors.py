"""What can be wrong with a model bundle; the whole tree.

::

    BundleError
    ├── BundleMissing     nothing was promoted under this home yet
    ├── BundleDamaged     a file is missing, truncated, or its sha256 differs
    ├── BundleFormat      written in a format that this version does not know
    └── BundleRemote      the home is not a directory of this machine
"""

from __future__ import annotations


class BundleError(Exception):
    """The bundle cannot be used; its message is one line for the driver's log."""


class BundleMissing(BundleError):  # noqa: N818 - named for what is the matter
    """Nothing was promoted under this home yet: run ``phoebe train``."""


class BundleDamaged(BundleError):  # noqa: N818
    """A file of the bundle is missing, or is not what was written."""


class BundleFormat(BundleError):  # noqa: N818
    """The bundle's format is unknown to this version."""


class BundleRemote(BundleError, ValueError):  # noqa: N818
    """The home is a URI: models are trained and loaded under a local directory only."""
