"""Notebooks over many inputs and settings: papermill on Dask."""
