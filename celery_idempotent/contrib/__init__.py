"""Adapters for packages that not every project has.

Nothing here is imported unless a project does it.
"""
