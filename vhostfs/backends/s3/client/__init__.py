"""The S3 client: an ObjectStore over HTTP/1.1, with bodies received where they will stay.

signing signs; connection speaks HTTP over one socket; pool keeps connections; retrying decides what is tried
again; endpoints, documents and answers know how S3 spells things; credentials finds who we are; client puts
them together.
"""
