"""From files, folders, lists or a hub to a corpus with three splits."""
