"""The reference trainer behind the command line (extra `labeldist[train]`)."""
