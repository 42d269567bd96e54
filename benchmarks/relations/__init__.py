"""What a relation of the classes does, measured with controls; see `__main__.py`."""
