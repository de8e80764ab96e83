"""Object stores that are not S3, through obstore: Google Cloud Storage and Azure Blob Storage.

store       obstore as the file system of buckets (vhostfs.backends.s3) wants a store
settings    the keys of the configuration
"""

from vhostfs.backends.obstore.settings import AzureSettings, GcsSettings

__all__ = ["AzureSettings", "GcsSettings"]
