"""All is in pyproject.toml but this: the top-level conf/ becomes the package data `meowtea.conf` of the wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["meowtea", "meowtea.*"]), "meowtea.conf"],
    package_dir={"meowtea.conf": "conf"},
    package_data={"meowtea.conf": ["**/*.yaml"]},
)
