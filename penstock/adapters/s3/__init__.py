"""The production object store: MinIO and any other S3 endpoint, over a thin asynchronous client of our own.

Ready-made clients either start slowly or refuse keys that S3 allows (`a//b`, `..`, a newline); what is needed of S3 is
small enough to be written here strictly: signed requests, exact keys, typed errors, and nothing done twice.
"""

from penstock.adapters.s3.config import S3Config
from penstock.adapters.s3.endpoint import Style
from penstock.adapters.s3.sigv4 import Credentials
from penstock.adapters.s3.store import S3Store
from penstock.adapters.s3.uploads import Written

__all__ = ["Credentials", "S3Config", "S3Store", "Style", "Written"]
