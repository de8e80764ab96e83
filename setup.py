"""Names the C extension to setuptools, which cannot be done in pyproject.toml, where everything else is."""

from setuptools import setup

setup(cffi_modules=["csrc/build_core.py:ffibuilder"])
